package broker

import (
	"maps"
	"strconv"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
)

// topicConfig is a topic's configuration in the form that requests need it; immutable.
type topicConfig struct {
	cluster.Settings
	replica         replica.TopicConfig
	maxMessageBytes int
}

func (s *Server) topicConfigOf(t *cluster.Topic) *topicConfig {
	set := cluster.SettingsOf(t.Configs, s.topicDefaults())
	return &topicConfig{Settings: set, replica: set.Replica, maxMessageBytes: set.MaxMessageBytes}
}

// topicDefaults returns the topic configs whose default is another here than the table's: by this server's options, or by what was set of
// its configs while it ran.
func (s *Server) topicDefaults() map[string]string {
	m := cluster.TopicDefaults(s.staticDefaults())
	st := s.machine.State()
	maps.Copy(m, cluster.TopicDefaults(st.NodeConfigs[""]))
	maps.Copy(m, cluster.TopicDefaults(st.NodeConfigs[s.nodeName()]))
	return m
}

// staticDefaults returns the node configs that this server's options give for topics.
func (s *Server) staticDefaults() map[string]string {
	m := map[string]string{}
	if s.opts.SegmentBytes > 0 {
		m[cluster.NodeConfigName(cluster.SegmentBytes)] = strconv.FormatInt(s.opts.SegmentBytes, 10)
	}
	return m
}

// nodeName is this node's name as a resource.
func (s *Server) nodeName() string { return strconv.Itoa(int(s.opts.NodeID)) }
