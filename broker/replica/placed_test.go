package replica_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// N7: what was proposed when an entry had its place is found by no restart without that entry. Two groups of different shards, the real committer, and
// the power cut at every sync: the second group's entry i is proposed when the first group's entry i has its place, and before it is durable.
func TestNode_ProposePlaced_surviveInOrder(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n := parallelNode(t, mem)
	causes, effects := &list{}, &list{}
	add(t, n, 2, causes)
	add(t, n, 3, effects)

	var mu sync.Mutex
	var clones []*vfs.Mem
	rnd := rand.New(rand.NewPCG(1, 1))
	mem.OnSync(func() {
		mu.Lock()
		defer mu.Unlock()
		if len(clones) < 200 {
			clones = append(clones, mem.CrashClone(rnd))
		}
	})
	const count = 300
	var placed, early int
	var done sync.WaitGroup
	for i := range count {
		done.Add(2)
		placedBefore := false
		n.ProposePlaced(2, fmt.Append(nil, i), func() {
			mu.Lock()
			placed++
			placedBefore = true
			mu.Unlock()
			n.Propose(3, fmt.Append(nil, i), func(_ any, err error) {
				if err != nil {
					t.Error(err)
				}
				done.Done()
			})
		}, func(_ any, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if placedBefore {
				early++
			}
			done.Done()
		})
	}
	done.Wait()
	if placed != count || early != count {
		t.Fatalf("%d of %d entries had their place, %d before they were done", placed, count, early)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	between := 0
	for _, c := range clones {
		n := manual(t, c)
		a, b := &list{}, &list{}
		add(t, n, 2, a)
		add(t, n, 3, b)
		for _, item := range b.Items {
			if !slices.Contains(a.Items, item) {
				t.Fatalf("after a power cut entry %s of the second group is there, and of the first %v", item, a.Items)
			}
		}
		if len(a.Items) > len(b.Items) {
			between++
		}
	}
	t.Logf("%d power cuts, %d of them between an entry and what hung on it", len(clones), between)
}

// An entry that is refused never had a place.
func TestNode_ProposePlaced_refused(t *testing.T) {
	t.Parallel()
	n := manual(t, vfs.NewMem())
	add(t, n, 2, &list{})
	var errs []error
	for _, g := range []replica.GroupID{9, 2} {
		payload := []byte("x")
		if g == 2 {
			payload = nil // too small
		}
		n.ProposePlaced(g, payload, func() { t.Error("refused, and has its place") }, func(_ any, err error) { errs = append(errs, err) })
	}
	n.Pump()
	if len(errs) != 2 || errs[0] == nil || errs[1] == nil {
		t.Fatalf("answers %v, want two errors", errs)
	}
}

func parallelNode(t *testing.T, f vfs.FS) *replica.Node {
	t.Helper()
	n, err := replica.Open(replica.Options{
		FS: f, Dir: "data", NodeID: 1, Shards: 2, CheckpointEvery: time.Hour,
		WAL: wal.Options{FileBytes: 64 << 10, ZeroStepBytes: 4 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n
}
