package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sinks"
)

// heldStore is a sink whose transactions wait until the test decides about them.
type heldStore struct {
	sinks.MultiApplier
	begun chan struct{} // told of each transaction that begins
	mu    sync.Mutex
	under []*heldTxn
}

type heldTxn struct {
	partitions []int32
	end        chan error
}

func (s *heldStore) ApplyAll(ctx context.Context, bs []sinks.Batch) error {
	h := &heldTxn{end: make(chan error, 1)}
	for _, b := range bs {
		h.partitions = append(h.partitions, b.Claim.Partition.Partition)
	}
	s.mu.Lock()
	s.under = append(s.under, h)
	s.mu.Unlock()
	s.begun <- struct{}{}
	select {
	case err := <-h.end:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", sinks.ErrAmbiguous, ctx.Err())
	}
}

func (s *heldStore) Apply(ctx context.Context, b sinks.Batch) error {
	return s.ApplyAll(ctx, []sinks.Batch{b})
}

// bubble is a combiner with workers whose calls come in the order of the test's.
type bubble struct {
	t     *testing.T
	store *heldStore
	turns sync.RWMutex
	c     *combiner
	cut   map[int32]context.CancelFunc
	ended map[int32]error
	mu    sync.Mutex // guards ended
}

func inBubble(t *testing.T, run func(b *bubble)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, store: &heldStore{begun: make(chan struct{}, 100)}, cut: map[int32]context.CancelFunc{}, ended: map[int32]error{}}
		o := Options{Clock: clock.Real{}, BatchRecords: 100, BatchBytes: 1 << 20}
		b.c = newCombiner(b.store, &b.turns, &o, newMetrics())
		b.c.g.conf.transactions = 1
		run(b)
		synctest.Wait()
		b.c.wg.Wait()
		if g := &b.c.g; g.expected != 0 || g.running != 0 || len(g.waiting) != 0 {
			t.Errorf("%d are expected, %d under way, %d wait", g.expected, g.running, len(g.waiting))
		}
	})
}

// apply lets the workers of these partitions apply a batch, and waits until all of them wait.
func (b *bubble) apply(partitions ...int32) {
	b.c.expect(len(partitions))
	for _, p := range partitions {
		ctx, cancel := context.WithCancel(b.t.Context())
		b.cut[p] = cancel
		go func() {
			defer cancel()
			again, err := b.c.apply(ctx, sinks.Batch{Claim: sinks.Claim{Partition: sinks.Partition{Partition: p}}}, 1, true)
			if again {
				b.c.unexpect()
			}
			b.mu.Lock()
			b.ended[p] = err
			b.mu.Unlock()
		}()
	}
	synctest.Wait()
}

// wantUnder checks which transactions have begun so far, by their partitions.
func (b *bubble) wantUnder(want ...[]int32) {
	b.t.Helper()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	var got [][]int32
	for _, h := range b.store.under {
		got = append(got, slices.Sorted(slices.Values(h.partitions)))
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		b.t.Fatalf("transactions %v, want %v", got, want)
	}
}

// end ends the n-th transaction.
func (b *bubble) end(n int, err error) {
	b.store.under[n].end <- err
	synctest.Wait()
}

func (b *bubble) want(p int32, want error) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err, ok := b.ended[p]; !ok || !errors.Is(err, want) {
		b.t.Fatalf("partition %d: over %v, %v; want %v", p, ok, err, want)
	}
	delete(b.ended, p)
}

func TestCombiner_gathers(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.apply(1, 2, 3)
		b.wantUnder([]int32{1, 2, 3})
		b.apply(4)
		b.apply(5)
		b.wantUnder([]int32{1, 2, 3})
		b.end(0, nil)
		for p := range int32(3) {
			b.want(p+1, nil)
		}
		b.wantUnder([]int32{1, 2, 3}, []int32{4, 5})
		b.end(1, errDown)
		b.want(4, errApart)
		b.want(5, errApart)
	})
}

// A transaction that waits for somebody's lock holds the other partitions back for a moment only.
func TestCombiner_passesAStuckTransaction(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.apply(1)
		b.apply(2)
		b.apply(3)
		b.wantUnder([]int32{1})
		<-b.store.begun
		from := time.Now() // of the bubble's clock, which stands still while anything is to be done
		<-b.store.begun
		if waited := time.Since(from); waited != patience {
			t.Errorf("the second transaction began after %v, want %v", waited, patience)
		}
		b.wantUnder([]int32{1}, []int32{2, 3})
		b.end(1, nil)
		b.want(2, nil)
		b.want(3, nil)
		b.end(0, nil)
		b.want(1, nil)
	})
}

func TestCombiner_cutWhileItWaits(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.apply(1)
		b.apply(2, 3)
		b.cut[2]()
		synctest.Wait()
		b.want(2, context.Canceled)
		b.end(0, nil)
		b.want(1, nil)
		b.wantUnder([]int32{1}, []int32{3})
		b.end(1, nil)
		b.want(3, nil)
	})
}

// The next owner of a partition does not wait for a transaction that the old one shares with others.
func TestCombiner_cutWhileItApplies(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.apply(1, 2)
		b.cut[2]()
		synctest.Wait()
		b.want(1, sinks.ErrAmbiguous)
		b.want(2, sinks.ErrAmbiguous)
	})
}
