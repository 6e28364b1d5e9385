package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Effects is what a call asks the shell to do: append the writes, in order, then send the replies.
type Effects struct {
	Writes  []Write
	Replies []Reply
}

// Write is a batch of records for the coordinator's partition of __consumer_offsets. When it was applied, or failed, the shell calls
// [Coordinator.Written] with its ID.
type Write struct {
	ID            uint64
	Records       []Record
	ProducerID    int64 // -1 unless the records belong to a transaction
	ProducerEpoch int16
	Guard         uint64 // as the caller of CommitTxn gave it
}

// Record is one record in Kafka's own format for __consumer_offsets. A nil Value is a tombstone.
type Record struct{ Key, Value []byte }

// Reply is the answer to one request. To is what the shell passed in with the request; Response is the response the method's comment names.
type Reply struct {
	To       any
	Response any
}

// Client says who sent a request.
type Client struct{ ID, Host string }

// Take returns the effects gathered since the last Take and forgets them.
func (c *Coordinator) Take() Effects {
	c.flushGone()
	e := c.eff
	c.eff = Effects{}
	return e
}

func (c *Coordinator) reply(to, response any) {
	c.eff.Replies = append(c.eff.Replies, Reply{To: to, Response: response})
}

// write asks for records to be written; then runs once, when they are applied (nil) or failed.
func (c *Coordinator) write(w Write, then func(now time.Time, err *kerr.Error)) {
	c.lastWrite++
	w.ID = c.lastWrite
	c.writing[w.ID] = then
	c.eff.Writes = append(c.eff.Writes, w)
}

// Written says how a write ended: err is nil when its records were applied. The error is the partition's own.
func (c *Coordinator) Written(now time.Time, id uint64, err *kerr.Error) {
	then, ok := c.writing[id]
	if !ok {
		return // from before Unload: already answered
	}
	delete(c.writing, id)
	then(now, translate(err))
}

// translate turns an error of the partition into one that a client of the coordinator understands.
func translate(err *kerr.Error) *kerr.Error {
	switch err {
	case nil:
		return nil
	case kerr.NotLeaderForPartition, kerr.KafkaStorageError, kerr.NotCoordinator:
		return kerr.NotCoordinator
	case kerr.MessageTooLarge, kerr.RecordListTooLarge:
		return kerr.InvalidCommitOffsetSize
	case kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState, kerr.InvalidProducerIDMapping:
		return err
	}
	return kerr.CoordinatorNotAvailable
}

func code(err *kerr.Error) int16 {
	if err == nil {
		return 0
	}
	return err.Code
}
