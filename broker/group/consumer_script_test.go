package group_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// topicSet is a script's topics: those that "topic" made, as long as they are not deleted.
type topicSet struct {
	s       *script
	version uint64
}

func (s *script) metadata() group.Metadata { return topicSet{s: s, version: s.changes} }

func (t topicSet) Version() uint64 { return t.version }

func (t topicSet) Topic(name string) (id [16]byte, n int32, ok bool) {
	n, ok = t.s.parts[name]
	made := t.s.topics[name]
	return topicID(name, made), n, ok && made%2 == 0
}

func (t topicSet) TopicName(id [16]byte) (string, bool) {
	now, _, ok := t.Topic(nameOf(id))
	return nameOf(id), ok && now == id
}

func (t topicSet) TopicNames() (names []string) {
	for name := range t.s.parts {
		if _, _, ok := t.Topic(name); ok {
			names = append(names, name)
		}
	}
	return names
}

func nameOf(id [16]byte) string { return string(bytes.TrimRight(id[1:], "\x00")) }

// consumer runs the commands about consumer groups; ok is false for others.
func (s *script) consumer(t *testing.T, d *datadriven.TestData, a args, g, to string) (ok bool) {
	t.Helper()
	switch d.Cmd {
	case "topic":
		s.parts[a.str("topic", "t")] = int32(a.num(t, "partitions", 4))
		s.changes++
	case "beat":
		s.c.ConsumerHeartbeat(s.now, group.Client{ID: a.str("client", "c"), Host: "/h"}, s.beat(t, g, a), to)
	case "describeconsumer":
		r := s.c.DescribeConsumer(g)
		s.printf("describe %s %s state=%s epoch=%d target=%d assignor=%s", g, errString(r.ErrorCode), r.State, r.Epoch, r.AssignmentEpoch, r.AssignorName)
		for _, m := range r.Members {
			s.printf("  %s%s epoch=%d has %s wants %s subscribes %s%s type=%d", m.MemberID, at(m.InstanceID), m.MemberEpoch,
				assignment(m.Assignment), assignment(m.TargetAssignment), strings.Join(m.SubscribedTopics, "+"), regex(m.SubscribedTopicRegex), m.MemberType)
		}
	default:
		return false
	}
	return true
}

func regex(s *string) string {
	if s == nil {
		return ""
	}
	return "~" + *s
}

func assignment(a kmsg.Assignment) string {
	var out []string
	for _, t := range a.TopicPartitions {
		out = append(out, partitions(t.TopicID, t.Partitions))
	}
	slices.Sort(out)
	return "[" + strings.Join(out, " ") + "]"
}

func partitions(id [16]byte, ps []int32) string {
	var out []string
	for _, p := range ps {
		out = append(out, fmt.Sprint(p))
	}
	gen := ""
	if id[0] > 1 {
		gen = fmt.Sprint("#", id[0])
	}
	return nameOf(id) + gen + "/" + strings.Join(out, ",")
}

func (s *script) beat(t *testing.T, g string, a args) *kmsg.ConsumerGroupHeartbeatRequest {
	t.Helper()
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.MemberEpoch = int16(a.num(t, "v", 1)), g, a.str("member", ""), int32(a.num(t, "epoch", 0))
	r.InstanceID, r.RackID, r.SubscribedTopicRegex, r.ServerAssignor = a.opt("instance"), a.opt("rack"), a.opt("regex"), a.opt("assignor")
	r.RebalanceTimeoutMillis = int32(a.num(t, "rebalance", -1))
	if r.MemberEpoch == 0 && a.str("bare", "") == "" {
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		r.RebalanceTimeoutMillis = int32(a.num(t, "rebalance", 30_000))
	}
	if v, ok := a["topics"]; ok {
		r.SubscribedTopicNames = append([]string{}, fields(v)...)
	}
	if v, ok := a["owned"]; ok {
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, p := range tps(t, v) {
			id := topicID(p.topic, s.topics[p.topic])
			r.Topics = append(r.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id, Partitions: []int32{p.partition}})
		}
	}
	return r
}

func beatString(r *kmsg.ConsumerGroupHeartbeatResponse) string {
	if r.ErrorCode != 0 {
		return "beat " + errString(r.ErrorCode)
	}
	out := fmt.Sprintf("beat ok member=%s epoch=%d", str(r.MemberID), r.MemberEpoch)
	if r.Assignment != nil {
		var ts []string
		for _, t := range r.Assignment.Topics {
			ts = append(ts, partitions(t.TopicID, t.Partitions))
		}
		slices.Sort(ts)
		out += " [" + strings.Join(ts, " ") + "]"
	}
	return out
}

func consumerRecordString(r group.Record) string {
	d := group.DecodeConsumer(r)
	if r.Value == nil {
		return d + ": tombstone"
	}
	return d
}

// classicAssignment is what a leader assigns: partitions as a consumer writes them, or any text.
func classicAssignment(t *testing.T, what string) []byte {
	t.Helper()
	if !strings.Contains(what, "/") {
		return []byte(what)
	}
	a := kmsg.NewConsumerMemberAssignment()
	for _, p := range tps(t, strings.ReplaceAll(what, "+", ",")) {
		a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: p.topic, Partitions: []int32{p.partition}})
	}
	return a.AppendTo(nil)
}

func assignmentString(b []byte) string {
	var a kmsg.ConsumerMemberAssignment
	if len(b) < 6 || a.ReadFrom(b) != nil {
		return string(b)
	}
	var out []string
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			out = append(out, fmt.Sprintf("%s/%d", t.Topic, p))
		}
	}
	slices.Sort(out)
	return "[" + strings.Join(out, " ") + "]"
}
