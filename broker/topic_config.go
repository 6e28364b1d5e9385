package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
)

// topicConfig is a topic's configuration in the form that requests need it; immutable.
type topicConfig struct {
	replica         replica.TopicConfig
	maxMessageBytes int
}

func (s *Server) topicConfigOf(*cluster.Topic) *topicConfig {
	return &topicConfig{maxMessageBytes: 1_048_588}
}

func validateConfigs(map[string]string) error { return nil }

func createdConfigs(t *cluster.Topic) []kmsg.CreateTopicsResponseTopicConfig { return nil }

func stub(_ *Server, _ *conn, req kmsg.Request) pending { return answer(req.ResponseKind()) }

var handleDescribeConfigs, handleAlterConfigs, handleIncrementalAlterConfigs = stub, stub, stub
