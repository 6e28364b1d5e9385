package txn

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Effects is what a call asks the shell to do: append the writes, in order, and only then the rest, in any order.
type Effects struct {
	Writes  []Write
	Markers []Marker
	NewIDs  []uint64 // each asks for a producer id, to be handed in with ProducerID
	// Ahead are requests whose record has its place in the log: what needs it may be proposed. Their replies are still to come.
	Ahead   []any
	Replies []Reply
}

// Write is a record for the coordinator's partition of __transaction_state, in Kafka's own format; a nil Value is a tombstone. When it has its
// place in the log, the shell may call [Coordinator.Placed]; when it was applied, or failed, it calls [Coordinator.Written].
type Write struct {
	ID         uint64
	Key, Value []byte
}

// Marker ends a transaction in one partition. When it was applied, or failed, the shell calls [Coordinator.MarkerWritten].
type Marker struct {
	ID               uint64
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool
	Bumped           bool // the epoch is one above that of the data: a partition that has it already has this marker, too
	CoordinatorEpoch int32
	Partition        TopicPartition
}

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Reply is the answer to one request. To is what the shell passed in with it.
type Reply struct {
	To any
	Result
}

// Result is the outcome of a request. ProducerID and ProducerEpoch are what the producer goes on with; -1 where the request says nothing of them.
type Result struct {
	Err           *kerr.Error
	ProducerID    int64
	ProducerEpoch int16
}

// Take returns the effects gathered since the last Take and forgets them.
func (c *Coordinator) Take() Effects {
	e := c.eff
	c.eff = Effects{}
	return e
}

func (c *Coordinator) reply(to any, err *kerr.Error) {
	c.eff.Replies = append(c.eff.Replies, Reply{To: to, Result: Result{Err: err, ProducerID: -1, ProducerEpoch: -1}})
}

func (c *Coordinator) replyID(to any, m *meta) {
	c.eff.Replies = append(c.eff.Replies, Reply{To: to, Result: Result{ProducerID: m.producerID, ProducerEpoch: m.epoch}})
}

// writing is a record on its way.
type writing struct {
	placed func(now time.Time) // nil when nothing hangs on it, or it ran
	then   func(now time.Time, err *kerr.Error)
}

// write asks for the transaction's record to be written; then runs once, when it is applied (nil) or failed. placed, which may be nil, runs
// before: when no crash can lose the record and keep what is proposed from then on. Of a record that failed it does not run.
func (c *Coordinator) write(id string, m *meta, placed func(now time.Time), then func(now time.Time, err *kerr.Error)) {
	c.lastID++
	c.writing[c.lastID] = writing{placed: placed, then: then}
	w := Write{ID: c.lastID, Key: recordKey(id)}
	if m != nil {
		w.Value = m.record()
	}
	c.eff.Writes = append(c.eff.Writes, w)
}

// Placed says that a write has its place in the log: whatever is proposed now, to any partition, survives no crash without it. Written says so
// too; who knows it before spares a transaction the wait for a sync.
func (c *Coordinator) Placed(now time.Time, id uint64) {
	w, ok := c.writing[id]
	if !ok || w.placed == nil {
		return
	}
	c.writing[id] = writing{then: w.then}
	w.placed(now)
}

// Written says how a write ended: err is nil when the record was applied.
func (c *Coordinator) Written(now time.Time, id uint64, err *kerr.Error) {
	if err == nil {
		c.Placed(now, id)
	}
	if w, ok := c.writing[id]; ok { // else from before Unload: already answered
		delete(c.writing, id)
		w.then(now, translate(err))
	}
}

// newID asks for a producer id.
func (c *Coordinator) newID(then func(now time.Time, id int64, err *kerr.Error)) {
	c.lastID++
	c.allocating[c.lastID] = then
	c.eff.NewIDs = append(c.eff.NewIDs, c.lastID)
}

// ProducerID hands in the producer id that was asked for, or says why there is none.
func (c *Coordinator) ProducerID(now time.Time, ask uint64, id int64, err *kerr.Error) {
	if then, ok := c.allocating[ask]; ok {
		delete(c.allocating, ask)
		then(now, id, translate(err))
	}
}

// translate turns an error of the partition into one that a client of the coordinator understands.
func translate(err *kerr.Error) *kerr.Error {
	switch err {
	case nil:
		return nil
	case kerr.NotLeaderForPartition, kerr.KafkaStorageError, kerr.NotCoordinator:
		return kerr.NotCoordinator
	}
	return kerr.CoordinatorNotAvailable
}
