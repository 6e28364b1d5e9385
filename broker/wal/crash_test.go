package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// TestCrash_WAL does random operations on a log in memory, cuts the power at every sync and at random points, also during recovery, and
// compares what comes back with a model. Repeat one run with OUTRELAY_SEED, and run more with OUTRELAY_CRASHES.
func TestCrash_WAL(t *testing.T) {
	t.Parallel()
	seed, crashes := uint64(time.Now().UnixNano()), 4000
	if s := os.Getenv("OUTRELAY_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	if s := os.Getenv("OUTRELAY_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		crashes = n
	}
	t.Logf("repeat with: OUTRELAY_SEED=%d OUTRELAY_CRASHES=%d go test -run TestCrash_WAL ./broker/wal/", seed, crashes)
	h := &crashTest{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
	for h.crashes < crashes {
		h.life()
	}
	t.Logf("%d crashes, %d lives, %d records; %d kills; %d crashes tore a batch, %d during recovery", h.crashes, h.lives, h.made, h.kills, h.torn, h.nested)
	if h.torn == 0 || h.nested == 0 || h.kept == 0 {
		t.Fatal("the crashes were too tame to show anything")
	}
}

// crashTest is the model: what was appended, how much of it is durable for certain, and which files are still needed.
type crashTest struct {
	t   *testing.T
	rnd *rand.Rand

	m       *vfs.Mem
	w       *wal.WAL
	o       wal.Options
	history []placed // all that may be on disk, in order
	durable int      // so many of history were synced
	needed  uint64   // the first file not recycled
	ends    []int    // lengths of history at which a batch may end

	aligned bool // in this life all sizes are multiples of 40
	quiet   bool // inside a check

	made, lives, crashes, kills, torn, nested, kept int
}

type placed struct {
	rec wal.Record
	pos wal.Pos
}

// life opens a fresh log, works on it and crashes it several times.
func (h *crashTest) life() {
	h.lives++
	h.m, h.history, h.durable, h.needed, h.ends = vfs.NewMem(), nil, 0, 0, nil
	h.aligned = h.rnd.IntN(2) == 0
	h.o = wal.Options{
		FileBytes:     8<<10 + h.rnd.Int64N(8<<10),
		ZeroStepBytes: 512 + h.rnd.Int64N(4<<10),
		SpareFiles:    h.rnd.IntN(4) - 1,
		Incarnation:   [16]byte{byte(h.lives)},
	}
	must(h.t, h.open(h.m))
	for range 4 {
		for range 10 + h.rnd.IntN(40) {
			h.step()
		}
		h.restart()
	}
}

func (h *crashTest) open(fsys vfs.FS) error {
	h.m.OnSync(h.hook)
	var r replayed
	w, err := wal.Open(fsys, "wal", h.o, r.add)
	h.w = w
	return err
}

func (h *crashTest) hook() {
	if !h.quiet {
		h.check(h.m.CrashClone(h.rnd), 0)
	}
}

func (h *crashTest) step() {
	switch n := h.rnd.IntN(22); {
	case n < 8:
		h.append(1 + h.rnd.IntN(5))
	case n < 14:
		h.sync()
	case n < 15:
		h.recycle()
	case n < 16:
		_, err := h.w.Prepare()
		must(h.t, err)
	case n < 18:
		h.read()
	case n < 19:
		h.check(h.m.CrashClone(h.rnd), 0)
	case n < 20:
		h.ends = append(h.ends, len(h.history)) // Close syncs
		h.kill()
	default:
		h.ends = append(h.ends, len(h.history)) // Close syncs
		must(h.t, h.w.Close())
		h.durable, h.ends = len(h.history), nil
		must(h.t, h.open(h.m))
	}
}

func (h *crashTest) append(n int) {
	var recs []wal.Record
	for range n {
		size := h.rnd.IntN(700)
		switch {
		case h.aligned:
			size = 40 * h.rnd.IntN(2) // records, trailers and leftovers of both begin at the same bytes
		case h.rnd.IntN(30) == 0:
			size = h.rnd.IntN(20 << 10) // more than a file
		}
		h.made++
		r := rec(h.made, size)
		for i := range r.Payload {
			r.Payload[i] = byte(h.rnd.Uint32())
		}
		recs = append(recs, r)
	}
	pos, err := h.w.Append(recs...)
	must(h.t, err)
	for i, p := range pos {
		if n := len(h.history); n > 0 && h.history[n-1].pos.File != p.File {
			h.ends = append(h.ends, n) // a batch ends with its file
		}
		h.history = append(h.history, placed{recs[i], p})
	}
}

func (h *crashTest) sync() {
	h.ends = append(h.ends, len(h.history))
	must(h.t, h.w.Sync())
	h.durable, h.ends = len(h.history), nil
}

func (h *crashTest) recycle() {
	files := h.w.Files()
	h.needed = max(h.needed, files[h.rnd.IntN(len(files))])
	must(h.t, h.w.Recycle(h.needed))
}

func (h *crashTest) read() {
	if h.durable == 0 {
		return
	}
	p := h.history[h.rnd.IntN(h.durable)]
	got, err := h.w.Read(p.pos)
	if p.pos.File < h.needed {
		return
	}
	must(h.t, err)
	if !same(got, p.rec) {
		h.t.Fatalf("Read(%v): %+v, want %+v", p.pos, got, p.rec)
	}
}

// restart cuts the power and goes on with what is left.
func (h *crashTest) restart() {
	h.m = h.m.CrashClone(h.rnd)
	got := h.check(h.m.CrashClone(h.rnd), 0) // a clone of a clone: the same bytes
	h.history, h.durable, h.ends = got, len(got), nil
	must(h.t, h.open(h.m))
}

// kill ends the process, not the machine, at some call to the file system: what was written stays in the page cache. The next process may be
// killed too, while it recovers.
func (h *crashTest) kill() {
	h.kills++
	must(h.t, h.w.Close())
	h.durable, h.ends = len(h.history), nil
	if h.open(&killer{FS: h.m, left: 1 + h.rnd.IntN(12)}) == nil {
		h.append(1 + h.rnd.IntN(3))
		h.ends = append(h.ends, len(h.history))
		if h.w.Sync() == nil {
			h.durable, h.ends = len(h.history), nil
		}
	}
	for h.rnd.IntN(3) == 0 {
		_ = h.open(&killer{FS: h.m, left: 1 + h.rnd.IntN(5)})
	}
	// The model does not know how much was written: ask, and leave no trace. What the next Open replays it makes durable.
	var r replayed
	if _, err := wal.Open(&killer{FS: h.m, asking: true}, "wal", h.o, r.add); !errors.Is(err, errKilled) {
		h.t.Fatalf("Open after a kill: %v", err)
	}
	end := h.durable
	if n := len(r.pos); n > 0 {
		end = 1 + slices.IndexFunc(h.history, func(p placed) bool { return p.pos == r.pos[n-1] })
	}
	if end < h.durable {
		h.t.Fatalf("after a kill %d of %d durable records are there", end, h.durable)
	}
	h.history, h.ends = h.history[:end], append(h.ends, end)
	must(h.t, h.open(h.m))
	h.durable, h.ends = end, nil
	h.check(h.m.CrashClone(h.rnd), 0)
}

// check opens a crashed file system and compares: what was durable is there, what is there was appended, in order and by whole batches.
// Sometimes it cuts the power again while the log is being recovered.
func (h *crashTest) check(m *vfs.Mem, depth int) []placed {
	h.crashes++
	quiet := h.quiet
	h.quiet = true
	defer func() { h.quiet = quiet }()
	if depth < 2 && h.rnd.IntN(8) == 0 {
		m.OnSync(func() {
			h.nested++
			h.check(m.CrashClone(h.rnd), depth+1)
		})
	}
	var r replayed
	w, err := wal.Open(m, "wal", h.o, r.add)
	if err != nil {
		h.t.Fatalf("crash %d: %v", h.crashes, err)
	}
	m.OnSync(nil)
	got := make([]placed, len(r.recs))
	for i := range r.recs {
		got[i] = placed{r.recs[i], r.pos[i]}
	}
	h.compare(got)
	if h.rnd.IntN(8) == 0 { // it can be used, and closed
		_, err := w.Append(rec(1, 10))
		must(h.t, err)
		must(h.t, w.Sync())
	}
	must(h.t, w.Close())
	return got
}

func (h *crashTest) compare(got []placed) {
	first := 0
	if len(got) > 0 {
		first = slices.IndexFunc(h.history, func(p placed) bool { return p.pos == got[0].pos })
	} else {
		first = h.durable
	}
	fail := func(what string) {
		h.t.Fatalf("crash %d: %s; %d records from %d of %d, durable %d, needed from file %d", h.crashes, what, len(got), first, len(h.history), h.durable, h.needed)
	}
	if first < 0 {
		fail(fmt.Sprintf("first record at %v was never there", got[0].pos))
	}
	for i := range first {
		if i < h.durable && h.history[i].pos.File >= h.needed {
			fail(fmt.Sprintf("record %d at %v is lost", i, h.history[i].pos))
		}
	}
	end := first + len(got)
	if end > len(h.history) || end < h.durable {
		fail("the end is wrong")
	}
	for i, p := range got {
		if want := h.history[first+i]; p.pos != want.pos || !same(p.rec, want.rec) {
			fail(fmt.Sprintf("record %d at %v is not what was written at %v", first+i, p.pos, want.pos))
		}
	}
	switch {
	case end == h.durable && end < len(h.history):
		h.torn++
	case end > h.durable:
		h.kept++
		if !slices.Contains(h.ends, end) {
			fail("a batch was torn and not dropped whole")
		}
	}
}
