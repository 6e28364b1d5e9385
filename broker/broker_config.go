package broker

import (
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker/cluster"
)

// brokerConfig is a config of this node that is fixed while it runs, under the name that Kafka's tools look for.
type brokerConfig struct {
	name, value, def, doc string
	kind                  cluster.ConfigType
}

// brokerConfigs returns the configs of this node that cannot be changed while it runs: what its options say, and what is so by design.
func (s *Server) brokerConfigs() []brokerConfig {
	number := func(name string, value, def int64, doc string) brokerConfig {
		kind := cluster.ConfigInt
		if strings.HasSuffix(name, ".ms") {
			kind = cluster.ConfigLong
		}
		return brokerConfig{name: name, value: strconv.FormatInt(value, 10), def: strconv.FormatInt(def, 10), kind: kind, doc: doc}
	}
	duration := func(name string, value, def time.Duration, doc string) brokerConfig {
		return number(name, value.Milliseconds(), def.Milliseconds(), doc)
	}
	text := func(name, value, def, doc string) brokerConfig {
		return brokerConfig{name: name, value: value, def: def, kind: cluster.ConfigString, doc: doc}
	}
	yes := func(name string, value bool, doc string) brokerConfig {
		return brokerConfig{name: name, value: strconv.FormatBool(value), def: "true", kind: cluster.ConfigBoolean, doc: doc}
	}
	o := &s.opts
	listen, advertised := s.listenerConfigs()
	return []brokerConfig{
		number("node.id", int64(o.NodeID), -1, "This node's id."),
		number("broker.id", int64(o.NodeID), -1, "This node's id."),
		text("process.roles", "broker,controller", "", "A node holds records and metadata alike."),
		text("log.dirs", s.logDir(), "", "The directory that holds everything."),
		text("listeners", listen, "", "The addresses that clients connect to."),
		text("advertised.listeners", advertised, "", "The addresses that answers carry."),
		number("num.partitions", int64(o.DefaultPartitions), 16, "Partitions of a topic whose creator names no number."),
		number("default.replication.factor", 1, 1, "There is one node."),
		yes("auto.create.topics.enable", *o.AutoCreateTopics, "Whether Metadata creates topics that clients ask for."),
		yes("delete.topic.enable", true, "Topics can be deleted."),
		duration("connections.max.idle.ms", o.IdleTimeout, 10*time.Minute, "A connection on which nothing is asked for so long is closed."),
		number("max.connections", int64(o.MaxConnections), 10_000, "TCP connections over all listeners."),
		number("socket.request.max.bytes", int64(o.FrameBytesMax), 100<<20, "The largest Produce request."),
		number("fetch.max.bytes", int64(o.FetchMaxBytes), 55<<20, "The most that one Fetch answers."),
		number("max.incremental.fetch.session.cache.slots", fetchSessionSlots, fetchSessionSlots, "Fetch sessions that are kept."),
		number("max.request.partition.size.limit", describePartitionsMax, describePartitionsMax, "Partitions in one answer to DescribeTopicPartitions."),
		duration("group.initial.rebalance.delay.ms", o.GroupInitialRebalanceDelay, 0, "How long an empty group waits for more members."),
		duration("group.min.session.timeout.ms", 6*time.Second, 6*time.Second, "The shortest session timeout of a classic group's member."),
		duration("group.max.session.timeout.ms", 30*time.Minute, 30*time.Minute, "The longest session timeout of a classic group's member."),
		duration("group.consumer.session.timeout.ms", o.ConsumerGroupSession, 45*time.Second, "The session timeout of a consumer group's member (KIP-848)."),
		duration("group.consumer.heartbeat.interval.ms", o.ConsumerGroupHeartbeat, 5*time.Second, "How often a consumer group's member is heard (KIP-848)."),
		text("group.consumer.assignors", "uniform,range", "uniform,range", "What a consumer group can be assigned by (KIP-848)."),
		number("offsets.retention.minutes", 7*24*60, 7*24*60, "How long offsets of an empty group are kept."),
		number("offsets.topic.num.partitions", internalCount, internalCount, "Partitions of "+offsetsTopic+"."),
		number("offsets.topic.replication.factor", 1, 1, "There is one node."),
		number("transaction.state.log.num.partitions", internalCount, internalCount, "Partitions of "+txnStateTopic+"."),
		number("transaction.state.log.replication.factor", 1, 1, "There is one node."),
		number("transaction.state.log.min.isr", 1, 1, "There is one node."),
		duration("transaction.max.timeout.ms", 15*time.Minute, 15*time.Minute, "The longest timeout of a transaction."),
		duration("transactional.id.expiration.ms", 7*24*time.Hour, 7*24*time.Hour, "A transactional id that is not used for so long is forgotten."),
		duration("producer.id.expiration.ms", 24*time.Hour, 24*time.Hour, "A producer that writes nothing for so long is forgotten by a partition."),
	}
}

// listenerConfigs returns the TCP listeners as Kafka writes them: NAME://host:port, with commas between.
func (s *Server) listenerConfigs() (listen, advertised string) {
	var ls, as []string
	for _, l := range s.listeners[1:] {
		name := strings.ToUpper(l.name) + "://"
		ls, as = append(ls, name+l.tcp.Addr().String()), append(as, name+l.advertised())
	}
	return strings.Join(ls, ","), strings.Join(as, ",")
}
