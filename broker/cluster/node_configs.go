package cluster

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Configs of nodes that may be changed while they run (KIP-226): the defaults of topic configs, under the names that Kafka gives them for
// brokers, and rates for what has no traffic here. They are set for one node, or for all ("").

// nodeNames says how the default of a topic config is called in a node's configuration.
func nodeNames() map[string]string {
	return map[string]string{
		CleanupPolicy: "log.cleanup.policy", CompressionType: "compression.type", DeleteRetentionMs: "log.cleaner.delete.retention.ms",
		MaxCompactionLag: "log.cleaner.max.compaction.lag.ms", MaxMessageBytes: "message.max.bytes", TimestampType: "log.message.timestamp.type",
		MinCleanableRatio: "log.cleaner.min.cleanable.ratio", MinCompactionLag: "log.cleaner.min.compaction.lag.ms",
		MinInsyncReplicas: "min.insync.replicas", RetentionBytes: "log.retention.bytes", RetentionMs: "log.retention.ms",
		SegmentBytes: "log.segment.bytes", SegmentMs: "log.roll.ms",
	}
}

// NodeConfigName returns the node config that is the default of a topic config; the topic config's own name where there is none.
func NodeConfigName(topicConfig string) string {
	if n, ok := nodeNames()[topicConfig]; ok {
		return n
	}
	return topicConfig
}

// NodeConfigDefs returns every node config that may be changed while nodes run, by name. The caller owns the slice.
func NodeConfigDefs() []ConfigDef {
	names := nodeNames()
	var defs []ConfigDef
	for _, d := range ConfigDefs() {
		if n, ok := names[d.Name]; ok {
			d.Name, d.Doc = n, "The default of topics' "+d.Name+". "+d.Doc
			defs = append(defs, d)
		}
	}
	for _, name := range []string{"follower.replication.throttled.rate", "leader.replication.throttled.rate", "replica.alter.log.dirs.io.max.bytes.per.second"} {
		defs = append(defs, ConfigDef{
			Name: name, Type: ConfigLong, Default: strconv.FormatInt(math.MaxInt64, 10), max: noMax,
			Doc: "Accepted so that tools which move replicas work; without effect here.",
		})
	}
	slices.SortFunc(defs, func(a, b ConfigDef) int { return strings.Compare(a.Name, b.Name) })
	return defs
}

// NodeConfigDefOf returns the definition of the named node config.
func NodeConfigDefOf(name string) (ConfigDef, bool) {
	for _, d := range NodeConfigDefs() {
		if d.Name == name {
			return d, true
		}
	}
	return ConfigDef{}, false
}

// TopicDefaults returns, by topic config, the defaults that nodeConfigs set.
func TopicDefaults(nodeConfigs map[string]string) map[string]string {
	m := map[string]string{}
	for topic, node := range nodeNames() {
		if v, ok := nodeConfigs[node]; ok {
			m[topic] = v
		}
	}
	return m
}

// ValidateNodeConfigs says what is wrong with a set of node configs, or nil. The error wraps kerr.InvalidConfig and names the config.
func ValidateNodeConfigs(configs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		d, ok := NodeConfigDefOf(name)
		if !ok {
			return errorf(kerr.InvalidConfig, "unknown node config %q", name)
		}
		if err := d.Check(configs[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) setNodeConfigs(c command) outcome {
	all, changed := withConfigs(s.NodeConfigs, c, c.Op == opAlterNodeConfigs)
	if !changed {
		return outcome{unchanged: true}
	}
	s.NodeConfigs, s.NodeConfigsAt = all, s.Version
	return outcome{}
}

// altered returns configs with those of c set and unset.
func altered(configs map[string]string, c command) map[string]string {
	next := maps.Clone(configs)
	if next == nil {
		next = map[string]string{}
	}
	maps.Copy(next, c.Configs)
	for _, name := range c.Unset {
		delete(next, name)
	}
	return next
}
