package segment_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// bench is a log on a memory file system.
type bench struct {
	t   testing.TB
	fs  *vfs.Mem
	clk *clock.Fake
	o   segment.Options
	log *segment.Log
}

func newBench(t testing.TB, o segment.Options) *bench {
	t.Helper()
	b := &bench{t: t, fs: vfs.NewMem(), clk: clock.NewFake(time.UnixMilli(1_000_000)), o: o}
	b.o.Clock = b.clk
	b.open(segment.State{})
	return b
}

func (b *bench) open(st segment.State) {
	b.t.Helper()
	log, err := segment.Open(b.fs, dir, st, b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.log = log
	b.t.Cleanup(func() { log.Close() })
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) append(batch []byte) int64 {
	b.t.Helper()
	base := b.log.NextOffset()
	b.must(b.log.Append(record.Stamp16(batch, base, 1), batch))
	return base
}

// put appends one batch of records at time ts; "k=v" is a value, "k" a tombstone, "=v" has no key.
func (b *bench) put(ts int64, kvs ...string) int64 {
	b.t.Helper()
	return b.putAs(record.NoProducer(record.CodecNone), ts, kvs...)
}

func (b *bench) putAs(o record.BuilderOptions, ts int64, kvs ...string) int64 {
	b.t.Helper()
	w := record.NewBuilder(o)
	for _, kv := range kvs {
		k, v, ok := strings.Cut(kv, "=")
		key, value := []byte(k), []byte(v)
		if k == "" {
			key = nil
		}
		if !ok {
			value = nil
		}
		w.Add(ts, key, value, nil)
	}
	return b.append(w.Build())
}

func (b *bench) sync() segment.State {
	b.t.Helper()
	st, err := b.log.Sync()
	b.must(err)
	return st
}

// contents returns "offset:k=v" of every record, "offset:!" of a marker, "[first-last]" of an empty batch.
func (b *bench) contents() string {
	b.t.Helper()
	var out []string
	for from := b.log.LogStartOffset(); from < b.log.NextOffset(); {
		c, err := b.log.Read(from, b.log.NextOffset(), 1, true)
		b.must(err)
		for x, err := range record.Split(c.Bytes) {
			b.must(err)
			if x.Count() == 0 {
				out = append(out, fmt.Sprintf("[%d-%d]", x.BaseOffset(), x.LastOffset()))
			}
			b.must(record.Records(x, func(r record.Record) error {
				s := fmt.Sprintf("%d:%s=%s", x.Offset(r), r.Key, r.Value)
				if r.Value == nil {
					s = fmt.Sprintf("%d:%s", x.Offset(r), r.Key)
				}
				if x.Control() {
					s = fmt.Sprintf("%d:!", x.Offset(r))
				}
				out = append(out, s)
				return nil
			}))
		}
		if c.Next == from {
			b.t.Fatalf("no progress at %d", from)
		}
		from = c.Next
	}
	return strings.Join(out, " ")
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func (b *bench) names() string {
	b.t.Helper()
	infos, err := b.fs.List(dir)
	b.must(err)
	var names []string
	for _, i := range infos {
		if strings.HasSuffix(i.Name, ".log") || !strings.Contains(i.Name, ".idx") && !strings.Contains(i.Name, ".txn") {
			names = append(names, strings.TrimLeft(strings.TrimSuffix(i.Name, ".log"), "0")+"_")
		}
	}
	return strings.Join(names, " ")
}

func TestRead_bounds(t *testing.T) {
	t.Parallel()
	for _, cold := range []bool{false, true} {
		b := newBench(t, segment.Options{IndexIntervalBytes: 1})
		b.put(1, "a=1", "b=2") // [0, 2)
		b.put(2, "c=3")        // [2, 3)
		b.put(3, "d=4", "e=5") // [3, 5)
		if cold {
			st := b.sync()
			b.log.Close()
			b.open(st)
		}
		one := 61 + 11
		for _, tc := range []struct {
			name        string
			from, limit int64
			maxBytes    int
			minOne      bool
			batches     int
			next        int64
			err         error
		}{
			{name: "all", from: 0, limit: 9, maxBytes: 1 << 20, batches: 3, next: 5},
			{name: "from inside a batch", from: 1, limit: 5, maxBytes: 1 << 20, batches: 3, next: 5},
			{name: "last batch", from: 4, limit: 5, maxBytes: 1 << 20, batches: 1, next: 5},
			{name: "end", from: 5, limit: 5, maxBytes: 1 << 20, next: 5},
			{name: "limit between batches", from: 0, limit: 3, maxBytes: 1 << 20, batches: 2, next: 3},
			{name: "limit inside a batch", from: 0, limit: 4, maxBytes: 1 << 20, batches: 2, next: 3},
			{name: "limit inside the first batch", from: 0, limit: 1, maxBytes: 1 << 20, minOne: true, next: 0},
			{name: "limit below from", from: 3, limit: 2, maxBytes: 1 << 20, next: 3},
			{name: "room for one", from: 2, limit: 5, maxBytes: one, batches: 1, next: 3},
			{name: "room for one and some", from: 2, limit: 5, maxBytes: one + 20, batches: 1, next: 3},
			{name: "no room", from: 0, limit: 5, maxBytes: 10, next: 0},
			{name: "no room but one", from: 0, limit: 5, maxBytes: 10, minOne: true, batches: 1, next: 2},
			{name: "zero bytes but one", from: 3, limit: 5, maxBytes: 0, minOne: true, batches: 1, next: 5},
			{name: "negative bytes", from: 3, limit: 5, maxBytes: -1, next: 3},
			{name: "below the start", from: -1, limit: 5, err: segment.ErrOutOfRange},
			{name: "above the end", from: 6, limit: 9, err: segment.ErrOutOfRange},
		} {
			c, err := b.log.Read(tc.from, tc.limit, tc.maxBytes, tc.minOne)
			n := 0
			for _, err := range record.Split(c.Bytes) {
				b.must(err)
				n++
			}
			if !errors.Is(err, tc.err) || n != tc.batches || (err == nil && c.Next != tc.next) {
				t.Errorf("%s (cold %v): %d batches, next %d, %v", tc.name, cold, n, c.Next, err)
			}
		}
	}
}

func TestRead_tailNeedsNoDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{TailBytes: 1 << 20})
	for i := range 1000 {
		b.put(int64(i), "key=value")
	}
	b.fs.FailFrom(vfs.OpRead, 1, syscall.EIO)
	b.fs.FailFrom(vfs.OpOpen, 1, syscall.EIO)
	c, err := b.log.Read(0, 1000, 1<<20, true)
	if err != nil || c.Next != 1000 {
		t.Fatalf("next %d, %v", c.Next, err)
	}
}

func TestRead_chunksStayWhenTheLogGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{TailBytes: 5000, SegmentBytes: 3000})
	b.put(0, "a=first")
	c, err := b.log.Read(0, 1, 1000, true)
	b.must(err)
	before := bytes.Clone(c.Bytes)
	for i := range 500 {
		b.put(int64(i), "key=value")
	}
	b.must(b.log.AdvanceStart(400))
	if !bytes.Equal(before, c.Bytes) {
		t.Fatal("a chunk changed under its reader")
	}
}

func TestAppend_allocatesBlocksOnly(t *testing.T) {
	b := newBench(t, segment.Options{})
	w := record.NewBuilder(record.NoProducer(record.CodecNone))
	for range 10 {
		w.Add(1, []byte("k"), []byte("v"), nil)
	}
	batch := w.Build()
	for range 2000 { // until blocks have their full size
		b.append(batch)
	}
	if n := testing.AllocsPerRun(1000, func() { b.append(batch) }); n > 0.9 {
		t.Fatalf("%v allocations per batch", n)
	}
}

func TestAppend_wrongOffsetPanics(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	defer func() {
		if r := fmt.Sprint(recover()); !strings.HasPrefix(r, "BUG: S3") {
			t.Fatalf("recovered %s", r)
		}
	}()
	batch := record.EndTxnMarker(1, 1, true, 1, 1)
	_ = b.log.Append(record.Stamp16(batch, 5, 1), batch)
}

func TestRoll(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{SegmentBytes: 150, SegmentAge: time.Hour})
	b.put(1, "a=1")
	b.put(1, "b=1")
	b.want(b.names(), "_")
	b.put(1, "c=1") // 3 × 72 > 150
	b.want(b.names(), "_ 2_")
	b.clk.Advance(time.Hour + time.Millisecond)
	b.put(1, "d=1")
	b.want(b.names(), "_ 2_ 3_")
	b.must(b.log.RollIfOld(b.clk.Now()))
	b.want(b.names(), "_ 2_ 3_")
	b.clk.Advance(2 * time.Hour)
	b.must(b.log.RollIfOld(b.clk.Now()))
	b.must(b.log.RollIfOld(b.clk.Now().Add(9 * time.Hour))) // empty: stays
	b.want(b.names(), "_ 2_ 3_ 4_")
	b.log.Configure(1<<20, time.Hour)
	for range 10 {
		b.put(1, "e=1")
	}
	b.want(b.names(), "_ 2_ 3_ 4_")
	// A batch above the segment's size gets a segment of its own.
	b.log.Configure(100, time.Hour)
	b.put(1, "big="+strings.Repeat("x", 300))
	b.want(b.names(), "_ 2_ 3_ 4_ 14_")
}

func TestRoll_ageSurvivesARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{SegmentAge: time.Hour})
	b.put(1, "a=1")
	b.clk.Advance(50 * time.Minute)
	b.open(b.sync())
	b.clk.Advance(20 * time.Minute)
	b.must(b.log.RollIfOld(b.clk.Now()))
	b.want(b.names(), "_ 1_")
}

func TestRetentionPoint(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	for i := range int64(4) { // segments [0,1) [1,2) [2,3) and the active one
		b.put(1000*(i+1), "k=v")
		if i < 3 {
			b.must(b.log.Roll())
		}
	}
	size := b.log.Size() / 4
	now := time.UnixMilli(5000)
	for _, tc := range []struct {
		name             string
		ms, bytes, limit int64
		want             int64
	}{
		{"off", -1, -1, 4, 0},
		{"nothing old", 4000, -1, 4, 0},
		{"one old", 3999, -1, 4, 1},
		{"all old, the active one stays", 0, -1, 4, 3},
		{"limit", 0, -1, 2, 2},
		{"limit inside a segment", 0, -1, 1, 1},
		{"bytes: all fit", -1, 4 * size, 4, 0},
		{"bytes: one over, but less than a segment", -1, 4*size - 1, 4, 0},
		{"bytes: three segments", -1, 3 * size, 4, 1},
		{"bytes: zero", -1, 0, 4, 3},
		{"either", 3999, 2 * size, 4, 2},
	} {
		if got := b.log.RetentionPoint(now, tc.ms, tc.bytes, tc.limit); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestAdvanceStart(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	for range 4 {
		b.put(1, "a=1", "b=2")
		b.must(b.log.Roll())
	}
	b.must(b.log.AdvanceStart(5))
	b.want(b.names(), "4_ 6_ 8_")
	b.must(b.log.AdvanceStart(3))
	if got := b.log.LogStartOffset(); got != 5 {
		t.Fatalf("log start %d", got)
	}
	if _, err := b.log.Read(4, 8, 1, true); !errors.Is(err, segment.ErrOutOfRange) {
		t.Fatal(err)
	}
	if c, err := b.log.Read(5, 8, 1, true); err != nil || c.Next != 6 {
		t.Fatalf("%v %v", c, err)
	}
	if err := b.log.AdvanceStart(9); !errors.Is(err, segment.ErrOutOfRange) {
		t.Fatal(err)
	}
	b.must(b.log.AdvanceStart(8))
	b.want(b.names(), "8_")
	b.open(b.sync())
	if b.log.LogStartOffset() != 8 || b.log.NextOffset() != 8 {
		t.Fatalf("[%d, %d)", b.log.LogStartOffset(), b.log.NextOffset())
	}
}

func TestEpochEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	for _, epoch := range []int32{2, 2, 5, 9} {
		w := record.NewBuilder(record.NoProducer(record.CodecNone))
		w.Add(1, nil, []byte("v"), nil)
		batch := w.Build()
		b.must(b.log.Append(record.Stamp16(batch, b.log.NextOffset(), epoch), batch))
	}
	check := func() {
		t.Helper()
		for _, tc := range [][3]int64{{2, 2, 2}, {3, 2, 2}, {4, 2, 2}, {5, 5, 3}, {8, 5, 3}, {9, 9, 4}, {10, -1, -1}, {1, 1, 0}, {-1, -1, -1}} {
			if e, end := b.log.EpochEnd(int32(tc[0])); int64(e) != tc[1] || end != tc[2] {
				t.Errorf("epoch %d: %d ends at %d, want %d at %d", tc[0], e, end, tc[1], tc[2])
			}
		}
	}
	check()
	b.open(b.sync())
	check()
	b.must(b.log.AdvanceStart(3))
	if e, end := b.log.EpochEnd(2); e != 2 || end != 3 {
		t.Fatalf("below the start: %d at %d", e, end)
	}
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{IndexIntervalBytes: 1})
	if _, _, ok, err := b.log.MaxTimestamp(); ok || err != nil {
		t.Fatal(ok, err)
	}
	b.put(10, "a=1", "b=1")
	b.put(50, "c=1")
	b.must(b.log.Roll())
	b.put(30, "d=1")
	b.put(50, "e=1")
	for _, tc := range [][3]int64{{0, 0, 10}, {10, 0, 10}, {11, 2, 50}, {50, 2, 50}} {
		if o, ts, ok, err := b.log.OffsetForTime(tc[0], 0); err != nil || !ok || o != tc[1] || ts != tc[2] {
			t.Errorf("time %d: %d@%d %v %v", tc[0], o, ts, ok, err)
		}
	}
	if _, _, ok, err := b.log.OffsetForTime(51, 0); ok || err != nil {
		t.Fatal(ok, err)
	}
	if o, ts, ok, err := b.log.MaxTimestamp(); o != 2 || ts != 50 || !ok || err != nil {
		t.Fatal(o, ts, ok, err)
	}
	b.must(b.log.AdvanceStart(4))
	if o, ts, ok, err := b.log.MaxTimestamp(); o != 4 || ts != 50 || !ok || err != nil {
		t.Fatal(o, ts, ok, err)
	}
	if o, _, ok, err := b.log.OffsetForTime(0, 0); o != 4 || !ok || err != nil {
		t.Fatal(o, ok, err)
	}
}

// TestDisk_failureIsFinal: after a write or a sync failed, nothing is written and nothing is said to be durable.
func TestDisk_failureIsFinal(t *testing.T) {
	t.Parallel()
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, segment.Options{})
			b.put(1, "a=1")
			b.fs.Fail(op, 1, syscall.EIO)
			if _, err := b.log.Sync(); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if _, err := b.log.Sync(); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			batch := record.EndTxnMarker(1, 1, true, 1, 1)
			if err := b.log.Append(record.Stamp16(batch, 1, 1), batch); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if c, err := b.log.Read(0, 1, 1, true); err != nil || c.Next != 1 {
				t.Fatal("what was applied can be read still:", err)
			}
		})
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{TailBytes: 1})
	b.put(1, "a=1")
	b.put(1, "a="+strings.Repeat("x", 5000))
	b.put(1, "a="+strings.Repeat("x", 5000))
	b.must(b.log.Close())
	b.must(b.log.Close())
	if _, err := b.log.Read(0, 1, 1, true); !errors.Is(err, segment.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := b.log.Sync(); !errors.Is(err, segment.ErrClosed) {
		t.Fatal(err)
	}
	if _, _, _, err := b.log.OffsetForTime(0, 0); !errors.Is(err, segment.ErrClosed) {
		t.Fatal(err)
	}
}

// TestReaders_areNeverDisturbed reads from several goroutines while the log rolls, compacts, drops and syncs. Run it with -race.
func TestReaders_areNeverDisturbed(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{SegmentBytes: 2000, IndexIntervalBytes: 200, TailBytes: 4000})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range uint64(4) {
		wg.Go(func() {
			from, rnd := int64(0), rand.New(rand.NewPCG(i, 0))
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := readOnce(b.log, rnd, from, 1<<40)
				if errors.Is(err, segment.ErrOutOfRange) {
					from = b.log.LogStartOffset()
					continue
				}
				if err != nil {
					t.Errorf("read at %d: %v", from, err)
					return
				}
				for x, err := range record.Split(c.Bytes) {
					if err == nil {
						err = record.CheckCRC(x)
					}
					if err != nil || x.LastOffset() < from {
						t.Errorf("read at %d: [%d, %d] %v", from, x.BaseOffset(), x.LastOffset(), err)
						return
					}
				}
				if from = c.Next; from == b.log.NextOffset() {
					from = b.log.LogStartOffset()
				}
				if _, err := b.log.Aborted(from, from+50); err != nil {
					t.Error(err)
					return
				}
				if _, _, _, err := b.log.OffsetForTime(from, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range int64(600) {
		b.put(i, fmt.Sprintf("k%d=%d", i%17, i), fmt.Sprintf("k%d=%d", i%5, i))
		switch {
		case i%10 == 5:
			b.sync()
		case i%60 == 59:
			st := b.sync()
			_, err := b.log.Compact(t.Context(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
			b.must(err)
		case i%150 == 140:
			b.must(b.log.AdvanceStart(b.sync().ActiveBase / 2))
		}
	}
	close(done)
	wg.Wait()
	b.must(b.log.Verify())
}

func TestOS_realFiles(t *testing.T) {
	t.Parallel()
	d := path.Join(t.TempDir(), "a", "b")
	o := segment.Options{SegmentBytes: 3000, IndexIntervalBytes: 100, TailBytes: 1}
	log, err := segment.Open(vfs.OS{}, d, segment.State{}, o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, log: log, clk: clock.NewFake(time.UnixMilli(5))}
	for i := range 300 {
		b.put(int64(i), fmt.Sprintf("k%d=%d", i%7, i))
	}
	st := b.sync()
	_, err = log.Compact(t.Context(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
	b.must(err)
	before := b.contents()
	b.must(log.Verify())
	b.must(log.Close())
	if b.log, err = segment.Open(vfs.OS{}, d, st, o); err != nil {
		t.Fatal(err)
	}
	b.want(b.contents(), before)
	b.must(b.log.AdvanceStart(st.ActiveBase))
	b.must(b.log.Verify())
	b.must(b.log.Close())
	if _, err := (vfs.OS{}).Stat(path.Join(d, "00000000000000000000.log")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	log, err := segment.Open(vfs.OS{}, b.TempDir(), segment.State{}, segment.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	w := record.NewBuilder(record.NoProducer(record.CodecNone))
	w.Add(1, []byte("key"), make([]byte, 1000), nil)
	batch := w.Build()
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := log.Append(record.Stamp16(batch, log.NextOffset(), 1), batch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, tail := range []int{1, 1 << 20} {
		b.Run(fmt.Sprintf("tail=%d", tail), func(b *testing.B) {
			log, err := segment.Open(vfs.OS{}, b.TempDir(), segment.State{}, segment.Options{TailBytes: tail})
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			w := record.NewBuilder(record.NoProducer(record.CodecNone))
			w.Add(1, []byte("key"), make([]byte, 1000), nil)
			batch := w.Build()
			for range 900 {
				if err := log.Append(record.Stamp16(batch, log.NextOffset(), 1), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			from := int64(0)
			for b.Loop() {
				if _, err := log.Read(from, 900, len(batch), true); err != nil {
					b.Fatal(err)
				}
				from = (from + 1) % 700
			}
		})
	}
}

// BenchmarkRead_chunks reads as a consumer that is behind does.
func BenchmarkRead_chunks(b *testing.B) {
	log, err := segment.Open(vfs.OS{}, b.TempDir(), segment.State{}, segment.Options{TailBytes: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	w := record.NewBuilder(record.NoProducer(record.CodecNone))
	w.Add(1, []byte("key"), make([]byte, 16<<10), nil)
	batch := w.Build()
	for range 200 {
		if err := log.Append(record.Stamp16(batch, log.NextOffset(), 1), batch); err != nil {
			b.Fatal(err)
		}
	}
	const chunk = 1 << 20
	b.SetBytes(chunk)
	for b.Loop() {
		if _, err := log.Read(10, 200, chunk, true); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLog_RollIfExpired: retention can take the last records too, once all of them are old enough.
func TestLog_RollIfExpired(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.must(b.log.RollIfExpired(1 << 60)) // empty: nothing to roll
	b.put(100, "a=1")
	b.put(200, "b=1")
	b.must(b.log.RollIfExpired(200))
	b.want(b.names(), "_")
	b.must(b.log.RollIfExpired(201))
	b.want(b.names(), "_ 2_")
	b.putAs(record.NoProducer(record.CodecNone), record.NoTimestamp, "c=1") // without a timestamp the segment's own age counts
	b.must(b.log.RollIfExpired(b.clk.Now().UnixMilli()))
	b.want(b.names(), "_ 2_")
	b.must(b.log.RollIfExpired(b.clk.Now().UnixMilli() + 1))
	b.want(b.names(), "_ 2_ 3_")
	if at := b.log.RetentionPoint(time.UnixMilli(1000), 500, -1, 3); at != 2 {
		t.Fatalf("retention point %d", at)
	}
}
