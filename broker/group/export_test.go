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
