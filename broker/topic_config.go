package broker

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
)

// topicConfig is a topic's configuration in the form that requests need it; immutable.
type topicConfig struct {
	replica         replica.TopicConfig
	maxMessageBytes int
}

func (s *Server) topicConfigOf(t *cluster.Topic) *topicConfig {
	set := cluster.SettingsOf(t.Configs, s.topicDefaults())
	return &topicConfig{replica: set.Replica, maxMessageBytes: set.MaxMessageBytes}
}

// topicDefaults returns the topic configurations that this server's options change the default of.
func (s *Server) topicDefaults() map[string]string {
	m := map[string]string{}
	if s.opts.SegmentBytes > 0 {
		m[cluster.SegmentBytes] = strconv.FormatInt(s.opts.SegmentBytes, 10)
	}
	return m
}

// configEntry is one configuration of a topic or of this node, as it is described to clients.
type configEntry struct {
	name, value, doc string
	kind             kmsg.ConfigType
	source           kmsg.ConfigSource
	readOnly         bool
	fallback         *string // what counts when it is not set; nil: the same
}

// topicEntries describes a topic's configuration, by name.
func (s *Server) topicEntries(t *cluster.Topic) []configEntry {
	defaults := s.topicDefaults()
	var entries []configEntry
	for _, d := range cluster.ConfigDefs() {
		e := configEntry{name: d.Name, value: d.Default, doc: d.Doc, kind: kmsg.ConfigType(d.Type), source: kmsg.ConfigSourceDefaultConfig}
		if v, ok := defaults[d.Name]; ok {
			e.value, e.source = v, kmsg.ConfigSourceStaticBrokerConfig
		}
		if v, ok := t.Configs[d.Name]; ok {
			e.fallback = new(e.value)
			e.value, e.source = v, kmsg.ConfigSourceDynamicTopicConfig
		}
		entries = append(entries, e)
	}
	return entries
}

// brokerEntries describes this node under the names that Kafka's tools look for. None can be changed while it runs.
func (s *Server) brokerEntries() []configEntry {
	node := strconv.Itoa(int(s.opts.NodeID))
	static := map[string]string{
		"node.id": node, "broker.id": node, "log.dirs": s.opts.DataDir,
		"num.partitions":                       strconv.Itoa(int(s.opts.DefaultPartitions)),
		"auto.create.topics.enable":            strconv.FormatBool(*s.opts.AutoCreateTopics),
		"connections.max.idle.ms":              strconv.FormatInt(s.opts.IdleTimeout.Milliseconds(), 10),
		"max.connections":                      strconv.Itoa(s.opts.MaxConnections),
		"socket.request.max.bytes":             strconv.Itoa(s.opts.FrameBytesMax),
		"fetch.max.bytes":                      strconv.Itoa(s.opts.FetchMaxBytes),
		"group.initial.rebalance.delay.ms":     strconv.FormatInt(s.opts.GroupInitialRebalanceDelay.Milliseconds(), 10),
		"group.consumer.session.timeout.ms":    strconv.FormatInt(s.opts.ConsumerGroupSession.Milliseconds(), 10),
		"group.consumer.heartbeat.interval.ms": strconv.FormatInt(s.opts.ConsumerGroupHeartbeat.Milliseconds(), 10),
		"group.consumer.assignors":             "uniform,range",
		"default.replication.factor":           "1", "min.insync.replicas": "1", "delete.topic.enable": "true",
		"offsets.topic.num.partitions": strconv.Itoa(internalCount), "offsets.topic.replication.factor": "1",
		"transaction.state.log.num.partitions": strconv.Itoa(internalCount), "transaction.state.log.replication.factor": "1",
		"message.max.bytes": strconv.Itoa(cluster.SettingsOf(nil, nil).MaxMessageBytes),
	}
	if len(s.listeners) > 1 {
		l := s.listeners[1]
		static["advertised.listeners"] = "PLAINTEXT://" + l.advertised()
		static["listeners"] = "PLAINTEXT://" + l.tcp.Addr().String()
	}
	entries := make([]configEntry, 0, len(static))
	for _, name := range slices.Sorted(maps.Keys(static)) {
		entries = append(entries, configEntry{
			name: name, value: static[name], kind: kmsg.ConfigTypeString,
			source: kmsg.ConfigSourceStaticBrokerConfig, readOnly: true,
		})
	}
	return entries
}

// createdConfigs is a new topic's configuration as CreateTopics answers it.
func (s *Server) createdConfigs(t *cluster.Topic) (configs []kmsg.CreateTopicsResponseTopicConfig) {
	for _, e := range s.topicEntries(t) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.Source = e.name, &e.value, e.readOnly, int8(e.source)
		configs = append(configs, c)
	}
	return configs
}
