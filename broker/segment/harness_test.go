package segment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

const dir = "data/topic-0"

// fact is a record as the model knows it.
type fact struct {
	offset, ts int64
	key, value []byte // nil: null, tombstone
	pid        int64
	aborted    bool
}

// step is something the log was told, to be told again after a crash.
type step struct {
	base    int64
	batch   []byte
	epoch   int32
	aborted *segment.AbortedTxn
}

// model is what a log should hold, and the log itself.
type model struct {
	rnd  *rand.Rand
	c    record.Codecs
	fs   *vfs.Mem
	clk  *clock.Fake
	opts segment.Options
	log  *segment.Log

	steps   []step
	facts   []fact          // by offset; markers have none
	headers map[int64]int64 // producer → last offset of its last data batch
	open    map[int64]int64 // producer → first offset of its open transaction
	aborts  []segment.AbortedTxn
	epochs  []segment.Epoch
	epoch   int32
	next    int64
	ts      int64

	durable segment.State // what the last checkpoint says
	start   int64         // the log start offset asked for
	cleaned int64         // compaction may have touched what is below
}

func newModel(seed uint64) *model {
	rnd := rand.New(rand.NewPCG(seed, 1))
	clk := clock.NewFake(time.UnixMilli(1_700_000_000_000))
	m := &model{
		rnd: rnd, fs: vfs.NewMem(), clk: clk, headers: map[int64]int64{}, open: map[int64]int64{}, ts: clk.Now().UnixMilli(),
		opts: segment.Options{
			SegmentBytes: int64(500 + rnd.IntN(4000)), IndexIntervalBytes: 100 + rnd.IntN(400), TailBytes: 1 + rnd.IntN(20000), Clock: clk,
			SegmentAge: time.Duration(1+rnd.IntN(100)) * time.Minute,
		},
	}
	return m
}

func (m *model) reopen(fs *vfs.Mem, st segment.State) error {
	log, err := segment.Open(fs, dir, st, m.opts)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	m.fs, m.log = fs, log
	return nil
}

// replay tells log what came after its state, as the write-ahead log would.
func (m *model) replay(log *segment.Log) error {
	for _, s := range m.steps {
		if s.aborted == nil && s.base >= log.NextOffset() {
			if err := log.Append(record.Stamp16(s.batch, s.base, s.epoch), s.batch); err != nil {
				return err
			}
		}
		if s.aborted != nil && s.base >= m.durable.NextOffset {
			if err := log.AppendAborted(*s.aborted); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *model) tell(b []byte) error {
	s := step{base: m.next, batch: b, epoch: m.epoch}
	if len(m.epochs) == 0 || m.epochs[len(m.epochs)-1].Epoch < m.epoch {
		m.epochs = append(m.epochs, segment.Epoch{Epoch: m.epoch, Start: m.next})
	}
	m.steps = append(m.steps, s)
	m.next += int64(record.Batch(b).LastOffsetDelta()) + 1
	return m.log.Append(record.Stamp16(b, s.base, s.epoch), b)
}

func (m *model) produce() error {
	codec := record.Codec(m.rnd.IntN(5) * m.rnd.IntN(2))
	o := record.NoProducer(codec)
	if pid := int64(m.rnd.IntN(6)); pid < 4 {
		_, open := m.open[pid]
		o = record.BuilderOptions{ProducerID: pid, Transactional: open || pid < 2, Codec: codec}
		if o.Transactional && !open {
			m.open[pid] = m.next
		}
		o.Sequence = int32(m.next) // any number will do
	}
	o.Codecs = &m.c
	b := record.NewBuilder(o)
	for i := range 1 + m.rnd.IntN(5) {
		m.ts += int64(m.rnd.IntN(2000)) - 500
		f := fact{offset: m.next + int64(i), ts: m.ts, pid: o.ProducerID, key: fmt.Appendf(nil, "k%d", m.rnd.IntN(12))}
		if m.rnd.IntN(5) > 0 {
			f.value = fmt.Appendf(nil, "%d:%s", f.offset, bytes.Repeat([]byte("x"), m.rnd.IntN(60)))
		}
		b.Add(f.ts, f.key, f.value, nil)
		m.facts = append(m.facts, f)
	}
	if err := m.tell(b.Build()); err != nil {
		return err
	}
	if o.ProducerID >= 0 {
		m.headers[o.ProducerID] = m.next - 1
	}
	return nil
}

func (m *model) endTxn() error {
	for pid := range int64(4) {
		first, ok := m.open[pid]
		if !ok || m.rnd.IntN(2) == 0 {
			continue
		}
		commit := m.rnd.IntN(2) == 0
		at := m.next
		if err := m.tell(record.EndTxnMarker(pid, 0, commit, 1, m.ts)); err != nil {
			return err
		}
		delete(m.open, pid)
		if commit {
			continue
		}
		a := segment.AbortedTxn{ProducerID: pid, First: first, Last: at, LSO: m.stable()}
		m.aborts = append(m.aborts, a)
		for i := range m.facts {
			if f := &m.facts[i]; f.pid == pid && f.offset >= first {
				f.aborted = true
			}
		}
		m.steps = append(m.steps, step{base: at, aborted: &a})
		if err := m.log.AppendAborted(a); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) stable() int64 {
	lso := m.next
	for _, first := range m.open {
		lso = min(lso, first)
	}
	return lso
}

func (m *model) checkpoint() error {
	st := m.log.State()
	if _, err := m.log.Sync(); err != nil {
		return err
	}
	var back segment.State
	if err := back.Unmarshal(st.Marshal()); err != nil {
		return err
	}
	m.durable = back
	return nil
}

func (m *model) compact() error {
	below := min(m.durable.ActiveBase, m.stable())
	m.cleaned = max(m.cleaned, below)
	stats, err := m.log.Compact(context.Background(), segment.CompactOptions{
		Below: below, Now: m.clk.Now(), DeleteRetention: time.Duration(m.rnd.IntN(3)) * time.Hour, ProducerExpiry: 1000 * time.Hour,
		MapBytes: 1 << (10 + m.rnd.IntN(8)),
	})
	if err != nil || stats.CleanedTo == 0 {
		return err
	}
	return m.checkCompacted(stats.CleanedTo)
}

// checkCompacted looks for what a compaction up to an offset should have removed: records that a later committed one of their key replaces, and those of
// aborted transactions.
func (m *model) checkCompacted(to int64) error {
	start := m.log.LogStartOffset()
	all, err := readAll(m.log, m.rnd, start, m.next)
	if err != nil {
		return err
	}
	facts, latest := map[int64]fact{}, map[string]int64{}
	for _, f := range m.facts {
		facts[f.offset] = f
		if f.offset < to && !f.aborted && !m.inOpen(f) {
			latest[string(f.key)] = f.offset
		}
	}
	for _, b := range all {
		if b.Control() {
			continue
		}
		if err := m.c.Records(b, func(r record.Record) error {
			f := facts[b.Offset(r)]
			switch {
			case f.offset >= to:
			case f.aborted:
				return fmt.Errorf("compacted to %d: the aborted record at %d is there", to, f.offset)
			case f.offset < latest[string(f.key)]:
				return fmt.Errorf("compacted to %d: the record of %s at %d is there, and a later one at %d", to, f.key, f.offset, latest[string(f.key)])
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) advance() error {
	m.start = max(m.start, min(m.durable.ActiveBase, m.durable.LogStartOffset+int64(m.rnd.IntN(200))))
	m.durable.LogStartOffset = m.start // a checkpoint says so before the files go
	return m.log.AdvanceStart(m.start)
}

// readOnce reads in one of the ways there are. What is lent is copied and given back at once.
func readOnce(log *segment.Log, rnd *rand.Rand, from, limit int64) (segment.Chunk, error) {
	most := rnd.IntN(3000)
	if rnd.IntN(2) == 0 {
		return log.Read(from, limit, most, true)
	}
	return lend(log, from, limit, most, true)
}

// lend is Lend with extents, its batches copied and given back. The extent stays set, to tell.
func lend(log *segment.Log, from, limit int64, most int, minOne bool) (segment.Chunk, error) {
	c, err := log.Lend(from, limit, most, minOne, true)
	if err != nil {
		return c, err
	}
	defer c.Release()
	out := segment.Chunk{Bytes: bytes.Clone(c.Bytes), Extent: c.Extent, Next: c.Next}
	if c.Extent != nil {
		var b bytes.Buffer
		if err := c.Extent.SendTo(&b); err != nil {
			return out, err
		}
		if int64(b.Len()) != c.Extent.Bytes() {
			return out, fmt.Errorf("extent of %d bytes sent %d", c.Extent.Bytes(), b.Len())
		}
		out.Bytes = b.Bytes()
	}
	return out, nil
}

// readAll reads [from, next) as a client does, in bites of any size.
func readAll(log *segment.Log, rnd *rand.Rand, from, limit int64) (all []record.Batch, err error) {
	for from < limit {
		c, err := readOnce(log, rnd, from, limit)
		if err != nil {
			return nil, fmt.Errorf("read at %d: %w", from, err)
		}
		if len(c.Bytes) == 0 && c.Next <= from {
			return nil, fmt.Errorf("read at %d of [, %d) returns nothing", from, limit)
		}
		for b, err := range record.Split(c.Bytes) {
			if err != nil {
				return nil, fmt.Errorf("read at %d: %w", from, err)
			}
			if b.LastOffset() < from || b.LastOffset() >= limit {
				return nil, fmt.Errorf("read at %d below %d: batch [%d, %d]", from, limit, b.BaseOffset(), b.LastOffset())
			}
			if err := record.CheckCRC(b); err != nil {
				return nil, err
			}
			from = b.LastOffset() + 1
			all = append(all, b)
		}
		if c.Next < from {
			return nil, fmt.Errorf("next is %d after a batch that ends before %d", c.Next, from)
		}
		from = c.Next
	}
	return all, nil
}

// check compares a log, which has been told everything, with the model.
func (m *model) check(log *segment.Log) error {
	start := log.LogStartOffset()
	if start > m.start || log.NextOffset() != m.next {
		return fmt.Errorf("log [%d, %d), want [%d, %d)", start, log.NextOffset(), m.start, m.next)
	}
	all, err := readAll(log, m.rnd, start, m.next)
	if err != nil {
		return err
	}
	last := int64(-1)
	lastOf := map[int64]int64{}
	present := map[int64]bool{}
	facts := map[int64]fact{}
	for _, f := range m.facts {
		facts[f.offset] = f
	}
	type timed struct{ offset, ts int64 }
	var times []timed
	for _, b := range all {
		if b.BaseOffset() <= last {
			return fmt.Errorf("batch at %d after offset %d", b.BaseOffset(), last)
		}
		last = b.LastOffset()
		if b.Control() {
			if err := m.c.Records(b, func(r record.Record) error {
				times = append(times, timed{b.Offset(r), b.Timestamp(r)})
				return nil
			}); err != nil {
				return err
			}
			continue
		}
		lastOf[b.ProducerID()] = b.LastOffset()
		if err := m.c.Records(b, func(r record.Record) error {
			f, ok := facts[b.Offset(r)]
			if !ok || !bytes.Equal(f.key, r.Key) || !bytes.Equal(f.value, r.Value) || (f.value == nil) != (r.Value == nil) || f.ts != b.Timestamp(r) || f.pid != b.ProducerID() {
				return fmt.Errorf("record at %d is %d %q %q, want %+v", b.Offset(r), b.Timestamp(r), r.Key, r.Value, f)
			}
			present[f.offset] = true
			times = append(times, timed{f.offset, f.ts})
			return nil
		}); err != nil {
			return err
		}
	}
	latest := map[string]fact{}
	for _, f := range m.facts {
		if f.offset < start {
			continue
		}
		if !f.aborted && !m.inOpen(f) {
			latest[string(f.key)] = f
		}
		if f.offset >= m.cleaned && !present[f.offset] {
			return fmt.Errorf("record at %d is gone", f.offset)
		}
	}
	for _, f := range latest {
		if f.value != nil && !present[f.offset] {
			return fmt.Errorf("the latest record of %s, at %d, is gone", f.key, f.offset)
		}
	}
	for pid, offset := range m.headers {
		if offset >= start && lastOf[pid] != offset {
			return fmt.Errorf("the last batch of producer %d ends at %d, want %d", pid, lastOf[pid], offset)
		}
	}
	if err := m.checkAborted(log, start, present); err != nil {
		return err
	}
	for range 5 {
		ts := m.ts - int64(m.rnd.IntN(100_000))
		want := timed{}
		found := false
		for _, t := range times {
			if t.ts >= ts && t.offset >= start {
				want, found = t, true
				break
			}
		}
		offset, at, ok, err := log.OffsetForTime(ts, 0)
		if err != nil || ok != found || (ok && (offset != want.offset || at != want.ts)) {
			return fmt.Errorf("offset for time %d: %d@%d %v %v, want %v %v", ts, offset, at, ok, err, want, found)
		}
	}
	for i, e := range m.epochs {
		end := m.next
		if i+1 < len(m.epochs) {
			end = m.epochs[i+1].Start
		}
		if end <= start {
			continue
		}
		if epoch, got := log.EpochEnd(e.Epoch); epoch != e.Epoch || got != end {
			return fmt.Errorf("epoch %d ends as %d at %d, want %d", e.Epoch, epoch, got, end)
		}
	}
	return log.Verify()
}

func (m *model) inOpen(f fact) bool {
	first, ok := m.open[f.pid]
	return ok && f.offset >= first
}

func (m *model) checkAborted(log *segment.Log, start int64, present map[int64]bool) error {
	from := start + int64(m.rnd.IntN(int(m.next-start)+1))
	to := from + int64(m.rnd.IntN(int(m.next-from)+1))
	got, err := log.Aborted(from, to)
	if err != nil {
		return err
	}
	have := map[segment.AbortedTxn]bool{}
	for _, a := range got {
		a.LSO = 0 // a rebuilt one may be rounder
		have[a] = true
	}
	for _, a := range m.aborts {
		needed := false
		for _, f := range m.facts {
			needed = needed || (f.pid == a.ProducerID && f.aborted && f.offset >= max(a.First, from) && f.offset < min(a.Last, to) && present[f.offset])
		}
		a.LSO = 0
		if needed && !have[a] {
			// Compaction may have taken the first records, and an index rebuilt from the log then begins later.
			ok := false
			for _, g := range got {
				ok = ok || (g.ProducerID == a.ProducerID && g.Last == a.Last && g.First <= max(a.First, from))
			}
			if !ok && from >= m.cleaned && start <= a.First {
				return fmt.Errorf("aborted in [%d, %d): %v, missing %v", from, to, got, a)
			}
		}
	}
	for _, g := range got {
		ok := false
		for _, a := range m.aborts {
			ok = ok || (a.ProducerID == g.ProducerID && a.Last == g.Last && g.First >= a.First)
		}
		if !ok {
			return fmt.Errorf("aborted in [%d, %d): %v was never aborted", from, to, g)
		}
	}
	return nil
}

// crash opens what a power cut now would leave, tells it what the checkpoint lacks, and compares. The log goes on as it is.
func (m *model) crash() error {
	fs := m.fs.CrashClone(m.rnd)
	log, err := segment.Open(fs, dir, m.durable, m.opts)
	if err != nil {
		return fmt.Errorf("open after a crash: %w", err)
	}
	defer log.Close()
	if err := log.Verify(); err != nil {
		return fmt.Errorf("after a crash: %w", err)
	}
	if err := m.replay(log); err != nil {
		return fmt.Errorf("replay after a crash: %w", err)
	}
	if err := m.check(log); err != nil {
		return fmt.Errorf("after a crash: %w", err)
	}
	return nil
}

func (m *model) run(steps int, crashes *int) (err error) {
	if err := m.reopen(m.fs, segment.State{}); err != nil {
		return err
	}
	inHook := false
	hook := func() {
		if inHook || err != nil || m.rnd.IntN(3) > 0 {
			return
		}
		inHook = true
		defer func() { inHook = false }()
		*crashes++
		err = errors.Join(err, m.crash())
	}
	for i := range steps {
		m.fs.OnSync(hook)
		name, op := m.pick()
		if opErr := op(); opErr != nil {
			return fmt.Errorf("step %d, %s: %w", i, name, opErr)
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i, name, err)
		}
	}
	m.fs.OnSync(nil)
	return m.check(m.log)
}

func (m *model) pick() (string, func() error) {
	switch n := m.rnd.IntN(100); {
	case n < 60:
		return "produce", m.produce
	case n < 70:
		return "end", m.endTxn
	case n < 80:
		return "checkpoint", m.checkpoint
	case n < 83:
		return "epoch", func() error { m.epoch += 1 + int32(m.rnd.IntN(2)); return nil }
	case n < 86:
		return "roll", m.log.Roll
	case n < 88:
		return "time", func() error {
			m.clk.Advance(time.Duration(m.rnd.IntN(120)) * time.Minute)
			return m.log.RollIfOld(m.clk.Now())
		}
	case n < 91:
		return "compact", m.compact
	case n < 92:
		return "advance", m.advance
	case n < 95:
		return "check", func() error { return m.check(m.log) }
	case n < 97:
		return "crash", func() error {
			fs := m.fs.CrashClone(m.rnd)
			if err := m.reopen(fs, m.durable); err != nil {
				return err
			}
			return m.replay(m.log)
		}
	default:
		return "read", func() error {
			if m.next == m.log.LogStartOffset() {
				return nil
			}
			from := m.log.LogStartOffset() + m.rnd.Int64N(m.next-m.log.LogStartOffset())
			_, err := m.log.Read(from, m.stable(), m.rnd.IntN(2000), m.rnd.IntN(2) == 0)
			return err
		}
	}
}
