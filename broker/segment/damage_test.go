package segment_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker/segment"
)

// damaged returns a closed log of two sealed segments and an active one, with aborted transactions in each, and its state.
func damaged(t testing.TB) (*bench, segment.State, string) {
	b := newBench(t, segment.Options{IndexIntervalBytes: 100, TailBytes: 1})
	for s := range 3 {
		for i := range int64(8) {
			first := b.txn(i, 100*i, fmt.Sprintf("k%d=%d", i, s))
			b.put(100*i, "x=1")
			b.end(i, i%2 == 0, first)
		}
		if s < 2 {
			b.must(b.log.Roll())
		}
	}
	st := b.sync()
	b.must(b.log.Verify())
	want := b.view()
	b.must(b.log.Close())
	return b, st, want
}

// view returns all that readers can ask for.
func (b *bench) view() string {
	b.t.Helper()
	as, err := b.log.Aborted(0, b.log.NextOffset())
	b.must(err)
	o, ts, ok, err := b.log.OffsetForTime(650, 0)
	b.must(err)
	mo, mts, _, err := b.log.MaxTimestamp()
	b.must(err)
	return fmt.Sprint(b.contents(), as, o, ts, ok, mo, mts)
}

const (
	seg0, seg1, seg2 = "00000000000000000000", "00000000000000000024", "00000000000000000048"
)

// TestOpen_indexesAreCaches: whatever happens to an index, readers see the same (B99).
func TestOpen_indexesAreCaches(t *testing.T) {
	t.Parallel()
	for _, name := range []string{seg0 + ".idx", seg0 + ".txn", seg1 + ".idx", seg1 + ".txn", seg2 + ".idx", seg2 + ".txn"} {
		b, _, _ := damaged(t)
		info, err := b.fs.Stat(dir + "/" + name)
		b.must(err)
		ways := map[string]func(b *bench){
			"gone":  func(b *bench) { b.must(b.fs.Remove(dir + "/" + name)) },
			"empty": func(b *bench) { b.resize(name, 0) },
			"long":  func(b *bench) { b.resize(name, info.Size+1000) },
			"huge":  func(b *bench) { b.resize(name, 1<<27) },
			"another's": func(b *bench) {
				other := strings.Replace(name, seg0, seg1, 1)
				if other == name {
					other = seg0 + name[20:]
				}
				b.copyFile(other, name)
			},
		}
		for at := int64(0); at < info.Size; at += 7 {
			ways[fmt.Sprintf("cut at %d", at)] = func(b *bench) { b.resize(name, at) }
			ways[fmt.Sprintf("flip at %d", at)] = func(b *bench) { b.flip(name, at) }
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for way, damage := range ways {
				b, st, want := damaged(t)
				damage(b)
				b.open(st)
				if got := b.view(); got != want {
					t.Fatalf("%s: got  %s\nwant %s", way, got, want)
				}
				b.must(b.log.Verify())
				b.sync()
				b.open(st) // what was repaired stays
				b.want(b.view(), want)
			}
		})
	}
}

func (b *bench) resize(name string, size int64) {
	b.t.Helper()
	f, err := b.fs.OpenRW(dir + "/" + name)
	b.must(err)
	b.must(f.Truncate(size))
	b.must(f.Close())
}

func (b *bench) copyFile(from, to string) {
	b.t.Helper()
	f, err := b.fs.Open(dir + "/" + from)
	b.must(err)
	size, err := f.Size()
	b.must(err)
	p := make([]byte, size)
	_, err = f.ReadAt(p, 0)
	b.must(err)
	g, err := b.fs.Create(dir + "/" + to)
	b.must(err)
	_, err = g.WriteAt(p, 0)
	b.must(err)
}

// TestVerify_findsEveryFlip in the log files (B98).
func TestVerify_findsEveryFlip(t *testing.T) {
	t.Parallel()
	for _, name := range []string{seg0 + ".log", seg2 + ".log"} {
		b, st, _ := damaged(t)
		info, err := b.fs.Stat(dir + "/" + name)
		b.must(err)
		for at := int64(0); at < info.Size; at++ {
			b.flip(name, at)
			log, err := segment.Open(b.fs, dir, st, b.o)
			if err == nil {
				err = log.Verify()
				log.Close()
			}
			if !errors.Is(err, segment.ErrCorrupt) {
				t.Fatalf("%s flipped at %d: %v", name, at, err)
			}
			b.flip(name, at)
		}
	}
}

// TestVerify_findsAnotherEpoch: batches of another leader epoch than the checkpoint knows are named by Verify as by the reads that refuse them.
func TestVerify_findsAnotherEpoch(t *testing.T) {
	t.Parallel()
	b, st, _ := damaged(t)
	st.Epochs = append(st.Epochs[:1:1], segment.Epoch{Epoch: st.Epochs[0].Epoch + 1, Start: 24})
	log, err := segment.Open(b.fs, dir, st, b.o)
	b.must(err)
	defer log.Close()
	for what, err := range map[string]error{"Verify": log.Verify(), "Scrub": log.Scrub(func(int64) error { return nil })} {
		if !errors.Is(err, segment.ErrCorrupt) || !strings.Contains(err.Error(), seg1+".log at byte 0, offset 24: leader epoch") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := log.Read(24, log.NextOffset(), 1<<20, true); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("Read: %v", err)
	}
}

func TestOpen_refuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		damage func(b *bench, st *segment.State)
		text   string
	}{
		{"active segment too short (B97)", func(b *bench, st *segment.State) { b.resize(seg2+".log", st.ActiveSize-1) }, "the checkpoint says"},
		{"active segment gone", func(b *bench, _ *segment.State) { b.must(b.fs.Remove(dir + "/" + seg2 + ".log")) }, "active segment"},
		{"segment gone in the middle (B100)", func(b *bench, _ *segment.State) { b.must(b.fs.Remove(dir + "/" + seg1 + ".log")) },
			"ends before offset 24, the next one begins at 48: offsets are missing"},
		{"flip behind the last index entry", func(b *bench, st *segment.State) { b.flip(seg2+".log", st.ActiveSize-1) }, "CRC32C"},
		{"next offset is another's", func(_ *bench, st *segment.State) { st.NextOffset++ }, "ends at offset 72, the checkpoint says 73"},
		{"compaction above the active segment", func(b *bench, st *segment.State) {
			b.must(b.fs.Rename(dir+"/"+seg1+".log", dir+"/"+seg1+"-00000000000000000090.swap"))
		}, "above the active one"},
		{"state of nonsense", func(_ *bench, st *segment.State) { st.ActiveBase = -1 }, "log state"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, st, _ := damaged(t)
			tc.damage(b, &st)
			before := fmt.Sprint(b.fs.List(dir))
			_, err := segment.Open(b.fs, dir, st, b.o)
			if !errors.Is(err, segment.ErrCorrupt) || !strings.Contains(err.Error(), tc.text) {
				t.Fatal(err)
			}
			b.want(fmt.Sprint(b.fs.List(dir)), before)
		})
	}
}

// TestOpen_cutsWhatTheCheckpointDoesNotKnow: the write-ahead log brings it again (B97).
func TestOpen_cutsWhatTheCheckpointDoesNotKnow(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{})
	b.put(1, "a=1")
	st := b.sync()
	b.put(1, "a=2")
	b.must(b.log.Roll())
	b.put(1, "a=3")
	b.sync()
	b.open(st)
	b.want(b.contents(), "0:a=1")
	b.want(b.names(), "_")
	b.put(1, "a=4")
	b.open(b.sync())
	b.want(b.contents(), "0:a=1 1:a=4")
}

func TestOpen_leavesFilesOfOthersAlone(t *testing.T) {
	t.Parallel()
	b, st, want := damaged(t)
	b.copyFile(seg0+".log", "notes.txt")
	b.copyFile(seg0+".log", seg1+"-"+seg2+".cleaned")
	b.copyFile(seg0+".idx", "00000000000000000007.idx")
	b.open(st)
	b.want(b.view(), want)
	if n := b.names(); !strings.Contains(n, "notes.txt") || strings.Contains(n, "cleaned") {
		t.Fatal(n)
	}
}

func TestState_roundTrip(t *testing.T) {
	t.Parallel()
	want := segment.State{LogStartOffset: 5, NextOffset: 900, ActiveBase: 800, ActiveSize: 77, ActiveCreated: 1 << 41, ActiveAborted: 3, ActiveSum: 1<<32 - 1, CleanedTo: 700,
		Epochs: []segment.Epoch{{Epoch: 1, Start: 5}, {Epoch: 7, Start: 600}}}
	b := want.Marshal()
	var got segment.State
	if err := got.Unmarshal(b); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatal(got, err)
	}
	for n := range b {
		if err := got.Unmarshal(b[:n]); !errors.Is(err, segment.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if err := got.Unmarshal(append(b, 0)); !errors.Is(err, segment.ErrCorrupt) {
		t.Fatal(err)
	}
	b[0]++
	if err := got.Unmarshal(b); !errors.Is(err, segment.ErrVersion) {
		t.Fatal(err)
	}
	if err := got.Unmarshal(segment.NewState(42).Marshal()); err != nil || got.NextOffset != 42 {
		t.Fatal(got, err)
	}
}
