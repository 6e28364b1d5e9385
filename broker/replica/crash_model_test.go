package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
)

// item is something proposed to a partition. Proposals are applied in the order they were made, so the model knows each one's outcome when it
// is made; a power cut takes a suffix of those that were not answered.
type item struct {
	batch    []byte // nil: moves the log start only
	base     int64
	n        int64 // offsets it takes; 0 when it is refused or a duplicate
	pid      int64
	epoch    int16
	lastSeq  int32
	txn      bool
	marker   bool
	commit   bool
	start    int64
	err      error
	dup      bool
	answered bool
}

// model is what one partition must hold.
type model struct {
	group int
	items []*item

	st        modelState // after all items
	serial    int
	startSeen int64 // the largest log start offset anyone was told
	compacted bool  // records have keys, and only the last one of each need be there
}

// modelState is what follows from a prefix of the items.
type modelState struct {
	producers map[int64]*modelProducer
	open      map[int64]int64
	aborted   []segment.AbortedTxn
	end       int64
	start     int64
}

type modelProducer struct {
	epoch   int16
	lastSeq int32
	recent  []*item
}

func newModel(group int) *model { return &model{group: group, st: newModelState()} }

func newModelState() modelState {
	return modelState{producers: map[int64]*modelProducer{}, open: map[int64]int64{}}
}

func (s *modelState) producer(pid int64) *modelProducer {
	p := s.producers[pid]
	if p == nil {
		p = &modelProducer{lastSeq: -1}
		s.producers[pid] = p
	}
	return p
}

// apply moves the state by an item that was accepted.
func (s *modelState) apply(it *item) {
	s.start = max(s.start, it.start)
	if it.n == 0 {
		return
	}
	s.end = it.base + it.n
	if it.pid < 0 {
		return
	}
	p := s.producer(it.pid)
	if it.epoch > p.epoch {
		p.epoch, p.lastSeq, p.recent = it.epoch, -1, nil
	}
	if it.marker {
		if first, ok := s.open[it.pid]; ok && !it.commit {
			delete(s.open, it.pid)
			s.aborted = append(s.aborted, segment.AbortedTxn{ProducerID: it.pid, First: first, Last: it.base, LSO: s.lso()})
		}
		delete(s.open, it.pid)
		return
	}
	p.lastSeq = it.lastSeq
	p.recent = append(p.recent, it)
	if len(p.recent) > 5 {
		p.recent = p.recent[1:]
	}
	if _, ok := s.open[it.pid]; it.txn && !ok {
		s.open[it.pid] = it.base
	}
}

func (s *modelState) lso() int64 {
	l := s.end
	for _, first := range s.open {
		l = min(l, first)
	}
	return l
}

// build makes a batch whose values are found nowhere else.
func (m *model) build(rnd *rand.Rand, pid int64, epoch int16, seq int32, txn bool) item {
	n := 1 + rnd.IntN(3)
	b := record.NewBuilder(record.BuilderOptions{ProducerID: pid, Epoch: epoch, Sequence: seq, Transactional: txn})
	for range n {
		m.serial++
		v := fmt.Appendf(nil, "%d/%d:", m.group, m.serial)
		var key []byte
		if m.compacted {
			key = []byte{'a' + byte(rnd.IntN(6))}
		}
		b.Add(int64(m.serial), key, append(v, bytes.Repeat([]byte{'x'}, rnd.IntN(200))...), nil)
	}
	return item{batch: b.Build(), n: int64(n), pid: pid, epoch: epoch, lastSeq: seq + int32(n) - 1, txn: txn}
}

func (m *model) plain(rnd *rand.Rand) item { return m.build(rnd, -1, -1, -1, false) }

func (m *model) idempotent(rnd *rand.Rand) item {
	pid := int64(1 + rnd.IntN(3))
	p := m.st.producer(pid)
	return m.build(rnd, pid, p.epoch, p.lastSeq+1, false)
}

func (m *model) transactional(rnd *rand.Rand) item {
	pid := int64(11 + rnd.IntN(3))
	p := m.st.producer(pid)
	it := m.build(rnd, pid, p.epoch, p.lastSeq+1, true)
	if p.epoch > 0 && rnd.IntN(8) == 0 { // a zombie of the epoch before
		it = m.build(rnd, pid, p.epoch-1, 0, true)
		it.n, it.err = 0, kerr.InvalidProducerEpoch
	}
	return it
}

// retry sends one of a producer's last five batches again.
func (m *model) retry(rnd *rand.Rand) *item {
	p := m.st.producers[int64(1+rnd.IntN(3))]
	if p == nil || len(p.recent) == 0 {
		return nil
	}
	old := p.recent[rnd.IntN(len(p.recent))]
	return &item{batch: old.batch, pid: old.pid, epoch: old.epoch, base: old.base, dup: true}
}

func (m *model) gap(rnd *rand.Rand) item {
	pid := int64(1 + rnd.IntN(3))
	p := m.st.producer(pid)
	it := m.build(rnd, pid, p.epoch, p.lastSeq+3, false)
	if p.lastSeq >= 0 { // an unknown producer may begin anywhere: its state may have expired
		it.n, it.err = 0, kerr.OutOfOrderSequenceNumber
	}
	return it
}

func (m *model) add(it item) *item {
	if !it.dup {
		it.base = m.st.end
	}
	p := &it
	m.items = append(m.items, p)
	m.st.apply(p)
	return p
}

func (m *model) produce(w *world, p *replica.Partition, it item) {
	x := m.add(it)
	p.Produce(x.batch, replica.ProduceOptions{}, m.answer(w, x))
}

// answer compares the outcome with the model's.
func (m *model) answer(w *world, x *item) func(replica.ProduceResult) {
	op := w.op
	node := w.node
	return func(r replica.ProduceResult) {
		if node != w.node { // the world went on after a cut
			return
		}
		x.answered = true
		switch {
		case !errors.Is(r.Err, x.err) || x.err == nil && r.Err != nil:
			w.fatalf("%s: answered %v, want %v", op, r.Err, x.err)
		case x.err == nil && (r.Base != x.base || r.Duplicate != x.dup):
			w.fatalf("%s: base %d duplicate %v, want %d %v", op, r.Base, r.Duplicate, x.base, x.dup)
		}
		m.startSeen = max(m.startSeen, r.LogStart)
	}
}

// endTxn ends a transaction as version 2 does: the marker carries the next epoch.
func (m *model) endTxn(w *world, p *replica.Partition) {
	pid := int64(11 + w.rnd.IntN(3))
	if _, ok := m.st.open[pid]; !ok {
		return
	}
	it := item{n: 1, pid: pid, epoch: m.st.producer(pid).epoch + 1, marker: true, commit: w.rnd.IntN(2) == 0}
	x := m.add(it)
	p.WriteMarkerV2(pid, it.epoch, it.commit, 3, m.answer(w, x))
}

// lateMarker sends the marker of a transaction that ended before the one that is open: it must end nothing.
func (m *model) lateMarker(w *world, p *replica.Partition) {
	pid := int64(11 + w.rnd.IntN(3))
	if _, ok := m.st.open[pid]; !ok {
		return
	}
	x := m.add(item{pid: pid, epoch: m.st.producer(pid).epoch, marker: true, err: kerr.InvalidProducerEpoch})
	p.WriteMarkerV2(pid, x.epoch, true, 3, m.answer(w, x))
}

func (m *model) deleteRecords(w *world, p *replica.Partition) {
	hw := p.HighWatermark()
	if hw == 0 {
		return
	}
	x := m.add(item{start: w.rnd.Int64N(hw + 1)})
	node := w.node
	p.DeleteRecords(x.start, func(start int64, err error) {
		if node != w.node {
			return
		}
		x.answered = true
		if err != nil || start < x.start {
			w.fatalf("delete records below %d: %d, %v", x.start, start, err)
		}
		m.startSeen = max(m.startSeen, start)
	})
}

func (m *model) pending() (n int) {
	for _, x := range m.items {
		if !x.answered {
			n++
		}
	}
	return n
}

// lose forgets the items after the first held ones: a power cut took them. The log may start later than anyone was told.
func (m *model) lose(held int, start int64) {
	m.items = m.items[:held]
	m.st = newModelState()
	for _, x := range m.items {
		x.answered = true
		m.st.apply(x)
	}
	m.startSeen = max(m.startSeen, start)
}

// verify compares p with the model and returns how many items p holds. Everything answered must be there; of the rest, a prefix may.
func (m *model) verify(p *replica.Partition) (held int, err error) {
	hw := p.HighWatermark()
	st := newModelState()
	for _, x := range m.items {
		if x.n > 0 && x.base >= hw {
			break
		}
		st.apply(x)
		held++
	}
	for i, x := range m.items {
		if x.answered && i >= held {
			return 0, fmt.Errorf("item %d was acknowledged at offset %d, the log ends at %d", i, x.base, hw)
		}
	}
	if st.end != hw {
		return 0, fmt.Errorf("the log ends at %d, inside what ends at %d", hw, st.end)
	}
	start := p.LogStart()
	if start < m.startSeen || start > hw {
		return 0, fmt.Errorf("log start %d, was %d before, high watermark %d", start, m.startSeen, hw)
	}
	if want := max(st.lso(), start); p.LastStable() != want {
		return 0, fmt.Errorf("last stable offset %d, want %d", p.LastStable(), want)
	}
	if m.compacted {
		err = m.verifyKeys(p, &st, held, start)
	} else if err = m.verifyBatches(p, held, start); err == nil {
		err = verifyAborted(p, &st, start)
	}
	if err != nil {
		return 0, err
	}
	return held, verifyProducers(p, &st)
}

func (m *model) verifyBatches(p *replica.Partition, held int, start int64) error {
	r, err := readAll(p, start, false)
	if err != nil {
		return fmt.Errorf("read from %d: %w", start, err)
	}
	got := map[int64]record.Batch{}
	next, epoch := int64(-1), int32(0)
	for b, err := range record.Split(r.Bytes) {
		if err != nil {
			return fmt.Errorf("read from %d: %w", start, err)
		}
		if next >= 0 && b.BaseOffset() != next {
			return fmt.Errorf("batch at %d, want %d", b.BaseOffset(), next)
		}
		if e := b.LeaderEpoch(); e < epoch || e > p.LeaderEpoch() {
			return fmt.Errorf("batch at %d of leader epoch %d, after one of %d; now %d", b.BaseOffset(), e, epoch, p.LeaderEpoch())
		}
		next, epoch = b.LastOffset()+1, b.LeaderEpoch()
		got[b.BaseOffset()] = b
	}
	if next != -1 && next != p.HighWatermark() {
		return fmt.Errorf("batches end at %d, high watermark %d", next, p.HighWatermark())
	}
	for i, x := range m.items[:held] {
		if x.n == 0 || x.base+x.n <= start {
			continue
		}
		b := got[x.base]
		if b == nil {
			return fmt.Errorf("item %d: nothing at offset %d, log start %d", i, x.base, start)
		}
		if !x.marker && !bytes.Equal(b[record.PrefixBytes:], x.batch[record.PrefixBytes:]) {
			return fmt.Errorf("item %d: another batch at offset %d", i, x.base)
		}
		if x.marker && (!b.Control() || b.ProducerID() != x.pid || b.ProducerEpoch() != x.epoch) {
			return fmt.Errorf("item %d: not the marker at offset %d", i, x.base)
		}
	}
	return nil
}

// verifyKeys checks a compacted partition: what it holds was written there, and the last committed record of each key is there.
func (m *model) verifyKeys(p *replica.Partition, st *modelState, held int, start int64) error {
	want, last := map[int64]string{}, map[string]int64{}
	for _, x := range m.items[:held] {
		if x.n == 0 || x.marker {
			continue
		}
		err := record.Records(x.batch, func(r record.Record) error {
			at := x.base + int64(r.OffsetDelta)
			want[at] = string(r.Key) + string(r.Value)
			if at >= start && !(x.txn && st.undone(x.pid, at)) {
				last[string(r.Key)] = at
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	all, err := readAll(p, start, false)
	if err != nil {
		return fmt.Errorf("read from %d: %w", start, err)
	}
	found := map[int64]bool{}
	for b, err := range record.Split(all.Bytes) {
		if err != nil {
			return fmt.Errorf("read from %d: %w", start, err)
		}
		if b.Control() || b.Count() == 0 {
			continue
		}
		err := record.Records(b, func(r record.Record) error {
			at := b.BaseOffset() + int64(r.OffsetDelta)
			if want[at] != string(r.Key)+string(r.Value) {
				return fmt.Errorf("another record at offset %d", at)
			}
			found[at] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	for k, at := range last {
		if !found[at] {
			return fmt.Errorf("the last record of key %s, at offset %d, is gone; log start %d", k, at, start)
		}
	}
	return nil
}

// undone reports whether the producer's record at an offset belongs to an aborted or open transaction.
func (s *modelState) undone(pid, at int64) bool {
	if first, open := s.open[pid]; open && at >= first {
		return true
	}
	return slices.ContainsFunc(s.aborted, func(a segment.AbortedTxn) bool { return a.ProducerID == pid && at >= a.First && at <= a.Last })
}

func verifyAborted(p *replica.Partition, st *modelState, start int64) error {
	r, err := readAll(p, start, true)
	if err != nil {
		return fmt.Errorf("read committed from %d: %w", start, err)
	}
	var want []segment.AbortedTxn
	for _, a := range st.aborted {
		if a.Last >= start && a.First < r.Next && len(r.Bytes) > 0 {
			want = append(want, a)
		}
	}
	byLast := func(a, b segment.AbortedTxn) int { return int(a.Last - b.Last) }
	got := slices.Clone(r.Aborted)
	slices.SortFunc(got, byLast)
	slices.SortFunc(want, byLast)
	if !slices.Equal(got, want) {
		return fmt.Errorf("aborted transactions %v, want %v", got, want)
	}
	for b, err := range record.Split(r.Bytes) {
		if err != nil {
			return err
		}
		if first, open := st.open[b.ProducerID()]; open && b.Transactional() && b.BaseOffset() >= first {
			return fmt.Errorf("batch at %d of an open transaction was read as committed", b.BaseOffset())
		}
	}
	return nil
}

func verifyProducers(p *replica.Partition, st *modelState) error {
	for _, g := range p.Producers() {
		want := st.producers[g.ProducerID]
		if want == nil {
			return fmt.Errorf("producer %d is known, and never wrote", g.ProducerID)
		}
		if g.Epoch != want.epoch || g.LastSequence != want.lastSeq {
			return fmt.Errorf("producer %d: epoch %d, sequence %d, want %d, %d", g.ProducerID, g.Epoch, g.LastSequence, want.epoch, want.lastSeq)
		}
	}
	open := p.OpenTxns()
	if len(open) != len(st.open) {
		return fmt.Errorf("%d open transactions, want %d", len(open), len(st.open))
	}
	for _, o := range open {
		if st.open[o.ProducerID] != o.FirstOffset {
			return fmt.Errorf("transaction of producer %d open since %d, want %d", o.ProducerID, o.FirstOffset, st.open[o.ProducerID])
		}
	}
	return nil
}

// readAll reads until nothing more comes; one Read ends at a segment's end.
func readAll(p *replica.Partition, from int64, readCommitted bool) (replica.FetchResult, error) {
	all, err := p.Read(from, 1<<30, readCommitted, true)
	for r := all; err == nil && len(r.Bytes) > 0; {
		if r, err = p.Read(all.Next, 1<<30, readCommitted, true); err != nil {
			break
		}
		all.Bytes, all.Next = append(all.Bytes, r.Bytes...), r.Next
		for _, a := range r.Aborted {
			if !slices.Contains(all.Aborted, a) {
				all.Aborted = append(all.Aborted, a)
			}
		}
	}
	return all, err
}
