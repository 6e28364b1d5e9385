package segment_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/vfs"
)

// compact seals what is there, makes it durable, and compacts all of it.
func (b *bench) compact(o segment.CompactOptions) segment.CompactStats {
	b.t.Helper()
	b.must(b.log.Roll())
	st := b.sync()
	if o.Below == 0 {
		o.Below = st.ActiveBase
	}
	o.Now = b.clk.Now()
	stats, err := b.log.Compact(context.Background(), o)
	b.must(err)
	b.must(b.log.Verify())
	return stats
}

func (b *bench) txn(pid int64, ts int64, kvs ...string) int64 {
	b.t.Helper()
	return b.putAs(record.BuilderOptions{ProducerID: pid, Transactional: true}, ts, kvs...)
}

func (b *bench) end(pid int64, commit bool, first int64) {
	b.t.Helper()
	at := b.append(record.EndTxnMarker(pid, 0, commit, 0, 1))
	if !commit {
		b.must(b.log.AppendAborted(segment.AbortedTxn{ProducerID: pid, First: first, Last: at, LSO: at + 1}))
	}
}

func TestCompact_keepsTheLatestOfEachKey(t *testing.T) {
	t.Parallel()
	for _, codec := range []record.Codec{record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd} {
		t.Run(codec.String(), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, segment.Options{})
			o := record.NoProducer(codec)
			b.putAs(o, 1, "a=1", "b=1", "=no key")
			b.putAs(o, 1, "a=2", "c=1")
			b.must(b.log.Roll())
			b.putAs(o, 1, "b=2", "c=2", "d=1")
			s := b.compact(segment.CompactOptions{})
			b.want(b.contents(), "3:a=2 5:b=2 6:c=2 7:d=1")
			b.want(b.names(), "_ 8_") // merged
			if s.SegmentsIn != 2 || s.SegmentsOut != 1 || s.RecordsIn != 8 || s.RecordsOut != 4 || s.BytesOut != b.log.Size() || s.CleanedTo != 8 || s.Partial {
				t.Fatalf("%+v", s)
			}
			if s := b.compact(segment.CompactOptions{}); s != (segment.CompactStats{}) {
				t.Fatalf("nothing is dirty, but %+v", s)
			}
			b.putAs(o, 1, "d=2")
			b.compact(segment.CompactOptions{})
			b.open(b.sync())
			b.want(b.contents(), "3:a=2 5:b=2 6:c=2 8:d=2")
		})
	}
}

func TestCompact_tombstonesGoAfterTheirTime(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	o := segment.CompactOptions{DeleteRetention: time.Hour}
	b.put(1, "a=1", "b=1")
	b.put(1, "a")
	b.compact(o)
	b.want(b.contents(), "1:b=1 2:a")
	b.clk.Advance(time.Hour - time.Millisecond)
	b.put(1, "x=1")
	b.compact(o)
	b.want(b.contents(), "1:b=1 2:a 3:x=1")
	b.clk.Advance(time.Millisecond)
	b.put(1, "x=2")
	b.compact(o)
	b.want(b.contents(), "1:b=1 4:x=2")
}

func TestCompact_transactions(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	o := segment.CompactOptions{DeleteRetention: time.Hour, ProducerExpiry: time.Millisecond}
	b.put(1, "a=0")
	b.txn(7, 1, "a=aborted", "z=aborted") // 1, 2
	b.txn(8, 1, "b=1")                    // 3
	b.end(7, false, 1)                    // 4
	b.end(8, true, 0)                     // 5
	b.clk.Advance(time.Hour)
	b.compact(o)
	b.want(b.contents(), "0:a=0 3:b=1 4:! 5:!") // the markers stay in the pass that meets the data
	if as, err := b.log.Aborted(0, 6); err != nil || fmt.Sprint(as) != "[{7 1 4 5}]" {
		t.Fatal(as, err)
	}
	b.put(1, "b=2")
	b.compact(o) // the marker at 4 has no data: its hour begins. b=1 goes.
	b.want(b.contents(), "0:a=0 4:! 5:! 6:b=2")
	b.clk.Advance(time.Hour)
	b.put(1, "c=1")
	b.compact(o)
	b.want(b.contents(), "0:a=0 5:! 6:b=2 7:c=1")
	if as, err := b.log.Aborted(0, 8); err != nil || len(as) != 0 {
		t.Fatal(as, err)
	}
	b.clk.Advance(time.Hour)
	b.put(1, "c=2")
	b.compact(o)
	b.want(b.contents(), "0:a=0 6:b=2 8:c=2")
}

func TestCompact_openTransactionsAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.put(1, "a=1")
	b.put(1, "a=2")
	b.must(b.log.Roll())
	b.txn(7, 1, "a=3")
	b.compact(segment.CompactOptions{Below: 2})
	b.want(b.contents(), "1:a=2 2:a=3")
}

func TestCompact_lastBatchOfAProducerLeavesItsHeader(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	now := b.clk.Now().UnixMilli()
	idem := func(pid int64, seq int32, kvs ...string) {
		b.putAs(record.BuilderOptions{ProducerID: pid, Epoch: 3, Sequence: seq}, now, kvs...)
	}
	idem(1, 10, "a=1", "b=1")
	idem(1, 12, "a=2", "b=2") // the last of 1: [2, 3]
	idem(2, 5, "a=3", "b=3")
	o := segment.CompactOptions{ProducerExpiry: time.Hour}
	b.compact(o)
	b.want(b.contents(), "[2-3] 4:a=3 5:b=3")
	c, err := b.log.Read(2, 4, 1, true)
	b.must(err)
	if h := record.Batch(c.Bytes); h.ProducerID() != 1 || h.ProducerEpoch() != 3 || h.BaseSequence() != 12 || h.LastSequence() != 13 {
		t.Fatalf("%x", c.Bytes)
	}
	b.clk.Advance(2 * time.Hour)
	b.put(1, "c=1")
	b.compact(o)
	b.want(b.contents(), "4:a=3 5:b=3 6:c=1")
}

func TestCompact_whenItIsDue(t *testing.T) {
	t.Parallel()
	fill := func(b *bench) {
		now := b.clk.Now().UnixMilli()
		b.put(now, "a=1")
		b.put(now, "a=2")
		b.compact(segment.CompactOptions{}) // 1 batch is clean
		b.put(now, "b=1")
	}
	for _, tc := range []struct {
		name string
		wait time.Duration
		o    segment.CompactOptions
		ran  bool
	}{
		{"ratio reached", 0, segment.CompactOptions{MinDirtyRatio: 0.5}, true},
		{"ratio not reached", 0, segment.CompactOptions{MinDirtyRatio: 0.51}, false},
		{"too young", time.Minute, segment.CompactOptions{MinLag: time.Hour}, false},
		{"old enough", time.Hour, segment.CompactOptions{MinLag: time.Hour}, true},
		{"overdue whatever the ratio", time.Hour + time.Millisecond, segment.CompactOptions{MinDirtyRatio: 0.9, MaxLag: time.Hour}, true},
		{"not overdue", time.Hour, segment.CompactOptions{MinDirtyRatio: 0.9, MaxLag: time.Hour}, false},
		{"below", 0, segment.CompactOptions{Below: 2}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, segment.Options{})
			fill(b)
			b.clk.Advance(tc.wait)
			if s := b.compact(tc.o); (s.SegmentsIn > 0) != tc.ran {
				t.Fatalf("%+v", s)
			}
		})
	}
}

func TestCompact_boundedMapTakesSeveralPasses(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{SegmentBytes: 20000})
	const keys = 2000 // the smallest map holds 768
	for i := range 2 * keys {
		b.put(1, fmt.Sprintf("k%d=%d", i%keys, i))
	}
	passes := 0
	for partial := true; partial; passes++ {
		partial = b.compact(segment.CompactOptions{MapBytes: 1}).Partial
	}
	if passes < 3 {
		t.Fatalf("%d passes", passes)
	}
	got := strings.Fields(b.contents())
	for i, s := range got[len(got)-keys:] {
		b.want(s, fmt.Sprintf("%d:k%d=%d", keys+i, i, keys+i))
	}
}

func TestCompact_groupsStayBelowTheSegmentSize(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{SegmentBytes: 300})
	for i := range 20 {
		b.put(1, fmt.Sprintf("k%d=1", i))
	}
	b.compact(segment.CompactOptions{})
	b.log.Configure(600, 0)
	b.put(1, "k0=2")
	b.compact(segment.CompactOptions{})
	infos, err := b.fs.List(dir)
	b.must(err)
	logs := 0
	for _, i := range infos {
		if strings.HasSuffix(i.Name, ".log") {
			logs++
			if i.Size > 600 {
				t.Fatalf("%s has %d bytes", i.Name, i.Size)
			}
		}
	}
	if logs > 5 {
		t.Fatalf("%d segments", logs)
	}
}

func TestCompact_endedByItsContextChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.put(1, "a=1")
	b.put(1, "a=2")
	b.must(b.log.Roll())
	st := b.sync()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.log.Compact(ctx, segment.CompactOptions{Below: st.ActiveBase}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.want(b.contents(), "0:a=1 1:a=2")
	b.want(b.names(), "_ 2_")
}

// TestCompact_failsAtEveryDiskOperation: whichever operation fails, what can be read stays right, now and after a restart.
func TestCompact_failsAtEveryDiskOperation(t *testing.T) {
	t.Parallel()
	for _, op := range []vfs.Op{vfs.OpOpen, vfs.OpCreate, vfs.OpRead, vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpRemove, vfs.OpList} {
		for nth := 1; nth < 12; nth++ {
			b := newBench(t, segment.Options{})
			b.put(1, "a=1")
			b.must(b.log.Roll())
			b.put(1, "a=2", "b=1")
			b.must(b.log.Roll())
			st := b.sync()
			b.fs.Fail(op, nth, syscall.EIO)
			_, err := b.log.Compact(context.Background(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
			b.fs.ClearFaults()
			b.log.Close()
			b.open(st)
			switch got := b.contents(); got {
			case "1:a=2 2:b=1":
			case "0:a=1 1:a=2 2:b=1":
				if err == nil {
					t.Fatalf("%s %d: no error, nothing compacted", op, nth)
				}
			default:
				t.Fatalf("%s %d (%v): %s", op, nth, err, got)
			}
			b.must(b.log.Verify())
		}
	}
}

func TestCompact_corruptionStopsIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.put(1, "a=1")
	b.put(1, "a=2")
	b.must(b.log.Roll())
	st := b.sync()
	b.flip("00000000000000000000.log", 66)
	_, err := b.log.Compact(context.Background(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
	if !errors.Is(err, segment.ErrCorrupt) || !strings.Contains(err.Error(), "00000000000000000000.log at byte 0") {
		t.Fatal(err)
	}
	b.want(b.names(), "_ 2_")
}

// TestCompact_doesNotLaunderAChangedEpoch: the batches' CRCs leave it out, and a new file would make it look right.
func TestCompact_doesNotLaunderAChangedEpoch(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.put(1, "a=1")
	b.put(1, "a=2")
	b.must(b.log.Roll())
	st := b.sync()
	b.flip("00000000000000000000.log", 15)
	_, err := b.log.Compact(context.Background(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
	if !errors.Is(err, segment.ErrCorrupt) {
		t.Fatal(err)
	}
}

// flip changes one bit of a file.
func (b *bench) flip(name string, at int64) {
	b.t.Helper()
	f, err := b.fs.OpenRW(dir + "/" + name)
	b.must(err)
	defer f.Close()
	var one [1]byte
	_, err = f.ReadAt(one[:], at)
	b.must(err)
	one[0] ^= 4
	_, err = f.WriteAt(one[:], at)
	b.must(err)
}
