package replica

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
)

const (
	// windowBatches is how many of a producer's last batches are known by sequence: as many as a client may have in flight
	// (ProducerStateEntry.NUM_BATCHES_TO_RETAIN).
	windowBatches = 5
	// producersMax bounds the producers one partition remembers; above it those silent for longest are forgotten.
	producersMax = 100_000
)

// batchMark is a batch in a producer's window.
type batchMark struct {
	firstSeq, lastSeq int32
	offset            int64 // of the first record
	appendMs          int64 // LogAppendTime answered, or -1
}

// producer is what the partition knows of one producer id.
type producer struct {
	epoch            int16
	coordinatorEpoch int32  // of the last marker; -1: none
	markerIndex      uint64 // raft index of the last marker, written or needless; 0: none
	lastMs           int64  // the log's time of the last batch or marker
	txnFirst         int64  // first offset of the open transaction; -1: none
	txnSinceMs       int64
	n                int
	window           [windowBatches]batchMark // the last n batches of this epoch, oldest first
}

func (p *producer) lastSeq() int32 {
	if p.n == 0 {
		return record.NoSequence
	}
	return p.window[p.n-1].lastSeq
}

func (p *producer) find(first, last int32) (batchMark, bool) {
	for _, m := range p.window[:p.n] {
		if m.firstSeq == first && m.lastSeq == last {
			return m, true
		}
	}
	return batchMark{}, false
}

func (p *producer) remember(m batchMark) {
	if p.n == windowBatches {
		copy(p.window[:], p.window[1:])
		p.n--
	}
	p.window[p.n] = m
	p.n++
}

// bump starts a new epoch: its sequences begin at 0.
func (p *producer) bump(epoch int16) {
	p.epoch = epoch
	p.n = 0
}

// openTxn is an open transaction of the partition.
type openTxn struct {
	first int64
	pid   int64
}

// producers is a partition's producer and transaction state: pure, moved only by applied entries. Its clock is the largest time that leaders
// wrote into entries, so that every replica forgets a producer at the same entry.
//
// N5: open is sorted by first offset, and holds exactly the producers whose txnFirst is set.
type producers struct {
	byID     map[int64]*producer
	open     []openTxn
	nowMs    int64
	expiryMs int64
}

func newProducers(expiryMs int64) producers {
	return producers{byID: map[int64]*producer{}, expiryMs: expiryMs}
}

// advance moves the log's clock; it never goes back, whatever a new leader's says.
func (ps *producers) advance(timeMs int64) { ps.nowMs = max(ps.nowMs, timeMs) }

// get returns a producer that is not forgotten.
func (ps *producers) get(pid int64) *producer {
	p := ps.byID[pid]
	if p != nil && p.txnFirst < 0 && p.lastMs < ps.nowMs-ps.expiryMs {
		delete(ps.byID, pid)
		return nil
	}
	return p
}

// check decides on a batch of an idempotent producer, as Kafka's ProducerStateManager and ProducerAppendInfo do. A duplicate is answered
// with the original's mark.
func (ps *producers) check(b record.Batch, flags uint8) (dup *batchMark, err error) {
	internal := flags&flagInternal != 0
	pid := b.ProducerID()
	if pid < 0 {
		if b.Transactional() {
			return nil, kerr.InvalidRecord
		}
		return nil, nil
	}
	epoch, first, last := b.ProducerEpoch(), b.BaseSequence(), b.LastSequence()
	if epoch < 0 || first < 0 && !internal {
		return nil, kerr.InvalidRecord
	}
	p := ps.get(pid)
	if p == nil {
		if flags&flagOwnEpoch != 0 && first > 0 {
			return nil, kerr.OutOfOrderSequenceNumber // an epoch of its own begins at 0; a batch before it was lost
		}
		return nil, nil // nothing is known: retention or expiry took it, so any sequence may be the next (KIP-360)
	}
	if first >= 0 && epoch == p.epoch {
		if m, ok := p.find(first, last); ok {
			return &m, nil
		}
	}
	switch {
	case epoch < p.epoch:
		return nil, kerr.InvalidProducerEpoch
	case first < 0: // the coordinator's own transactional writes have no sequence
	case epoch > p.epoch && first != 0:
		return nil, kerr.OutOfOrderSequenceNumber
	case epoch == p.epoch && first != nextSeq(p.lastSeq()):
		return nil, kerr.OutOfOrderSequenceNumber
	}
	if p.txnFirst >= 0 && !b.Transactional() {
		return nil, kerr.InvalidTxnState
	}
	return nil, nil
}

// late reports whether a marker of the producer was applied since the guard was taken. A producer that is not known any more was silent
// for so long that nothing of it can be under way.
func (ps *producers) late(pid int64, g TxnGuard) bool {
	p := ps.get(pid)
	return g != 0 && p != nil && p.markerIndex >= uint64(g)
}

// noteMarker remembers that a marker came, whether or not there was something to end.
func (ps *producers) noteMarker(pid int64, index uint64) {
	if p := ps.get(pid); p != nil {
		p.markerIndex = index
	}
}

// nextSeq is the sequence after last; they wrap from 2^31-1 to 0.
func nextSeq(last int32) int32 { return int32((int64(last) + 1) & 0x7fffffff) }

// appended notes a batch that check accepted and that now stands at base.
func (ps *producers) appended(b record.Batch, base, appendMs int64) {
	pid := b.ProducerID()
	if pid < 0 {
		return
	}
	p := ps.get(pid)
	if p == nil {
		p = ps.add(pid, b.ProducerEpoch())
	}
	if b.ProducerEpoch() > p.epoch {
		p.bump(b.ProducerEpoch())
	}
	if b.BaseSequence() >= 0 {
		p.remember(batchMark{firstSeq: b.BaseSequence(), lastSeq: b.LastSequence(), offset: base, appendMs: appendMs})
	}
	p.lastMs = ps.nowMs
	if b.Transactional() && p.txnFirst < 0 {
		p.txnFirst, p.txnSinceMs = base, ps.nowMs
		ps.open = append(ps.open, openTxn{first: base, pid: pid})
	}
}

func (ps *producers) add(pid int64, epoch int16) *producer {
	if len(ps.byID) >= producersMax {
		ps.shrink()
	}
	p := &producer{epoch: epoch, coordinatorEpoch: -1, txnFirst: -1}
	ps.byID[pid] = p
	return p
}

// shrink forgets the expired, and then those without an open transaction that were silent for longest, down to nine tenths of the limit.
// Which ones follows from the log alone.
func (ps *producers) shrink() {
	type idle struct{ pid, ms int64 }
	var all []idle
	for pid, p := range ps.byID {
		if p.txnFirst < 0 {
			all = append(all, idle{pid, p.lastMs})
		}
	}
	slices.SortFunc(all, func(a, b idle) int { return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.pid, b.pid)) })
	for _, i := range all {
		if len(ps.byID) <= producersMax*9/10 && i.ms >= ps.nowMs-ps.expiryMs {
			return
		}
		delete(ps.byID, i.pid)
	}
}

// markerVerdict says what becomes of an end-of-transaction marker.
type markerVerdict struct {
	err  error
	skip bool // the transaction is ended already: nothing to write
}

// checkMarker decides on a marker. strict is transaction version 2, in which every marker's epoch is above that of the data it
// ends: an old marker that comes late cannot end the producer's next transaction (KIP-890).
func (ps *producers) checkMarker(pid int64, epoch int16, coordinatorEpoch int32, strict bool) markerVerdict {
	p := ps.get(pid)
	switch {
	case p == nil:
		return markerVerdict{}
	case coordinatorEpoch < p.coordinatorEpoch:
		return markerVerdict{err: kerr.TransactionCoordinatorFenced}
	case epoch < p.epoch:
		return markerVerdict{err: kerr.InvalidProducerEpoch}
	case epoch == p.epoch && p.txnFirst < 0:
		return markerVerdict{skip: true}
	case epoch == p.epoch && strict:
		return markerVerdict{err: kerr.InvalidProducerEpoch}
	}
	return markerVerdict{}
}

// marked notes a marker that was written: the transaction is over, and older epochs are fenced. first is the transaction's first offset, or
// -1 when none was open.
func (ps *producers) marked(pid int64, epoch int16, coordinatorEpoch int32) (first int64) {
	p := ps.get(pid)
	if p == nil {
		p = ps.add(pid, epoch)
	}
	if epoch > p.epoch {
		p.bump(epoch)
	}
	first = p.txnFirst
	p.txnFirst, p.txnSinceMs = -1, 0
	p.coordinatorEpoch = coordinatorEpoch
	p.lastMs = ps.nowMs
	ps.open = slices.DeleteFunc(ps.open, func(o openTxn) bool { return o.pid == pid })
	return first
}

// lastStable is the first offset of the oldest open transaction, or end.
func (ps *producers) lastStable(end int64) int64 {
	if len(ps.open) > 0 {
		return min(ps.open[0].first, end)
	}
	return end
}

// encode appends the state: count, then each producer by id, so that equal states have equal bytes on every replica.
func (ps *producers) encode(b []byte) []byte {
	b = be64(b, uint64(ps.nowMs))
	b = be32(b, uint32(len(ps.byID)))
	ids := make([]int64, 0, len(ps.byID))
	for pid := range ps.byID {
		ids = append(ids, pid)
	}
	slices.Sort(ids)
	for _, pid := range ids {
		p := ps.byID[pid]
		b = be64(b, uint64(pid))
		b = be16(b, uint16(p.epoch))
		b = be32(b, uint32(p.coordinatorEpoch))
		b = be64(b, p.markerIndex)
		b = be64(b, uint64(p.lastMs))
		b = be64(b, uint64(p.txnFirst))
		b = be64(b, uint64(p.txnSinceMs))
		b = append(b, byte(p.n))
		for _, m := range p.window[:p.n] {
			b = be32(b, uint32(m.firstSeq))
			b = be32(b, uint32(m.lastSeq))
			b = be64(b, uint64(m.offset))
			b = be64(b, uint64(m.appendMs))
		}
	}
	return b
}

// producerBytesMin is the size of a producer without batches in the oldest version that is read.
const producerBytesMin = 8 + 2 + 4 + 8 + 8 + 8 + 1

// decode reads the state as a partition blob of the given version holds it.
func (ps *producers) decode(d *decoder, version byte) {
	ps.nowMs = int64(d.u64())
	n := d.count(producerBytesMin)
	for range n {
		pid := int64(d.u64())
		p := &producer{epoch: int16(d.u16()), coordinatorEpoch: int32(d.u32())}
		if version >= 2 {
			p.markerIndex = d.u64()
		}
		p.lastMs, p.txnFirst, p.txnSinceMs = int64(d.u64()), int64(d.u64()), int64(d.u64())
		p.n = int(d.u8())
		if p.n > windowBatches {
			d.bad = true
			return
		}
		for i := range p.n {
			p.window[i] = batchMark{firstSeq: int32(d.u32()), lastSeq: int32(d.u32()), offset: int64(d.u64()), appendMs: int64(d.u64())}
		}
		ps.byID[pid] = p
		if p.txnFirst >= 0 {
			ps.open = append(ps.open, openTxn{first: p.txnFirst, pid: pid})
		}
	}
	slices.SortFunc(ps.open, func(a, b openTxn) int { return cmp.Compare(a.first, b.first) })
}
