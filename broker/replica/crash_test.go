package replica_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// crashesWanted is how many power cuts TestCrash_property survives.
const (
	crashesWanted      = 10_000
	crashesWantedShort = 1_000
	worlds             = 4
	opsPerLife         = 150 // then the world begins again from an empty disk, to keep recovery short
)

// TestCrash_property runs random operations on write-ahead log, segments and partitions over a memory file system, cuts the power at every
// sync and at random points, opens what is left and compares it with a model. OUTRELAY_SEED repeats a run.
func TestCrash_property(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("OUTRELAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	want := int64(crashesWanted)
	if testing.Short() {
		want = crashesWantedShort
	}
	var crashes atomic.Int64
	t.Run("worlds", func(t *testing.T) {
		for i := range uint64(worlds) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				rnd := rand.New(rand.NewPCG(seed, i))
				for n := 0; crashes.Load() < want; n++ {
					w := newWorld(t, rnd, &crashes, fmt.Sprintf("OUTRELAY_SEED=%d go test -run 'TestCrash_property' ./broker/replica (world %d, life %d)", seed, i, n))
					w.live()
				}
			})
		}
	})
	t.Logf("%d crashes survived, seed %d", crashes.Load(), seed)
}

// world is one disk with one node and three partitions on it (kept, with retention, compacted), and the models of what they must hold.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	repeat  string
	crashes *atomic.Int64

	mem    *vfs.Mem
	clk    *clock.Fake
	node   *replica.Node
	parts  []*replica.Partition
	models []*model
	op     string // for failures
	nested bool   // a check of a clone is under way
}

func newWorld(t *testing.T, rnd *rand.Rand, crashes *atomic.Int64, repeat string) *world {
	w := &world{t: t, rnd: rnd, crashes: crashes, repeat: repeat, mem: vfs.NewMem(), clk: clock.NewFake(epoch)}
	w.models = []*model{newModel(1), newModel(2), newModel(3)}
	w.models[2].compacted = true
	w.hook()
	w.node, w.parts = w.open(w.mem)
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s: %s\nrepeat: %s", w.op, fmt.Sprintf(format, args...), w.repeat)
}

// hook cuts the power at every sync: what a clone holds at that moment must be good.
func (w *world) hook() {
	w.mem.OnSync(func() {
		if !w.nested {
			w.check()
		}
	})
}

func (w *world) config(i int) replica.TopicConfig {
	c := replica.TopicConfig{Delete: true, RetentionMs: -1, RetentionBytes: -1, SegmentBytes: 2 << 10, SegmentMs: 50_000}
	switch i {
	case 1:
		c.RetentionBytes = 6 << 10
	case 2:
		c.Delete, c.Compact, c.DeleteRetentionMs = false, true, 30_000
	}
	return c
}

func (w *world) open(mem *vfs.Mem) (*replica.Node, []*replica.Partition) {
	n, err := replica.Open(replica.Options{
		FS: mem, Dir: "data", NodeID: 1, Manual: true, Shards: 1, Clock: w.clk,
		WAL: wal.Options{FileBytes: 8 << 10, ZeroStepBytes: 1 << 10, SpareFiles: 1},
	})
	if err != nil {
		w.fatalf("open: %v", err)
	}
	parts := make([]*replica.Partition, len(w.models))
	for i := range parts {
		parts[i] = replica.NewPartition(replica.PartitionOptions{
			FS: mem, Dir: replica.PartitionDir("data", [16]byte{byte(i)}, 0, 9), Topic: fmt.Sprint("t", i), Clock: w.clk,
			Config: func() replica.TopicConfig { return w.config(i) },
		})
		if err := n.AddGroup(replica.GroupID(i+1), parts[i], replica.GroupConf{ReplicaID: 9, Voters: []uint64{9}}); err != nil {
			w.fatalf("add group %d: %v", i+1, err)
		}
	}
	return n, parts
}

// check cuts the power on a copy of the disk and looks at what is left.
func (w *world) check() {
	w.nested = true
	defer func() { w.nested = false }()
	clone := w.mem.CrashClone(w.rnd)
	_, parts := w.open(clone)
	w.crashes.Add(1)
	for i, p := range parts {
		if _, err := w.models[i].verify(p); err != nil {
			w.fatalf("partition %d after a power cut: %v", i, err)
		}
	}
	w.newEpochs(parts)
}

// newEpochs checks that a restart never leads in an epoch that was led in before.
func (w *world) newEpochs(parts []*replica.Partition) {
	for i, p := range w.parts {
		if got := parts[i].LeaderEpoch(); p.Leads() && got <= p.LeaderEpoch() {
			w.fatalf("partition %d: leader epoch %d after a restart, was %d", i, got, p.LeaderEpoch())
		}
	}
}

// crash goes on from what a power cut left. Operations in flight are then what the disk says they are.
func (w *world) crash() {
	w.mem = w.mem.CrashClone(w.rnd)
	w.hook()
	w.crashes.Add(1)
	w.nested = true // the models follow below: until then a clone would be compared with the state before the cut
	node, parts := w.open(w.mem)
	w.newEpochs(parts)
	w.node, w.parts = node, parts
	w.nested = false
	for i, p := range w.parts {
		held, err := w.models[i].verify(p)
		if err != nil {
			w.fatalf("partition %d after a power cut: %v", i, err)
		}
		w.models[i].lose(held, p.LogStart())
	}
}

func (w *world) live() {
	for range opsPerLife {
		w.step()
		if w.rnd.IntN(100) < 70 {
			w.node.Pump()
		} else if w.rnd.IntN(100) < 30 {
			w.node.Step()
		}
		switch r := w.rnd.IntN(100); {
		case r < 6:
			w.op = "crash"
			w.crash()
		case r < 20:
			w.op += ", random point"
			w.check()
		}
	}
	w.node.Pump()
	for i, p := range w.parts {
		if _, err := w.models[i].verify(p); err != nil {
			w.fatalf("partition %d without a cut: %v", i, err)
		}
		if left := w.models[i].pending(); left != 0 {
			w.fatalf("partition %d: %d operations were never answered", i, left)
		}
	}
}

func (w *world) step() {
	i := w.rnd.IntN(len(w.parts))
	p, m := w.parts[i], w.models[i]
	switch r := w.rnd.IntN(100); {
	case r < 25:
		w.op = "plain"
		m.produce(w, p, m.plain(w.rnd))
	case r < 45:
		w.op = "idempotent"
		m.produce(w, p, m.idempotent(w.rnd))
	case r < 55:
		w.op = "retry"
		if b := m.retry(w.rnd); b != nil {
			m.produce(w, p, *b)
		}
	case r < 58:
		w.op = "gap"
		m.produce(w, p, m.gap(w.rnd))
	case r < 70:
		w.op = "transactional"
		m.produce(w, p, m.transactional(w.rnd))
	case r < 80:
		w.op = "end transaction"
		m.endTxn(w, p)
	case r < 82:
		w.op = "late marker"
		m.lateMarker(w, p)
	case r < 85:
		w.op = "delete records"
		m.deleteRecords(w, p)
	case r < 92:
		w.op = "checkpoint"
		if err := w.node.Checkpoint(context.Background()); err != nil {
			w.fatalf("%v", err)
		}
	case r < 97:
		w.op = "maintain"
		w.clk.Advance(time.Duration(w.rnd.IntN(40)) * time.Second)
		if err := p.Maintain(w.clk.Now()); err != nil {
			w.fatalf("%v", err)
		}
	case r < 99:
		w.op = "close and open"
		if err := w.node.Close(); err != nil {
			w.fatalf("%v", err)
		}
		w.node, w.parts = w.open(w.mem)
	default:
		w.op = "idle"
	}
}
