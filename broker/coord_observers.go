package broker

import (
	"errors"

	"github.com/outrelay/outrelay/broker/group"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/txn"
)

// observerFor returns what follows the partition's log at apply: the coordinators' state for the internal topics, nil for all others.
func (s *Server) observerFor(topic string, partition int32) replica.Observer {
	switch {
	case partition < 0 || partition >= internalCount:
		return nil
	case topic == offsetsTopic:
		return groupObserver{s.shards().groups[partition]}
	case topic == txnStateTopic:
		return txnObserver{s.shards().txns[partition]}
	}
	return nil
}

// groupObserver feeds a partition of __consumer_offsets to its coordinator's store.
type groupObserver struct{ *groupShard }

// ApplyBatch implements replica.Observer. A record that cannot be read is skipped, and the error says which.
func (o groupObserver) ApplyBatch(base int64, b record.Batch) error {
	producerID := int64(-1)
	if b.Transactional() {
		producerID = b.ProducerID()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var bad error
	err := record.Records(b, func(r record.Record) error {
		bad = errors.Join(bad, o.core.ApplyRecord(base+int64(r.OffsetDelta), producerID, r.Key, r.Value))
		return nil
	})
	return errors.Join(bad, err)
}

// ApplyMarker implements replica.Observer.
func (o groupObserver) ApplyMarker(producerID int64, _ int16, commit bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.core.ApplyMarker(producerID, commit)
}

// Snapshot implements replica.Observer.
func (o groupObserver) Snapshot() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.core.Snapshot()
}

// Restore implements replica.Observer.
func (o groupObserver) Restore(blob []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.core.Restore(blob)
}

// txnObserver feeds a partition of __transaction_state to its coordinator's store.
type txnObserver struct{ *txnShard }

// ApplyBatch implements replica.Observer. A record that cannot be read is skipped, and the error says which.
func (o txnObserver) ApplyBatch(_ int64, b record.Batch) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var bad error
	err := record.Records(b, func(r record.Record) error {
		bad = errors.Join(bad, o.core.ApplyRecord(r.Key, r.Value))
		return nil
	})
	return errors.Join(bad, err)
}

// ApplyMarker implements replica.Observer: nothing in __transaction_state is transactional.
func (o txnObserver) ApplyMarker(int64, int16, bool) {}

// Snapshot implements replica.Observer.
func (o txnObserver) Snapshot() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.core.Snapshot()
}

// Restore implements replica.Observer.
func (o txnObserver) Restore(blob []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.core.Restore(blob)
}

var (
	_ core[group.Effects] = (*group.Coordinator)(nil)
	_ core[txn.Effects]   = (*txn.Coordinator)(nil)
)
