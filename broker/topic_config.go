package broker

import (
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
