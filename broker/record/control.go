package record

import (
	"encoding/binary"
	"fmt"
)

// The types of control record (KIP-98).
const (
	controlAbort  = 0
	controlCommit = 1
)

// EndTxnMarker returns a control batch of one record that ends a producer's transaction in a partition, as Kafka's
// coordinator writes it: key {version 0, type}, value {version 0, coordinator epoch}.
func EndTxnMarker(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, tsMs int64) []byte {
	kind := uint16(controlAbort)
	if commit {
		kind = controlCommit
	}
	key := binary.BigEndian.AppendUint16(make([]byte, 2, 4), kind)
	value := binary.BigEndian.AppendUint32(make([]byte, 2, 6), uint32(coordinatorEpoch))
	b := NewBuilder(BuilderOptions{ProducerID: producerID, Epoch: epoch, Sequence: NoSequence, Transactional: true, Control: true})
	b.Add(tsMs, key, value, nil)
	return b.Build()
}

// ParseEndTxnMarker reads a control batch that ends a transaction. Errors wrap ErrInvalid where b is no such batch, else
// ErrCorrupt.
func ParseEndTxnMarker(b Batch) (commit bool, coordinatorEpoch int32, err error) {
	if !b.Control() || b.Count() != 1 {
		return false, 0, fmt.Errorf("not the end of a transaction: %w", ErrInvalid)
	}
	err = Records(b, func(r Record) error {
		if len(r.Key) < 4 || len(r.Value) < 6 {
			return fmt.Errorf("control record with a key of %d bytes and a value of %d: %w", len(r.Key), len(r.Value), ErrInvalid)
		}
		switch kind := binary.BigEndian.Uint16(r.Key[2:]); kind {
		case controlAbort:
		case controlCommit:
			commit = true
		default:
			return fmt.Errorf("control record of type %d: %w", kind, ErrInvalid)
		}
		coordinatorEpoch = int32(binary.BigEndian.Uint32(r.Value[2:]))
		return nil
	})
	return commit, coordinatorEpoch, err
}
