package replica

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/segment"
)

// Read returns whole batches from the one that contains from, up to maxBytes, below the high watermark, or below the last stable offset
// with readCommitted (then with the aborted transactions among them). With minOne the first batch comes whatever its size (KIP-74). At
// the end it returns no bytes and no error: Watch says when to ask again. It may block on the disk. Errors:
// OFFSET_OUT_OF_RANGE, KAFKA_STORAGE_ERROR (see Damage); the watermarks of the result are set then too.
func (p *Partition) Read(from int64, maxBytes int, readCommitted, minOne bool) (FetchResult, error) {
	return p.read(from, readCommitted, func(limit int64) (segment.Chunk, error) { return p.log.Read(from, limit, maxBytes, minOne) })
}

// Lend is Read for who sends the batches and forgets them: see segment.Log.Lend. The caller calls Release.
func (p *Partition) Lend(from int64, maxBytes int, readCommitted, minOne, extents bool) (FetchResult, error) {
	return p.read(from, readCommitted, func(limit int64) (segment.Chunk, error) {
		return p.log.Lend(from, limit, maxBytes, minOne, extents)
	})
}

func (p *Partition) read(from int64, readCommitted bool, batches func(limit int64) (segment.Chunk, error)) (FetchResult, error) {
	// The watermark first: what is loaded later is not older than it.
	r := FetchResult{HighWatermark: p.hw.Load(), Chunk: segment.Chunk{Next: from}}
	r.LogStart = p.start.Load()
	r.LastStable = min(p.lso.Load(), r.HighWatermark)
	if p.Damage() != nil {
		return r, kerr.KafkaStorageError
	}
	if from < r.LogStart || from > r.HighWatermark {
		return r, kerr.OffsetOutOfRange
	}
	limit := r.HighWatermark
	if readCommitted {
		limit = r.LastStable
	}
	if from >= limit {
		return r, nil
	}
	c, err := batches(limit)
	switch {
	case errors.Is(err, segment.ErrOutOfRange): // retention went by
		r.LogStart = max(r.LogStart, p.start.Load())
		return r, kerr.OffsetOutOfRange
	case err != nil:
		p.unreadable(from, err)
		return r, kerr.KafkaStorageError
	}
	if len(c.Bytes) > 0 || c.Extent != nil {
		r.Chunk = c
		if readCommitted {
			if r.Aborted, err = p.log.Aborted(from, c.Next); err != nil {
				// Without the list a reader would take aborted records for committed ones.
				p.unreadable(from, fmt.Errorf("aborted transactions: %w", err))
				r.Release()
				r.Next = from
				return r, kerr.KafkaStorageError
			}
		}
	}
	return r, nil
}

// Watch returns a channel that is closed when the high watermark or the last stable offset moves next. Take it before looking at them: a
// move between the two is then not missed.
func (p *Partition) Watch() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == nil {
		p.watch = make(chan struct{})
	}
	return p.watch
}

// HighWatermark returns the first offset not committed.
func (p *Partition) HighWatermark() int64 { return p.hw.Load() }

// LastStable returns the last stable offset: readers of committed data see what is below.
func (p *Partition) LastStable() int64 { return p.lso.Load() }

// LogStart returns the log start offset.
func (p *Partition) LogStart() int64 { return p.start.Load() }

// LeaderEpoch returns the leader epoch this replica knows: the raft term.
func (p *Partition) LeaderEpoch() int32 { return int32(p.term.Load()) }

// Leads reports whether this replica leads and has applied everything that was ever acknowledged. Only then may it answer for the
// partition.
func (p *Partition) Leads() bool { return p.leads.Load() }

// Size returns the bytes of the partition's segments.
func (p *Partition) Size() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.Size()
}

// OffsetForTime returns the first record, at or above the log start offset, with a timestamp of ts (ms) or later. It may read the disk.
func (p *Partition) OffsetForTime(ts int64) (offset, foundTs int64, ok bool, err error) {
	start := p.LogStart() // the segments' own follows later
	offset, foundTs, ok, err = p.log.OffsetForTime(ts, start)
	if err != nil {
		p.unreadable(start, err)
	}
	return offset, foundTs, ok, err
}

// MaxTimestamp returns the record with the largest timestamp, or -1, -1 in an empty partition.
func (p *Partition) MaxTimestamp() (offset, ts int64) {
	offset, ts, ok, err := p.log.MaxTimestamp()
	if err != nil {
		p.unreadable(p.LogStart(), err)
	}
	if err != nil || !ok {
		return -1, -1
	}
	return offset, ts
}

// OffsetForEpoch answers OffsetForLeaderEpoch (KIP-320): the largest epoch not above the one asked for, and where it ends. -1, -1 for
// an epoch this replica does not know.
func (p *Partition) OffsetForEpoch(epoch int32) (endEpoch int32, endOffset int64) {
	switch cur := p.LeaderEpoch(); {
	case epoch > cur:
		return -1, -1
	case epoch == cur:
		return cur, p.HighWatermark()
	}
	return p.log.EpochEnd(epoch)
}

// HasOpenTxn reports whether the producer has an open transaction here in this epoch, so that a batch of it needs no verification by the
// coordinator (KIP-890).
func (p *Partition) HasOpenTxn(producerID int64, epoch int16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.ps.byID[producerID]
	return s != nil && s.txnFirst >= 0 && s.epoch == epoch
}

// Producers returns the producers that the partition remembers, by id.
func (p *Partition) Producers() []ProducerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]ProducerState, 0, len(p.ps.byID))
	for pid, s := range p.ps.byID {
		out = append(out, ProducerState{
			ProducerID: pid, Epoch: s.epoch, LastSequence: s.lastSeq(), LastTimestamp: s.lastMs,
			CoordinatorEpoch: s.coordinatorEpoch, TxnFirstOffset: s.txnFirst,
		})
	}
	slices.SortFunc(out, func(a, b ProducerState) int { return cmp.Compare(a.ProducerID, b.ProducerID) })
	return out
}

// OpenTxns returns the open transactions, the one that holds the last stable offset first.
func (p *Partition) OpenTxns() []OpenTxn {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]OpenTxn, 0, len(p.ps.open))
	for _, t := range p.ps.open {
		s := p.ps.byID[t.pid]
		out = append(out, OpenTxn{ProducerID: t.pid, Epoch: s.epoch, FirstOffset: t.first, Since: s.txnSinceMs})
	}
	return out
}
