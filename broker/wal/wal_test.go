package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// small makes files roll within a few records.
func small() wal.Options {
	return wal.Options{FileBytes: 16 << 10, ZeroStepBytes: 2 << 10, RecordBytesMax: 64 << 10}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rec makes a record that no other i gives.
func rec(i, payloadBytes int) wal.Record {
	r := wal.Record{Group: uint64(i % 3), Kind: uint8(1 + i%5), Index: uint64(i), Term: uint64(i / 7)}
	r.Payload = bytes.Repeat([]byte{byte(i)}, payloadBytes)
	return r
}

type replayed struct {
	recs []wal.Record
	pos  []wal.Pos
}

func (r *replayed) add(rec wal.Record, p wal.Pos) error {
	rec.Payload = bytes.Clone(rec.Payload)
	r.recs, r.pos = append(r.recs, rec), append(r.pos, p)
	return nil
}

func open(t testing.TB, fsys vfs.FS, o wal.Options) (*wal.WAL, replayed) {
	t.Helper()
	var r replayed
	w, err := wal.Open(fsys, "wal", o, r.add)
	must(t, err)
	return w, r
}

func same(a, b wal.Record) bool {
	return a.Group == b.Group && a.Kind == b.Kind && a.Index == b.Index && a.Term == b.Term && bytes.Equal(a.Payload, b.Payload)
}

func sameAll(t testing.TB, got, want []wal.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !same(got[i], want[i]) {
			t.Fatalf("record %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestWAL_RoundTrip(t *testing.T) {
	t.Parallel()
	for name, fsys := range map[string]func(t *testing.T) (vfs.FS, string){
		"mem": func(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "wal" },
		"os":  func(t *testing.T) (vfs.FS, string) { return vfs.OS{}, t.TempDir() + "/wal" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys, dir := fsys(t)
			w, err := wal.Open(fsys, dir, small(), nil)
			must(t, err)
			var want []wal.Record
			var at []wal.Pos
			for i := range 200 {
				r := rec(i, i*7%900)
				p, err := w.Append(r)
				must(t, err)
				want, at = append(want, r), append(at, p...)
				if i%4 == 3 {
					must(t, w.Sync())
				}
			}
			if len(w.Files()) < 3 {
				t.Fatalf("files %v: the test wants some to be filled", w.Files())
			}
			for i, p := range at {
				r, err := w.Read(p)
				must(t, err)
				sameAll(t, []wal.Record{r}, want[i:i+1])
			}
			must(t, w.Close())
			must(t, w.Close())
			var r replayed
			w, err = wal.Open(fsys, dir, small(), r.add)
			must(t, err)
			sameAll(t, r.recs, want)
			for i := range at {
				if r.pos[i] != at[i] || i > 0 && !r.pos[i-1].Less(r.pos[i]) {
					t.Fatalf("record %d replayed at %v, appended at %v", i, r.pos[i], at[i])
				}
			}
			must(t, w.Close())
		})
	}
}

func TestWAL_LargeRecords(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	want := []wal.Record{rec(1, 10), rec(2, 50<<10), rec(3, 10), rec(4, 64<<10), rec(5, 12<<10), rec(6, 12<<10)}
	at, err := w.Append(want...) // one Sync over several files
	must(t, err)
	if _, err := w.Append(rec(9, 10), rec(7, 64<<10+1)); !errors.Is(err, wal.ErrTooLarge) || !strings.Contains(err.Error(), "65537 bytes, limit 65536") {
		t.Fatalf("payload over the limit: %v", err)
	}
	for _, kind := range []uint8{0, wal.KindReserved, 255} {
		if _, err := w.Append(wal.Record{Kind: kind}); !errors.Is(err, wal.ErrInvalid) {
			t.Fatalf("kind %d: %v", kind, err)
		}
	}
	must(t, w.Sync())
	for i, p := range at {
		r, err := w.Read(p)
		must(t, err)
		sameAll(t, []wal.Record{r}, want[i:i+1])
	}
	must(t, w.Recycle(1<<60)) // large files are removed, not kept
	must(t, w.Close())
	w, r := open(t, m, small())
	if n := len(w.Files()); n != 1 || len(r.recs) == 0 || !same(r.recs[len(r.recs)-1], want[5]) {
		t.Fatalf("%d files, %d records left", n, len(r.recs))
	}
}

func TestWAL_ReadFindsOnlyWhatIsDurable(t *testing.T) {
	t.Parallel()
	w, _ := open(t, vfs.NewMem(), small())
	one, err := w.Append(rec(1, 5000))
	must(t, err)
	if _, err := w.Read(one[0]); !errors.Is(err, wal.ErrNotFound) {
		t.Fatalf("Read before Sync: %v", err)
	}
	must(t, w.Sync())
	must(t, w.Sync()) // nothing to do
	end := w.Tail()
	for _, p := range []wal.Pos{{}, {File: 1}, {File: 2, Offset: 4096}, {File: 1, Offset: 4097}, {File: 1, Offset: 1 << 40}, {File: 1, Offset: -8}, end,
		{File: 1, Offset: end.Offset - 40} /* the trailer */} {
		if _, err := w.Read(p); !errors.Is(err, wal.ErrNotFound) {
			t.Errorf("Read(%v): %v, want ErrNotFound", p, err)
		}
	}
	if _, err := w.Read(wal.Pos{File: 1, Offset: one[0].Offset + 8}); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("Read inside a record: %v, want ErrCorrupt", err)
	}
	must(t, w.Close())
	_, errRead := w.Read(one[0])
	_, errAppend := w.Append(rec(1, 1))
	for name, err := range map[string]error{"read": errRead, "append": errAppend, "sync": w.Sync(), "recycle": w.Recycle(9)} {
		if !errors.Is(err, wal.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestWAL_RecycleUsesFilesAgain(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	var last wal.Pos
	for i := range 400 {
		p, err := w.Append(rec(i, 1000))
		must(t, err)
		must(t, w.Sync())
		if f := w.Files(); len(f) > 2 {
			must(t, w.Recycle(f[len(f)-2]))
			if _, err := w.Read(wal.Pos{File: f[0], Offset: 4096}); !errors.Is(err, wal.ErrNotFound) {
				t.Fatalf("Read of a recycled file: %v", err)
			}
		}
		last = p[0]
	}
	infos, err := m.List("wal")
	must(t, err)
	if len(infos) > 4 || last.File < 30 {
		t.Fatalf("%d files on disk after %d, want two and two spares", len(infos), last.File)
	}
	must(t, w.Recycle(1<<60))
	if f := w.Files(); len(f) != 1 || f[0] != last.File {
		t.Fatalf("files %v, want the one in use, %d", f, last.File)
	}
	must(t, w.Close())
	_, r := open(t, m, small())
	if n := len(r.recs); n == 0 || n > 16 || r.recs[n-1].Index != 399 {
		t.Fatalf("%d records after the restart", n)
	}
}

func TestWAL_PrepareMakesASpareOncePerFile(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	if more, err := w.Prepare(); !w.SpareWanted() && (err != nil || !more) {
		t.Fatalf("Prepare: %v %v", more, err)
	}
	steps := 1
	for more := true; more; steps++ {
		var err error
		more, err = w.Prepare()
		must(t, err)
	}
	if steps != 4 { // of at least 4 KiB
		t.Fatalf("%d steps", steps)
	}
	_, err := w.Append(rec(1, 9000))
	must(t, err)
	must(t, w.Sync())
	if w.SpareWanted() {
		t.Fatal("a spare is wanted while one is there")
	}
	_, err = w.Append(rec(2, 9000)) // takes the spare
	must(t, err)
	must(t, w.Sync())
	if !w.SpareWanted() {
		t.Fatal("no spare is wanted at a file half full")
	}
	m.Fail(vfs.OpSync, 1, syscall.EIO)
	if _, err := w.Prepare(); !errors.Is(err, syscall.EIO) || errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("Prepare on a bad disk: %v", err)
	}
	if more, err := w.Prepare(); more || err != nil || w.SpareWanted() {
		t.Fatalf("Prepare again for the same file: %v %v", more, err)
	}
	_, err = w.Append(rec(3, 9000))
	must(t, err)
	must(t, w.Sync())
	if !w.SpareWanted() {
		t.Fatal("no spare is wanted with the next file")
	}
	must(t, w.Close())
}

func TestWAL_FirstOpenIsSmall(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	m.Limit(2 << 20) // 64 MiB of zeros would not fit, and would delay the start
	w, _ := open(t, m, wal.Options{})
	_, err := w.Append(rec(1, 1000))
	must(t, err)
	must(t, w.Sync())
	must(t, w.Close())
}

func TestOpen_RefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	ours := small()
	ours.NodeID, ours.Incarnation, ours.LogID = 1, [16]byte{1}, [16]byte{2}
	cases := map[string]struct {
		change func(*wal.Options)
		want   error
	}{
		"same":              {func(*wal.Options) {}, nil},
		"nothing known":     {func(o *wal.Options) { *o = small() }, nil},
		"other node":        {func(o *wal.Options) { o.NodeID = 2 }, wal.ErrForeign},
		"other incarnation": {func(o *wal.Options) { o.Incarnation[3]++ }, wal.ErrForeign},
		"other log":         {func(o *wal.Options) { o.LogID[3]++ }, wal.ErrForeign},
		"tiny files":        {func(o *wal.Options) { o.FileBytes = 100 }, wal.ErrInvalid},
		"negative step":     {func(o *wal.Options) { o.ZeroStepBytes = -1 }, wal.ErrInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := vfs.NewMem()
			w, _ := open(t, m, ours)
			_, err := w.Append(rec(1, 10))
			must(t, err)
			must(t, w.Close())
			o := ours
			c.change(&o)
			if _, err := wal.Open(m, "wal", o, new(replayed).add); !errors.Is(err, c.want) {
				t.Fatalf("Open: %v, want %v", err, c.want)
			}
			if c.want != nil {
				return
			}
			// What an older file knows is kept in newer ones.
			w, _ = open(t, m, o)
			_, err = w.Append(rec(2, 15<<10))
			must(t, err)
			must(t, w.Sync())
			must(t, w.Recycle(2))
			must(t, w.Close())
			o.NodeID = 7
			if _, err := wal.Open(m, "wal", o, new(replayed).add); !errors.Is(err, wal.ErrForeign) {
				t.Fatalf("Open as node 7: %v", err)
			}
		})
	}
}

func TestOpen_ReplayErrorNamesThePlace(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	p, err := w.Append(rec(1, 10), rec(2, 10))
	must(t, err)
	must(t, w.Close())
	boom := errors.New("boom")
	_, err = wal.Open(m, "wal", small(), func(r wal.Record, _ wal.Pos) error {
		if r.Index == 2 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), fmt.Sprintf("%020d.wal at byte %d: boom", p[1].File, p[1].Offset)) {
		t.Fatalf("Open: %v", err)
	}
}

// TestWAL_AllocatesNothingPerRecord cannot be parallel: it counts the allocations of the process.
func TestWAL_AllocatesNothingPerRecord(t *testing.T) {
	w, _ := open(t, vfs.NewMem(), wal.Options{ZeroStepBytes: 4096})
	const perSync = 1000
	recs := []wal.Record{rec(1, 100)}
	var pos []wal.Pos
	round := func() {
		for range perSync {
			var err error
			if pos, err = w.AppendTo(pos[:0], recs...); err != nil {
				t.Fatal(err)
			}
		}
		must(t, w.Sync())
	}
	round()
	if n := testing.AllocsPerRun(20, round); n > perSync/20 { // what is left is the file system in memory, per sync
		t.Fatalf("%v allocations for %d records", n, perSync)
	}
	must(t, w.Close())
}
