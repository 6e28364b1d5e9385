package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ErrCorrupt: a record or a snapshot is not what this package, or Kafka, writes.
var ErrCorrupt = errors.New("corrupt group state")

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// offset is a committed offset. recordOffset is where in __consumer_offsets it stands: of two commits, the later one counts, also when a
// transaction's marker makes an earlier record visible late.
type offset struct {
	offset       int64
	leaderEpoch  int32
	metadata     string
	topicID      [16]byte // of the topic it is for; zero: not known
	commitMs     int64
	expireMs     int64 // -1: by retention
	recordOffset int64
}

type storedGroup struct {
	meta     *kmsg.GroupMetadataValue // of a classic group with members, now or once
	consumer *consumerState           // of a consumer group; both are nil for a group that only commits offsets
	offsets  map[TopicPartition]offset
	open     map[TopicPartition]int // commits of open transactions, by partition
}

// openCommit is a commit that waits for its transaction's marker.
type openCommit struct {
	group string
	tp    TopicPartition
	offset
}

// store is what one partition of __consumer_offsets says. The same records in the same order give the same store.
type store struct {
	groups map[string]*storedGroup
	txns   map[int64][]openCommit // by producer id, in log order
}

func (s *store) reset() {
	s.groups, s.txns = map[string]*storedGroup{}, map[int64][]openCommit{}
}

func (s *store) names() []string {
	names := make([]string, 0, len(s.groups))
	for n := range s.groups {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}

func (s *store) group(name string) *storedGroup {
	g := s.groups[name]
	if g == nil {
		g = &storedGroup{offsets: map[TopicPartition]offset{}, open: map[TopicPartition]int{}}
		s.groups[name] = g
	}
	return g
}

// tidy forgets a group of which nothing is left.
func (s *store) tidy(name string) {
	if g := s.groups[name]; g != nil && g.meta == nil && g.consumer == nil && len(g.offsets) == 0 && len(g.open) == 0 {
		delete(s.groups, name)
	}
}

// ApplyRecord takes one record of the partition, in log order; producerID is -1 unless it belongs to a transaction. Records of kinds this
// version does not know are skipped. It keeps nothing of key and value.
func (c *Coordinator) ApplyRecord(recordOffset, producerID int64, key, value []byte) error {
	return c.store.apply(recordOffset, producerID, key, value)
}

// ApplyMarker takes the end of a transaction: its commits count, or are dropped.
func (c *Coordinator) ApplyMarker(producerID int64, commit bool) { c.store.marker(producerID, commit) }

// Snapshot returns the store for a checkpoint; see docs/format/coordinator-snapshot.md.
func (c *Coordinator) Snapshot() []byte { return c.store.snapshot() }

// Restore sets the store from a snapshot; nil empties it. The coordinator must not be loaded.
func (c *Coordinator) Restore(blob []byte) error { return c.store.restore(blob) }

func (s *store) apply(at, producerID int64, key, value []byte) error {
	if len(key) < 2 {
		return fmt.Errorf("offset %d: key of %d bytes: %w", at, len(key), ErrCorrupt)
	}
	switch version := binary.BigEndian.Uint16(key); version {
	case 0, 1:
		return s.applyOffset(at, producerID, key, value)
	case 2:
		return s.applyGroup(at, key, value)
	case keyConsumerGroup, keyConsumerMember, keyConsumerEpoch, keyConsumerTarget, keyConsumerStand:
		return s.applyConsumer(at, key, value)
	default:
		return nil // what follows from other records, and groups of kinds that are not served
	}
}

func (s *store) applyOffset(at, producerID int64, key, value []byte) error {
	var k kmsg.OffsetCommitKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("offset %d: offset commit key: %w: %w", at, err, ErrCorrupt)
	}
	tp := TopicPartition{Topic: k.Topic, Partition: k.Partition}
	if value == nil {
		s.drop(k.Group, tp)
		return nil
	}
	v := kmsg.NewOffsetCommitValue()
	if err := v.ReadFrom(value); err != nil {
		return fmt.Errorf("offset %d: offset commit value: %w: %w", at, err, ErrCorrupt)
	}
	o := offset{offset: v.Offset, leaderEpoch: -1, metadata: v.Metadata, commitMs: v.CommitTimestamp, expireMs: -1, recordOffset: at}
	if v.Version >= 3 {
		o.leaderEpoch = v.LeaderEpoch
	}
	if v.Version == 1 {
		o.expireMs = v.ExpireTimestamp
	}
	if v.Version >= 4 {
		o.topicID = v.TopicID
	}
	g := s.group(k.Group)
	if producerID >= 0 {
		s.txns[producerID] = append(s.txns[producerID], openCommit{group: k.Group, tp: tp, offset: o})
		g.open[tp]++
		return nil
	}
	g.offsets[tp] = o
	return nil
}

// drop forgets a partition's offset, and what open transactions have committed for it: otherwise their markers would bring it back.
func (s *store) drop(group string, tp TopicPartition) {
	g := s.groups[group]
	if g == nil {
		return
	}
	delete(g.offsets, tp)
	if g.open[tp] > 0 {
		for pid, cs := range s.txns {
			cs = slices.DeleteFunc(cs, func(oc openCommit) bool { return oc.group == group && oc.tp == tp })
			if s.txns[pid] = cs; len(cs) == 0 {
				delete(s.txns, pid)
			}
		}
		delete(g.open, tp)
	}
	s.tidy(group)
}

func (s *store) applyGroup(at int64, key, value []byte) error {
	var k kmsg.GroupMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("offset %d: group metadata key: %w: %w", at, err, ErrCorrupt)
	}
	if value == nil {
		if g := s.groups[k.Group]; g != nil {
			g.meta = nil
			s.tidy(k.Group)
		}
		return nil
	}
	v := kmsg.NewGroupMetadataValue()
	v.CurrentStateTimestamp = -1
	if err := v.ReadFrom(value); err != nil {
		return fmt.Errorf("offset %d: group metadata value: %w: %w", at, err, ErrCorrupt)
	}
	for i := range v.Members { // the value's memory is the batch's
		m := &v.Members[i]
		m.Subscription, m.Assignment = slices.Clone(m.Subscription), slices.Clone(m.Assignment)
	}
	s.group(k.Group).meta = &v
	return nil
}

func (s *store) marker(producerID int64, commit bool) {
	cs := s.txns[producerID]
	delete(s.txns, producerID)
	for _, oc := range cs {
		g := s.group(oc.group)
		if g.open[oc.tp]--; g.open[oc.tp] <= 0 {
			delete(g.open, oc.tp)
		}
		if have, ok := g.offsets[oc.tp]; commit && (!ok || have.recordOffset < oc.recordOffset) {
			g.offsets[oc.tp] = oc.offset
		}
		s.tidy(oc.group)
	}
}

// The snapshot holds the same keys and values as the log, so that one decoder reads both:
//
//	version u8 = 2 | count u32 | count × { recordOffset i64 | producerID i64 | key len u32, bytes | value len u32, bytes }
//
// Version 1 had no consumer groups: its programs skip their records, and must not take a snapshot that has some for one that has none.
const (
	snapshotVersion  = 2
	snapshotVersion1 = 1
)

func (s *store) snapshot() []byte {
	b := []byte{snapshotVersion, 0, 0, 0, 0}
	n := uint32(0)
	add := func(at, producerID int64, r Record) {
		n++
		b = binary.BigEndian.AppendUint64(b, uint64(at))
		b = binary.BigEndian.AppendUint64(b, uint64(producerID))
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Key)))
		b = append(b, r.Key...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Value)))
		b = append(b, r.Value...)
	}
	for _, name := range s.names() {
		g := s.groups[name]
		if g.meta != nil {
			add(-1, -1, Record{Key: groupKey(name), Value: g.meta.AppendTo(nil)})
		}
		if g.consumer != nil {
			for _, r := range g.consumer.records(name) {
				add(-1, -1, r)
			}
		}
		for _, tp := range sortedPartitions(g.offsets) {
			o := g.offsets[tp]
			add(o.recordOffset, -1, offsetRecord(name, tp, o))
		}
	}
	pids := make([]int64, 0, len(s.txns))
	for pid := range s.txns {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	for _, pid := range pids {
		for _, oc := range s.txns[pid] {
			add(oc.recordOffset, pid, offsetRecord(oc.group, oc.tp, oc.offset))
		}
	}
	binary.BigEndian.PutUint32(b[1:], n)
	return b
}

func (s *store) restore(b []byte) error {
	s.reset()
	if len(b) == 0 {
		return nil
	}
	if b[0] != snapshotVersion && b[0] != snapshotVersion1 {
		return fmt.Errorf("group snapshot of version %d: %w", b[0], ErrCorrupt)
	}
	if len(b) < 5 {
		return fmt.Errorf("group snapshot of %d bytes: %w", len(b), ErrCorrupt)
	}
	n := binary.BigEndian.Uint32(b[1:])
	b = b[5:]
	part := func() []byte {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			b = nil
			return nil
		}
		l := binary.BigEndian.Uint32(b)
		p := b[4 : 4+l : 4+l]
		b = b[4+l:]
		return p
	}
	for i := range n {
		if len(b) < 16 {
			return fmt.Errorf("group snapshot ends in entry %d of %d: %w", i, n, ErrCorrupt)
		}
		at, pid := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
		b = b[16:]
		key, value := part(), part()
		if len(key) == 0 || len(value) == 0 {
			return fmt.Errorf("group snapshot: entry %d of %d: %w", i, n, ErrCorrupt)
		}
		if err := s.apply(at, pid, key, value); err != nil {
			return fmt.Errorf("group snapshot: entry %d of %d: %w", i, n, err)
		}
	}
	if len(b) != 0 {
		return fmt.Errorf("group snapshot: %d bytes too many: %w", len(b), ErrCorrupt)
	}
	return nil
}

func sortedPartitions[V any](m map[TopicPartition]V) []TopicPartition {
	out := make([]TopicPartition, 0, len(m))
	for tp := range m {
		out = append(out, tp)
	}
	slices.SortFunc(out, func(a, b TopicPartition) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	return out
}
