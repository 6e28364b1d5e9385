package wal_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestCommitter_DoneInOrderAndDurable(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, wal.Options{FileBytes: 64 << 10, ZeroStepBytes: 8 << 10})
	c := wal.NewCommitter(w, wal.CommitterOptions{QueueBytesMax: 8 << 10})
	const producers, each = 8, 200
	var wg sync.WaitGroup
	var last wal.Pos // owned by the committer's goroutine
	got := make([][]uint64, producers)
	for p := range producers {
		wg.Add(each)
		go func() {
			for i := range each {
				r := rec(i, 100)
				r.Group, r.Index = uint64(p), uint64(i)
				c.Submit(wal.Batch{Records: []wal.Record{r, r}, Done: func(pos []wal.Pos, err error) {
					defer wg.Done()
					if err != nil || len(pos) != 2 || !last.Less(pos[0]) || !pos[0].Less(pos[1]) {
						t.Errorf("producer %d batch %d: %v %v after %v", p, i, pos, err, last)
						return
					}
					last = pos[1]
					if _, err := w.Read(pos[0]); err != nil {
						t.Errorf("producer %d batch %d is done and not there: %v", p, i, err)
					}
					got[p] = append(got[p], uint64(i))
				}})
				clear(r.Payload) // the caller's again
			}
		}()
	}
	wg.Wait()
	c.Close()
	c.Close()
	for p := range got {
		for i, v := range got[p] {
			if v != uint64(i) {
				t.Fatalf("producer %d: batch %d done as number %d", p, v, i)
			}
		}
	}
	_, r := open(t, m.CrashClone(seeded(1)), small())
	if len(r.recs) != producers*each*2 {
		t.Fatalf("%d records after a crash, want %d", len(r.recs), producers*each*2)
	}
	must(t, w.Close())
}

// TestCommitter_OneSyncForAllThatWait holds one sync back; what is submitted meanwhile shares the next.
func TestCommitter_OneSyncForAllThatWait(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, wal.Options{ZeroStepBytes: 4096})
	c := wal.NewCommitter(w, wal.CommitterOptions{})
	var syncs atomic.Int64
	started, goOn := make(chan struct{}), make(chan struct{})
	m.OnSync(func() {
		if syncs.Add(1) == 1 {
			close(started)
			<-goOn
		}
	})
	var wg sync.WaitGroup
	submit := func() {
		wg.Add(1)
		c.Submit(wal.Batch{Records: []wal.Record{rec(1, 10)}, Done: func(_ []wal.Pos, err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		}})
	}
	submit()
	<-started
	for range 1000 {
		submit()
	}
	close(goOn)
	wg.Wait()
	if n := syncs.Load(); n != 2 {
		t.Fatalf("%d syncs for 1 and 1000 batches, want 2", n)
	}
	c.Close()
	must(t, w.Close())
}

func TestCommitter_Errors(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	c := wal.NewCommitter(w, wal.CommitterOptions{})
	result := func(recs ...wal.Record) error {
		done := make(chan error, 1)
		c.Submit(wal.Batch{Records: recs, Done: func(_ []wal.Pos, err error) { done <- err }})
		return <-done
	}
	must(t, result())
	must(t, result(rec(1, 10)))
	if err := result(rec(1, 64<<10+1)); !errors.Is(err, wal.ErrTooLarge) {
		t.Fatalf("large record: %v", err)
	}
	must(t, result(rec(2, 10))) // the others go on
	m.Fail(vfs.OpSync, 1, syscall.EIO)
	for range 3 {
		if err := result(rec(3, 10)); !errors.Is(err, wal.ErrPoisoned) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("after a failed sync: %v", err)
		}
	}
	c.Close()
	if err := result(rec(4, 10)); !errors.Is(err, wal.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestCommitter_FullQueueBlocksSubmit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		w, _ := open(t, m, wal.Options{ZeroStepBytes: 4096})
		c := wal.NewCommitter(w, wal.CommitterOptions{QueueBytesMax: 1000})
		goOn := make(chan struct{})
		m.OnSync(func() { <-goOn })
		c.Submit(wal.Batch{Records: []wal.Record{rec(1, 5000)}}) // alone it is taken, whatever its size
		var taken atomic.Bool
		go func() {
			c.Submit(wal.Batch{Records: []wal.Record{rec(2, 10)}})
			taken.Store(true)
		}()
		synctest.Wait()
		if taken.Load() {
			t.Error("Submit did not wait for room")
		}
		close(goOn)
		synctest.Wait()
		if !taken.Load() {
			t.Error("Submit still waits")
		}
		c.Close()
		must(t, w.Close())
	})
}

// TestCommitter_PlugSharesOneSync: what is submitted under a plug is synced once, when the plug is gone, and not before.
func TestCommitter_PlugSharesOneSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		w, _ := open(t, m, wal.Options{ZeroStepBytes: 4096})
		c := wal.NewCommitter(w, wal.CommitterOptions{QueueBytesMax: 4096})
		var syncs, done atomic.Int64
		m.OnSync(func() { syncs.Add(1) })
		submit := func(bytes int) {
			c.Submit(wal.Batch{Records: []wal.Record{rec(1, bytes)}, Done: func(_ []wal.Pos, err error) {
				if err != nil {
					t.Error(err)
				}
				done.Add(1)
			}})
		}
		want := func(when string, s, d int64) {
			t.Helper()
			synctest.Wait()
			if syncs.Load() != s || done.Load() != d {
				t.Fatalf("%s: %d syncs and %d done, want %d and %d", when, syncs.Load(), done.Load(), s, d)
			}
		}
		c.Plug()
		c.Plug()
		submit(10)
		submit(10)
		want("plugged twice", 0, 0)
		submit(10)
		c.Unplug()
		want("plugged once", 0, 0)
		c.Unplug()
		want("unplugged", 1, 3)

		// A sync that is due waits for as many as held it then, not for those who come after.
		c.Plug()
		submit(10)
		c.Plug()
		c.Unplug()
		want("due, one holds it", 1, 3)
		c.Plug()
		c.Unplug()
		want("another came and went", 2, 4)
		c.Unplug()

		// One that waits for room is not kept waiting by a plug.
		c.Plug()
		submit(3000)
		submit(3000)
		want("plugged and full", 3, 5)
		c.Unplug()
		want("unplugged after", 4, 6)

		// Closing waits for nobody.
		c.Plug()
		submit(10)
		c.Close()
		want("closed", 5, 7)
		must(t, w.Close())
	})
}
