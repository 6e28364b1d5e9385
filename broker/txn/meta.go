package txn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ErrCorrupt: a record or a snapshot is not what this package, or Kafka, writes.
var ErrCorrupt = errors.New("corrupt transaction state")

// State is a transaction's state, numbered as in Kafka's records.
type State int8

// The states.
const (
	Empty          State = 0
	Ongoing        State = 1
	PrepareCommit  State = 2
	PrepareAbort   State = 3
	CompleteCommit State = 4
	CompleteAbort  State = 5
)

// String returns Kafka's name of the state.
func (s State) String() string {
	if s < 0 || s > CompleteAbort {
		return fmt.Sprintf("State(%d)", int8(s))
	}
	return [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"}[s]
}

func (s State) preparing() bool { return s == PrepareCommit || s == PrepareAbort }

// epochMax is the last epoch a client ever sees; one more is used inside, for the fence that comes after it.
const epochMax = 32766

// tagLastEpoch carries lastEpoch in a tagged field of Kafka's record, which Kafka's own readers skip: with it, a producer whose InitProducerId
// or EndTxn was answered into a crash may ask again instead of being fenced.
const tagLastEpoch = 1000

// meta is the durable state of one transactional id.
type meta struct {
	producerID     int64
	prevProducerID int64 // before the last rotation; -1 none
	nextProducerID int64 // to rotate to when the transaction is complete; -1 none
	epoch          int16 // -1: not yet given out
	lastEpoch      int16 // the epoch before, for retries of its owner; -1: whoever has it is fenced
	timeout        time.Duration
	state          State
	partitions     []TopicPartition // in order of adding; never changed in place
	startMs        int64            // of the open transaction; -1 none
	updateMs       int64
	version        int16 // transaction version: 2 when the end raises the epoch, 1 when not
}

func (m *meta) exhausted() bool { return m.epoch >= epochMax }

func (m *meta) has(tp TopicPartition) bool { return slices.Contains(m.partitions, tp) }

func (m *meta) hasAll(tps []TopicPartition) bool {
	return !slices.ContainsFunc(tps, func(tp TopicPartition) bool { return !m.has(tp) })
}

func recordKey(id string) []byte {
	k := kmsg.TxnMetadataKey{Version: 0, TransactionalID: id}
	return k.AppendTo(nil)
}

func (m *meta) record() []byte {
	v := kmsg.NewTxnMetadataValue()
	v.Version, v.ProducerID, v.ProducerEpoch, v.TimeoutMillis = 1, m.producerID, m.epoch, int32(m.timeout.Milliseconds())
	v.State, v.LastUpdateTimestamp, v.StartTimestamp = kmsg.TransactionState(m.state), m.updateMs, m.startMs
	v.PreviousProducerID, v.NextProducerID, v.ClientTransactionVersion = m.prevProducerID, m.nextProducerID, m.version
	at := map[string]int{}
	for _, tp := range m.partitions {
		i, ok := at[tp.Topic]
		if !ok {
			i = len(v.Topics)
			at[tp.Topic] = i
			v.Topics = append(v.Topics, kmsg.TxnMetadataValueTopic{Topic: tp.Topic})
		}
		v.Topics[i].Partitions = append(v.Topics[i].Partitions, tp.Partition)
	}
	v.UnknownTags.Set(tagLastEpoch, binary.BigEndian.AppendUint16(nil, uint16(m.lastEpoch)))
	return v.AppendTo(nil)
}

func decode(key, value []byte) (id string, m *meta, err error) {
	var k kmsg.TxnMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return "", nil, fmt.Errorf("transaction key: %w: %w", err, ErrCorrupt)
	}
	if value == nil {
		return k.TransactionalID, nil, nil
	}
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(value); err != nil {
		return "", nil, fmt.Errorf("transaction %q: %w: %w", k.TransactionalID, err, ErrCorrupt)
	}
	m = &meta{
		producerID: v.ProducerID, prevProducerID: v.PreviousProducerID, nextProducerID: v.NextProducerID,
		epoch: v.ProducerEpoch, lastEpoch: -1, timeout: time.Duration(v.TimeoutMillis) * time.Millisecond, state: State(v.State),
		startMs: v.StartTimestamp, updateMs: v.LastUpdateTimestamp, version: v.ClientTransactionVersion,
	}
	if m.state < Empty || m.state > CompleteAbort {
		return "", nil, fmt.Errorf("transaction %q: state %d: %w", k.TransactionalID, v.State, ErrCorrupt)
	}
	for _, t := range v.Topics {
		for _, p := range t.Partitions {
			m.partitions = append(m.partitions, TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	v.UnknownTags.Each(func(tag uint32, b []byte) {
		if tag == tagLastEpoch && len(b) == 2 {
			m.lastEpoch = int16(binary.BigEndian.Uint16(b))
		}
	})
	return k.TransactionalID, m, nil
}

// store is what one partition of __transaction_state says: the last record of each transactional id.
type store map[string]*meta

func (s store) ids() []string {
	ids := make([]string, 0, len(s))
	for id := range s {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, strings.Compare)
	return ids
}

// ApplyRecord takes one record of the partition, in log order. Records of kinds this version does not know are skipped. It keeps
// nothing of key and value.
func (c *Coordinator) ApplyRecord(key, value []byte) error {
	if len(key) < 2 || binary.BigEndian.Uint16(key) != 0 {
		return nil
	}
	id, m, err := decode(key, value)
	if err != nil {
		return err
	}
	if m == nil {
		delete(c.store, id)
		return nil
	}
	c.store[id] = m
	return nil
}

// The snapshot holds the same keys and values as the log, so that one decoder reads both:
//
//	version u8 = 1 | count u32 | count × { key len u32, bytes | value len u32, bytes }
const snapshotVersion = 1

// Snapshot returns the store for a checkpoint; see docs/format/coordinator-snapshot.md.
func (c *Coordinator) Snapshot() []byte {
	b := binary.BigEndian.AppendUint32([]byte{snapshotVersion}, uint32(len(c.store)))
	for _, id := range c.store.ids() {
		for _, part := range [][]byte{recordKey(id), c.store[id].record()} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
			b = append(b, part...)
		}
	}
	return b
}

// Restore sets the store from a snapshot; nil empties it. The coordinator must not be loaded.
func (c *Coordinator) Restore(b []byte) error {
	c.store = store{}
	if len(b) == 0 {
		return nil
	}
	if b[0] != snapshotVersion {
		return fmt.Errorf("transaction snapshot of version %d: %w", b[0], ErrCorrupt)
	}
	if len(b) < 5 {
		return fmt.Errorf("transaction snapshot of %d bytes: %w", len(b), ErrCorrupt)
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
		key, value := part(), part()
		if len(key) == 0 || len(value) == 0 {
			return fmt.Errorf("transaction snapshot: entry %d of %d: %w", i, n, ErrCorrupt)
		}
		if err := c.ApplyRecord(key, value); err != nil {
			return fmt.Errorf("transaction snapshot: entry %d of %d: %w", i, n, err)
		}
	}
	if len(b) != 0 {
		return fmt.Errorf("transaction snapshot: %d bytes too many: %w", len(b), ErrCorrupt)
	}
	return nil
}
