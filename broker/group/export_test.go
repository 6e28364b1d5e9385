package group

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kbin"
)

// DecodeConsumer is a record of a consumer group for traces.
func DecodeConsumer(r Record) string {
	k := reader{kbin.Reader{Src: r.Key}}
	kind, group := k.Int16(), k.String()
	member := ""
	if kind != keyConsumerGroup && kind != keyConsumerEpoch {
		member = " " + k.String()
	}
	name := map[int16]string{keyConsumerGroup: "group", keyConsumerMember: "member", keyConsumerEpoch: "target", keyConsumerTarget: "target", keyConsumerStand: "stand"}[kind]
	out := fmt.Sprintf("consumer %s %s%s", name, group, member)
	if r.Value == nil {
		return out
	}
	v := reader{kbin.Reader{Src: r.Value}}
	if err := v.open(); err != nil {
		return err.Error()
	}
	m := &consumerMember{}
	switch kind {
	case keyConsumerGroup, keyConsumerEpoch:
		out += fmt.Sprintf(": epoch=%d", v.Int32())
		v.tags(nil)
	case keyConsumerMember:
		v.readMember(m)
		out += fmt.Sprintf(": instance=%q topics=%s regex=%q assignor=%q rebalance=%v", m.instance, strings.Join(m.topics, "+"), m.regex, m.assignor, m.rebalance)
		if m.classic != nil {
			out += fmt.Sprintf(" classic session=%v", m.classic.session)
			for _, p := range m.classic.protocols {
				out += " " + p.name
			}
		}
	case keyConsumerTarget:
		out += ": " + v.slots().String()
		v.tags(nil)
	case keyConsumerStand:
		v.readStand(m)
		v.tags(nil)
		out += fmt.Sprintf(": epoch=%d previous=%d %s has %s revoking %s", m.epoch, m.previous,
			[...]string{"stable", "unrevoked", "unreleased"}[m.state], m.assigned, m.revoking)
	}
	if err := v.done(); err != nil {
		return err.Error()
	}
	return out
}

// String shows partitions with the epochs at which they were assigned.
func (s slots) String() string {
	var out []string
	for _, p := range s.sorted() {
		one := fmt.Sprintf("%s/%d", bytes.TrimRight(p.topic[1:], "\x00"), p.partition)
		if s[p] > 0 {
			one += fmt.Sprintf("@%d", s[p])
		}
		out = append(out, one)
	}
	return "[" + strings.Join(out, " ") + "]"
}

// AssignMember is a member as RunAssignor gives it to an assignor: topics are numbered from 1, and so are their partitions from 0.
type AssignMember struct {
	ID, Instance string
	Topics       []byte
	Had          map[[2]int32]bool
}

// RunAssignor runs the named assignor over topics with so many partitions each, and returns what each member gets.
func RunAssignor(name string, members []AssignMember, partitions []int32) []map[[2]int32]bool {
	var subs []subscriber
	for _, m := range members {
		s := subscriber{id: m.ID, instance: m.Instance, topics: map[[16]byte]bool{}, had: slots{}}
		for _, t := range m.Topics {
			s.topics[[16]byte{t}] = true
		}
		for p := range m.Had {
			s.had[slot{[16]byte{byte(p[0])}, p[1]}] = 0
		}
		subs = append(subs, s)
	}
	var topics []assignTopic
	for i, n := range partitions {
		topics = append(topics, assignTopic{id: [16]byte{byte(i + 1)}, partitions: n})
	}
	out := make([]map[[2]int32]bool, len(members))
	for i, s := range assignor(name)(subs, topics) {
		out[i] = map[[2]int32]bool{}
		for p := range s {
			out[i][[2]int32{int32(p.topic[0]), p.partition}] = true
		}
	}
	return out
}
