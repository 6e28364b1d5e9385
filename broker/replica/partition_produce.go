package replica

import (
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
)

// Produce proposes a batch that record.Validate accepted. It does not wait; done is called once, after the batch was applied, with
// its offset, and that is when it is on disk at a majority; or with a *kerr.Error. The batch is copied: the caller keeps it. done runs on
// a goroutine that other partitions need: it must not block.
//
// Errors: INVALID_RECORD (a control batch, or a producer id without epoch or sequence), OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH,
// INVALID_TXN_STATE (also for what a guard refuses), MESSAGE_TOO_LARGE, REQUEST_TIMED_OUT (too much in flight), NOT_LEADER_OR_FOLLOWER (the last two may be
// retried).
func (p *Partition) Produce(batch []byte, o ProduceOptions, done func(ProduceResult)) {
	b := record.Batch(batch)
	kind, flags := entryBatch, uint8(0)
	if o.InternalControl {
		flags = flagInternal
	}
	if o.OwnEpoch {
		flags |= flagOwnEpoch
	}
	if b.Control() {
		if !o.InternalControl {
			done(ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.LogStart(), Err: kerr.InvalidRecord})
			return
		}
		kind, flags = entryTxnMarker, 0
	}
	now := p.o.Clock.Now().UnixMilli()
	if kind == entryBatch && p.config().LogAppendTime {
		b = record.WithLogAppendTime(b, now)
	}
	guard := o.Guard
	if kind != entryBatch {
		guard = 0
	}
	p.propose(p.entry(kind, flags, now, guard, b), o.Placed, done)
}

// TxnGuard returns what Produce needs to refuse a batch of the producer's transaction that this transaction's marker overtakes. Take it
// before the transaction's coordinator is asked whether the transaction is open.
//
// Where each transaction has an epoch of its own (KIP-890, version 2) a marker fences what comes late. Older clients keep their epoch, so
// that a batch which was verified, and waits while its transaction ends, would open a transaction that nobody ends (KAFKA-14402). Kafka's
// leader holds a guard in memory for that; here it goes into the entry, and every replica decides the same at apply (L4).
func (p *Partition) TxnGuard(producerID int64) TxnGuard {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.ps.byID[producerID]; s != nil {
		return TxnGuard(s.markerIndex + 1)
	}
	return 1
}

// WriteMarker ends the producer's transaction in this partition (WriteTxnMarkers, transaction versions 0 and 1). Like
// Produce, it does not wait. When the transaction is ended already by a marker of the same epoch, nothing is written and Base is -1.
// Errors: INVALID_PRODUCER_EPOCH (a newer epoch has been here), TRANSACTION_COORDINATOR_FENCED, and the retriable ones of Produce.
func (p *Partition) WriteMarker(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, done func(ProduceResult)) {
	p.marker(0, producerID, epoch, commit, coordinatorEpoch, done)
}

// WriteMarkerV2 is WriteMarker for transaction version 2 (KIP-890): the marker carries the epoch after the bump, and one whose
// epoch is that of the open transaction's data is late and refused with INVALID_PRODUCER_EPOCH.
func (p *Partition) WriteMarkerV2(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, done func(ProduceResult)) {
	p.marker(flagStrict, producerID, epoch, commit, coordinatorEpoch, done)
}

func (p *Partition) marker(flags uint8, pid int64, epoch int16, commit bool, coordinatorEpoch int32, done func(ProduceResult)) {
	if pid < 0 || epoch < 0 {
		done(ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.LogStart(), Err: kerr.InvalidProducerEpoch})
		return
	}
	now := p.o.Clock.Now().UnixMilli()
	p.propose(p.entry(entryTxnMarker, flags, now, 0, record.EndTxnMarker(pid, epoch, commit, coordinatorEpoch, now)), nil, done)
}

// entry encodes a batch's entry into a buffer of the node, which has it back when the entry was applied.
func (p *Partition) entry(t entryType, flags uint8, timeMs int64, guard TxnGuard, batch []byte) []byte {
	n := batchEntryBytes(guard, batch)
	var b []byte
	if p.in.buffer != nil {
		b = p.in.buffer(n)
	}
	return appendBatchEntry(b[:0], t, flags, timeMs, guard, batch)
}

func (p *Partition) propose(payload []byte, placed func(), done func(ProduceResult)) {
	if p.in.propose == nil {
		done(ProduceResult{Base: -1, LogAppendTime: -1, Err: kerr.NotLeaderForPartition})
		return
	}
	p.in.propose(payload, placed, func(result any, err error) {
		if err != nil {
			done(ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.LogStart(), Err: kafkaError(err)})
			return
		}
		done(result.(ProduceResult))
	})
}

// DeleteRecords moves the log start offset to before, or to the high watermark when before is -1. It does not wait; done gets the log
// start offset after it was applied. Errors: OFFSET_OUT_OF_RANGE above the high watermark, NOT_LEADER_OR_FOLLOWER.
func (p *Partition) DeleteRecords(before int64, done func(logStart int64, err error)) {
	hw := p.HighWatermark()
	if before == -1 {
		before = hw
	}
	if before < 0 || before > hw {
		done(-1, kerr.OffsetOutOfRange)
		return
	}
	p.moveStart(before, 0, done)
}

func (p *Partition) moveStart(to int64, flags uint8, done func(int64, error)) {
	if p.in.propose == nil {
		done(-1, kerr.NotLeaderForPartition)
		return
	}
	p.in.propose(encodeLogStartEntry(flags, p.o.Clock.Now().UnixMilli(), to), nil, func(result any, err error) {
		if err != nil {
			done(-1, kafkaError(err))
			return
		}
		done(result.(int64), nil)
	})
}
