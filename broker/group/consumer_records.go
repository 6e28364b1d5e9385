package group

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kbin"
)

// Records of consumer groups, in the formats of Kafka 4 (KIP-848), which kmsg does not have. A key is its type, the group and, of records
// about a member, the member's id. A value is of version 0, flexible. A record without a value deletes what its key names.
//
//	type  value
//	3     the group: epoch; tag 0: hash of the topics it subscribes to
//	5     a member, as it said: instance, rack, client, subscription, rebalance timeout, assignor; tag 0: its classic part
//	6     the target assignment: its epoch
//	7     a member's target: topic ids with partitions
//	8     a member's stand: epoch, previous epoch, state, assigned and revoking partitions; tag 0 of each topic: assignment epochs (KIP-1251)
//
// Type 4 (partition metadata) went away with the hash in Kafka 4.1. Type 16 (what a regular expression stands for) is not written: it follows
// from the topics, and is worked out when they change.
const (
	keyConsumerGroup  = 3
	keyConsumerMember = 5
	keyConsumerEpoch  = 6
	keyConsumerTarget = 7
	keyConsumerStand  = 8
)

func consumerKey(kind int16, group string, member ...string) []byte {
	b := kbin.AppendInt16(nil, kind)
	b = kbin.AppendString(b, group)
	for _, m := range member {
		b = kbin.AppendString(b, m)
	}
	return b
}

// appendTag appends one tagged field.
func appendTag(dst []byte, tag uint32, v []byte) []byte {
	dst = kbin.AppendUvarint(dst, tag)
	dst = kbin.AppendUvarint(dst, uint32(len(v)))
	return append(dst, v...)
}

func groupRecord(group string, epoch int32, hash int64) Record {
	v := kbin.AppendInt16(nil, 0)
	v = kbin.AppendInt32(v, epoch)
	if hash == 0 {
		v = append(v, 0)
	} else {
		v = appendTag(append(v, 1), 0, kbin.AppendInt64(nil, hash))
	}
	return Record{Key: consumerKey(keyConsumerGroup, group), Value: v}
}

func memberRecord(group string, m *consumerMember) Record {
	v := kbin.AppendInt16(nil, 0)
	v = kbin.AppendCompactNullableString(v, orNil(m.instance))
	v = kbin.AppendCompactNullableString(v, orNil(m.rack))
	v = kbin.AppendCompactString(v, m.client.ID)
	v = kbin.AppendCompactString(v, m.client.Host)
	v = kbin.AppendCompactArrayLen(v, len(m.topics))
	for _, t := range m.topics {
		v = kbin.AppendCompactString(v, t)
	}
	v = kbin.AppendCompactNullableString(v, orNil(m.regex))
	v = kbin.AppendInt32(v, int32(m.rebalance.Milliseconds()))
	v = kbin.AppendCompactNullableString(v, orNil(m.assignor))
	if m.classic == nil {
		v = append(v, 0)
	} else {
		v = appendTag(append(v, 1), 0, m.classic.appendTo(nil))
	}
	return Record{Key: consumerKey(keyConsumerMember, group, m.id), Value: v}
}

func (p *classicPart) appendTo(b []byte) []byte {
	b = append(b, 1) // there is one: a struct that may be null begins so
	b = kbin.AppendInt32(b, int32(p.session.Milliseconds()))
	b = kbin.AppendCompactArrayLen(b, len(p.protocols))
	for _, pr := range p.protocols {
		b = kbin.AppendCompactString(b, pr.name)
		b = kbin.AppendCompactBytes(b, pr.metadata)
		b = append(b, 0)
	}
	return append(b, 0)
}

func epochRecord(group string, epoch int32) Record {
	v := kbin.AppendInt16(nil, 0)
	v = append(kbin.AppendInt32(v, epoch), 0)
	return Record{Key: consumerKey(keyConsumerEpoch, group), Value: v}
}

func targetRecord(group, member string, target slots) Record {
	v := kbin.AppendInt16(nil, 0)
	v = append(appendSlots(v, target, false), 0)
	return Record{Key: consumerKey(keyConsumerTarget, group, member), Value: v}
}

func standRecord(group string, m *consumerMember) Record {
	v := kbin.AppendInt16(nil, 0)
	v = kbin.AppendInt32(v, m.epoch)
	v = kbin.AppendInt32(v, m.previous)
	v = kbin.AppendInt8(v, int8(m.state))
	v = appendSlots(v, m.assigned, true)
	v = appendSlots(v, m.revoking, true)
	return Record{Key: consumerKey(keyConsumerStand, group, m.id), Value: append(v, 0)}
}

// appendSlots appends partitions by topic, each topic with its assignment epochs if they are asked for.
func appendSlots(b []byte, s slots, epochs bool) []byte {
	byTopic := groupSlots(s)
	b = kbin.AppendCompactArrayLen(b, len(byTopic))
	for _, ps := range byTopic {
		b = kbin.AppendUuid(b, ps[0].topic)
		b = kbin.AppendCompactArrayLen(b, len(ps))
		for _, p := range ps {
			b = kbin.AppendInt32(b, p.partition)
		}
		if !epochs {
			b = append(b, 0)
			continue
		}
		tag := kbin.AppendCompactArrayLen(nil, len(ps))
		for _, p := range ps {
			tag = kbin.AppendInt32(tag, s[p])
		}
		b = appendTag(append(b, 1), 0, tag)
	}
	return b
}

// groupSlots returns the partitions sorted, one slice for each topic.
func groupSlots(s slots) [][]slot {
	var out [][]slot
	for _, p := range s.sorted() {
		if n := len(out); n > 0 && out[n-1][0].topic == p.topic {
			out[n-1] = append(out[n-1], p)
			continue
		}
		out = append(out, []slot{p})
	}
	return out
}

// reader reads what the functions above write, and what a later version adds to it in tags.
type reader struct{ kbin.Reader }

// open checks a value's version.
func (r *reader) open() error {
	if v := r.Int16(); r.Ok() && v != 0 {
		return fmt.Errorf("version %d of the value: %w", v, ErrCorrupt)
	}
	return nil
}

// done says whether all could be read.
func (r *reader) done() error {
	if err := r.Complete(); err != nil {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	return nil
}

// tags reads tagged fields; known gets those with tag 0.
func (r *reader) tags(known func(v []byte)) {
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag, l := r.Uvarint(), r.Uvarint()
		if v := r.Span(int(l)); tag == 0 && known != nil && r.Ok() {
			known(v)
		}
	}
}

func (r *reader) slots() slots {
	out := slots{}
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		topic := r.Uuid()
		var ps, epochs []int32
		ps = r.int32s()
		r.tags(func(v []byte) {
			in := reader{kbin.Reader{Src: v}}
			epochs = in.int32s()
		})
		for i, p := range ps {
			out[slot{topic, p}] = 0
			if i < len(epochs) {
				out[slot{topic, p}] = epochs[i]
			}
		}
	}
	return out
}

func (r *reader) int32s() []int32 {
	var out []int32
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		out = append(out, r.Int32())
	}
	return out
}

// readMember reads the value of type 5 into m.
func (r *reader) readMember(m *consumerMember) {
	m.known = true
	m.instance, m.rack = deref(r.CompactNullableString()), deref(r.CompactNullableString())
	m.client = Client{ID: r.CompactString(), Host: r.CompactString()}
	m.topics = nil
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		m.topics = append(m.topics, r.CompactString())
	}
	m.regex = deref(r.CompactNullableString())
	m.rebalance = ms(r.Int32())
	m.assignor = deref(r.CompactNullableString())
	m.classic = nil
	r.tags(func(v []byte) {
		in := reader{kbin.Reader{Src: v}}
		m.classic = in.classic()
	})
}

func (r *reader) classic() *classicPart {
	if r.Int8() < 0 {
		return nil
	}
	p := &classicPart{session: ms(r.Int32())}
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		pr := protocol{name: r.CompactString(), metadata: slices.Clone(r.CompactBytes())}
		r.tags(nil)
		p.protocols = append(p.protocols, pr)
	}
	return p
}

// readStand reads the value of type 8 into m.
func (r *reader) readStand(m *consumerMember) {
	m.epoch, m.previous, m.state = r.Int32(), r.Int32(), memberState(r.Int8())
	m.assigned, m.revoking = r.slots(), r.slots()
	if m.state < memberStable || m.state > memberUnreleased {
		m.state = memberUnknown
	}
}

// applyConsumer takes one record of a consumer group.
func (s *store) applyConsumer(at int64, key, value []byte) error {
	k := reader{kbin.Reader{Src: key}}
	kind, group := k.Int16(), k.String()
	member := ""
	if kind != keyConsumerGroup && kind != keyConsumerEpoch {
		member = k.String()
	}
	err := k.done()
	if err == nil {
		err = s.group(group).applyConsumer(kind, member, value)
	}
	s.tidy(group)
	if err != nil {
		return fmt.Errorf("offset %d: consumer group record of type %d: %w", at, binary.BigEndian.Uint16(key), err)
	}
	return nil
}

func (g *storedGroup) applyConsumer(kind int16, member string, value []byte) error {
	if value == nil {
		g.dropConsumer(kind, member)
		return nil
	}
	r := reader{kbin.Reader{Src: value}}
	if err := r.open(); err != nil {
		return err
	}
	if g.consumer == nil {
		g.consumer = newConsumerState()
	}
	s := g.consumer
	m := &consumerMember{id: member}
	if old := s.members[member]; old != nil {
		*m = *old
	}
	var epoch int32
	var hash int64
	var target slots
	switch kind {
	case keyConsumerGroup:
		epoch = r.Int32()
		r.tags(func(v []byte) { hash = (&kbin.Reader{Src: v}).Int64() })
	case keyConsumerMember:
		r.readMember(m)
	case keyConsumerEpoch:
		epoch = r.Int32()
	case keyConsumerTarget:
		target = r.slots()
	case keyConsumerStand:
		r.readStand(m)
	}
	if err := r.done(); err != nil {
		return err
	}
	switch kind {
	case keyConsumerGroup:
		s.epoch, s.hash = epoch, hash
	case keyConsumerMember, keyConsumerStand:
		s.put(m)
	case keyConsumerEpoch:
		s.targetEpoch = epoch
	case keyConsumerTarget:
		s.target[member] = target
	}
	return nil
}

// dropConsumer takes a record without a value: what its key names is gone.
func (g *storedGroup) dropConsumer(kind int16, member string) {
	s := g.consumer
	if s == nil {
		return
	}
	switch kind {
	case keyConsumerGroup:
		g.consumer = nil
	case keyConsumerMember:
		s.remove(member)
	case keyConsumerTarget:
		delete(s.target, member)
	case keyConsumerStand:
		if m := s.members[member]; m != nil {
			s.put(&consumerMember{
				id: m.id, known: m.known, instance: m.instance, rack: m.rack, assignor: m.assignor, regex: m.regex,
				client: m.client, topics: m.topics, rebalance: m.rebalance, classic: m.classic,
			})
		}
	}
}

// records are the group as records, in the order in which a snapshot has them.
func (s *consumerState) records(group string) []Record {
	recs := []Record{groupRecord(group, s.epoch, s.hash)}
	for _, id := range s.ids() {
		if s.members[id].known {
			recs = append(recs, memberRecord(group, s.members[id]))
		}
	}
	recs = append(recs, epochRecord(group, s.targetEpoch))
	for _, id := range s.ids() {
		if t, ok := s.target[id]; ok {
			recs = append(recs, targetRecord(group, id, t))
		}
	}
	for _, id := range s.ids() {
		recs = append(recs, standRecord(group, s.members[id]))
	}
	return recs
}

// tombstones are the records that delete the group, its offsets apart.
func (s *consumerState) tombstones(group string) []Record {
	var recs []Record
	for _, id := range s.ids() {
		recs = append(recs, memberTombstones(group, id)...)
	}
	return append(recs, Record{Key: consumerKey(keyConsumerEpoch, group)}, Record{Key: consumerKey(keyConsumerGroup, group)})
}

// memberTombstones are the records that delete a member, in Kafka's order.
func memberTombstones(group, id string) []Record {
	return []Record{
		{Key: consumerKey(keyConsumerStand, group, id)},
		{Key: consumerKey(keyConsumerTarget, group, id)},
		{Key: consumerKey(keyConsumerMember, group, id)},
	}
}
