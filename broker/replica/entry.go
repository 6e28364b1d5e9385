package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/outrelay/outrelay/broker/record"
)

// entryType is the first byte of an entry's payload (docs/format/entry.md). Unknown types and flags stop a replica: it would diverge.
type entryType uint8

const (
	entryBatch     entryType = 1 // a record batch as the producer sent it
	entryTxnMarker entryType = 2 // a control batch that ends a transaction
	entryLogStart  entryType = 3 // the log start offset moves
)

const (
	// flagStrict, of a marker: its epoch must be above the transaction's (KIP-890, transaction version 2).
	flagStrict = 1 << 0
	// flagInternal, of a batch: the broker's own; it may be a control batch and may come without a sequence.
	flagInternal = 1 << 1
	// flagRetention, of a log start: moved by retention, not by DeleteRecords.
	flagRetention = 1 << 2
	// flagGuarded, of a batch: it enters the log only if no marker of its producer was applied since its sender was verified; a
	// TxnGuard stands before the batch.
	flagGuarded = 1 << 3
	// flagOwnEpoch, of a batch: its transaction has an epoch of its own (KIP-890, transaction version 2), so it begins with sequence 0.
	flagOwnEpoch = 1 << 4
)

// guardBytes is the size of a guard in an entry.
const guardBytes = 8

// entryHeadBytes is type, flags and the leader's time.
const entryHeadBytes = 1 + 1 + 8

// partitionEntry is a decoded entry. Time is the leader's clock when it was proposed: the only clock that apply knows.
type partitionEntry struct {
	kind     entryType
	flags    uint8
	timeMs   int64
	guard    TxnGuard     // 0 without flagGuarded
	batch    record.Batch // of batch and txnMarker; aliases the payload
	logStart int64
}

// batchEntryBytes is the size of an entry with a batch.
func batchEntryBytes(guard TxnGuard, batch []byte) int {
	n := entryHeadBytes + len(batch)
	if guard != 0 {
		n += guardBytes
	}
	return n
}

// appendBatchEntry appends an entry with a batch to b; a guard of 0 is none.
func appendBatchEntry(b []byte, t entryType, flags uint8, timeMs int64, guard TxnGuard, batch []byte) []byte {
	if guard != 0 {
		flags |= flagGuarded
	}
	b = append(b, byte(t), flags)
	b = be64(b, uint64(timeMs))
	if guard != 0 {
		b = be64(b, uint64(guard))
	}
	return append(b, batch...)
}

func encodeLogStartEntry(flags uint8, timeMs, offset int64) []byte {
	b := make([]byte, 0, entryHeadBytes+8)
	b = append(b, byte(entryLogStart), flags)
	b = be64(b, uint64(timeMs))
	return be64(b, uint64(offset))
}

// decodeEntry reads an entry's payload. The batch's own CRC is not checked again: the write-ahead log's covers it.
func decodeEntry(b []byte) (partitionEntry, error) {
	if len(b) < entryHeadBytes {
		return partitionEntry{}, fmt.Errorf("entry of %d bytes: %w", len(b), ErrCorrupt)
	}
	e := partitionEntry{kind: entryType(b[0]), flags: b[1], timeMs: int64(binary.BigEndian.Uint64(b[2:]))}
	body := b[entryHeadBytes:]
	if e.flags&^(flagStrict|flagInternal|flagRetention|flagGuarded|flagOwnEpoch) != 0 {
		return e, fmt.Errorf("entry flags %#x: %w", e.flags, ErrVersion)
	}
	if e.flags&flagGuarded != 0 {
		if e.kind != entryBatch || len(body) < guardBytes {
			return e, fmt.Errorf("entry of type %d and %d bytes with a guard: %w", e.kind, len(b), ErrCorrupt)
		}
		e.guard, body = TxnGuard(binary.BigEndian.Uint64(body)), body[guardBytes:]
	}
	switch e.kind {
	case entryBatch, entryTxnMarker:
		e.batch = record.Batch(body)
		if len(body) < record.HeaderBytes || e.batch.Size() != int64(len(body)) || e.batch.Magic() != record.Magic {
			return e, fmt.Errorf("entry with a batch of %d bytes: %w", len(body), ErrCorrupt)
		}
		if e.batch.LastOffsetDelta() < 0 {
			return e, fmt.Errorf("entry with a batch whose last offset delta is %d: %w", e.batch.LastOffsetDelta(), ErrCorrupt)
		}
	case entryLogStart:
		if len(body) != 8 {
			return e, fmt.Errorf("log start entry of %d bytes: %w", len(b), ErrCorrupt)
		}
		e.logStart = int64(binary.BigEndian.Uint64(body))
	default:
		return e, fmt.Errorf("entry type %d: %w", e.kind, ErrVersion)
	}
	return e, nil
}
