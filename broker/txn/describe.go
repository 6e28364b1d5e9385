package txn

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Description is what is known of a transactional id (KIP-664).
type Description struct {
	ID            string
	State         State
	ProducerID    int64
	ProducerEpoch int16
	Timeout       time.Duration
	StartMs       int64 // of the open transaction; -1 none
	// Partitions are in the transaction, sorted; once its end is decided, those that lack their marker.
	Partitions []TopicPartition
}

// ParseState returns the state that Kafka knows by name.
func ParseState(name string) (State, bool) {
	for s := Empty; s <= CompleteAbort; s++ {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}

// Describe describes one transactional id. Errors: TRANSACTIONAL_ID_NOT_FOUND, INVALID_REQUEST, NOT_COORDINATOR.
func (c *Coordinator) Describe(id string) (Description, *kerr.Error) {
	t, err := c.find(id)
	switch {
	case err == kerr.InvalidProducerIDMapping || err == nil && t.m.epoch < 0:
		return Description{}, kerr.TransactionalIDNotFound
	case err != nil:
		return Description{}, err
	}
	return t.describe(), nil
}

// List describes all transactional ids, sorted. It is empty while this node does not coordinate.
func (c *Coordinator) List() (ds []Description) {
	for _, t := range c.sorted() {
		if t.m.epoch >= 0 { // else it has no producer id yet
			ds = append(ds, t.describe())
		}
	}
	return ds
}

func (t *txn) describe() Description {
	d := Description{
		ID: t.id, State: t.m.state, ProducerID: t.m.producerID, ProducerEpoch: t.m.epoch, Timeout: t.m.timeout, StartMs: t.m.startMs,
	}
	if t.m.state.preparing() {
		d.Partitions = sortedPartitions(t.marking)
		return d
	}
	set := make(map[TopicPartition]bool, len(t.m.partitions))
	for _, tp := range t.m.partitions {
		set[tp] = true
	}
	d.Partitions = sortedPartitions(set)
	return d
}

// Owns reports whether a transaction of the producer that is under way here, or being ended, has the partition in it. Where none has, an
// open transaction of the producer in that partition is hanging: nobody will ever end it (KIP-664).
func (c *Coordinator) Owns(producerID int64, tp TopicPartition) bool {
	for _, t := range c.active {
		if t.m.producerID == producerID && (t.m.state == Ongoing || t.m.state.preparing()) && t.m.has(tp) {
			return true
		}
	}
	return false
}
