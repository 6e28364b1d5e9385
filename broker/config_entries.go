package broker

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// configEntry is one config of a topic or of this node, as it is described to clients.
type configEntry struct {
	name, doc string
	kind      kmsg.ConfigType
	readOnly  bool
	values    []configValue // where it is set; the first counts, the last is the default
}

// configValue is a place where a config is set, under the name it has there: what Kafka calls a synonym.
type configValue struct {
	name, value string
	source      kmsg.ConfigSource
}

func (e *configEntry) value() string             { return e.values[0].value }
func (e *configEntry) source() kmsg.ConfigSource { return e.values[0].source }

// configLayer is a place where node configs are set.
type configLayer struct {
	source kmsg.ConfigSource
	values map[string]string
}

// nodeLayers returns where node configs are set, the one that counts most first: for this node while it ran, for all nodes, in its options.
func (s *Server) nodeLayers(static map[string]string) []configLayer {
	st := s.machine.State()
	return []configLayer{
		{kmsg.ConfigSourceDynamicBrokerConfig, st.NodeConfigs[s.nodeName()]},
		{kmsg.ConfigSourceDynamicDefaultBrokerConfig, st.NodeConfigs[""]},
		{kmsg.ConfigSourceStaticBrokerConfig, static},
	}
}

// inherit adds what the layers and the table say of a node config.
func (e *configEntry) inherit(name, def string, layers []configLayer) {
	for _, l := range layers {
		if v, ok := l.values[name]; ok {
			e.values = append(e.values, configValue{name, v, l.source})
		}
	}
	e.values = append(e.values, configValue{name, def, kmsg.ConfigSourceDefaultConfig})
}

// topicEntries describes a topic's configuration, by name.
func (s *Server) topicEntries(t *cluster.Topic) []configEntry {
	layers := s.nodeLayers(s.staticDefaults())
	var entries []configEntry
	for _, d := range cluster.ConfigDefs() {
		e := configEntry{name: d.Name, doc: d.Doc, kind: kmsg.ConfigType(d.Type)}
		if v, ok := t.Configs[d.Name]; ok {
			e.values = append(e.values, configValue{d.Name, v, kmsg.ConfigSourceDynamicTopicConfig})
		}
		e.inherit(cluster.NodeConfigName(d.Name), d.Default, layers)
		entries = append(entries, e)
	}
	return entries
}

// brokerEntries describes this node's configuration, by name.
func (s *Server) brokerEntries() []configEntry {
	static := s.staticDefaults()
	table := s.brokerConfigs()
	for _, b := range table {
		if b.value != b.def {
			static[b.name] = b.value
		}
	}
	layers := s.nodeLayers(static)
	var entries []configEntry
	for _, b := range table {
		e := configEntry{name: b.name, doc: b.doc, kind: kmsg.ConfigType(b.kind), readOnly: true}
		e.inherit(b.name, b.def, layers)
		entries = append(entries, e)
	}
	for _, d := range cluster.NodeConfigDefs() {
		e := configEntry{name: d.Name, doc: d.Doc, kind: kmsg.ConfigType(d.Type)}
		e.inherit(d.Name, d.Default, layers)
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b configEntry) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return entries
}

// sharedEntries describes what is set for all nodes.
func (s *Server) sharedEntries() []configEntry {
	set := s.machine.State().NodeConfigs[""]
	var entries []configEntry
	for _, name := range slices.Sorted(maps.Keys(set)) {
		e := configEntry{name: name, kind: kmsg.ConfigTypeString}
		if d, ok := cluster.NodeConfigDefOf(name); ok {
			e.doc, e.kind = d.Doc, kmsg.ConfigType(d.Type)
		}
		e.values = []configValue{{name, set[name], kmsg.ConfigSourceDynamicDefaultBrokerConfig}}
		entries = append(entries, e)
	}
	return entries
}

// createdConfigs is a new topic's configuration as CreateTopics answers it.
func (s *Server) createdConfigs(t *cluster.Topic) (configs []kmsg.CreateTopicsResponseTopicConfig) {
	for _, e := range s.topicEntries(t) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.Source = e.name, new(e.value()), e.readOnly, int8(e.source())
		configs = append(configs, c)
	}
	return configs
}
