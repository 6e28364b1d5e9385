package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sinks"
)

// combiner stands between a group's workers and a sink that can share a transaction between partitions. It is the shell around gathering: one
// goroutine for each transaction that is under way, which ends when nothing waits.
type combiner struct {
	store   sinks.MultiApplier
	turns   *sync.RWMutex // read-locked by every transaction
	clock   clock.Clock
	metrics *metrics
	wg      sync.WaitGroup // of the transactions

	mu sync.Mutex // guards g; a queue's lock may be held when it is taken
	g  gathering
}

const (
	// While one commits, another may begin; what comes then gathers. With one alone, everything waits out each of its syncs, and
	// one that takes long is felt by all partitions.
	transactionsMax = 2
	// transactionSpan is how long a transaction of several partitions may be expected to take. Their syncs are what is saved, a few
	// milliseconds; partitions whose statements take longer than that are better off beside each other.
	transactionSpan = 20 * time.Millisecond
	// patience is how long a batch waits for the transactions under way, which may wait for a lock that somebody else holds.
	patience = 50 * time.Millisecond
)

func newCombiner(store sinks.MultiApplier, turns *sync.RWMutex, o *Options, m *metrics) *combiner {
	return &combiner{store: store, turns: turns, clock: o.Clock, metrics: m, g: gathering{conf: gatheringConf{
		transactions: transactionsMax, records: o.BatchRecords, bytes: o.BatchBytes, span: transactionSpan,
	}}}
}

// expect says that n workers are about to call apply, or unexpect. Others wait for them, so it must not be forgotten.
func (c *combiner) expect(n int) {
	c.mu.Lock()
	c.g.expect(n)
	c.mu.Unlock()
}

// unexpect says that a worker that was expected has nothing to apply.
func (c *combiner) unexpect() {
	c.mu.Lock()
	c.g.expect(-1)
	c.start(false)
	c.mu.Unlock()
}

// apply applies b together with what others have. It blocks until the outcome is known: errApart when b is to be applied alone. Ending ctx ends
// the wait, and the transaction that b is in. expected says that the worker was expected; it is again when apply returns what a
// transaction came to.
func (c *combiner) apply(ctx context.Context, b sinks.Batch, bytes int, expected bool) (again bool, err error) {
	j := &job{batch: b, bytes: bytes, ctx: ctx, done: make(chan error, 1)}
	c.mu.Lock()
	c.g.submit(j)
	if expected {
		c.g.expect(-1)
	}
	c.start(false)
	c.mu.Unlock()
	t := c.clock.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-j.done:
		return true, err
	case <-t.C():
		c.mu.Lock()
		if c.g.waits(j) {
			c.start(true)
		}
		c.mu.Unlock()
	case <-ctx.Done():
	}
	select {
	case err := <-j.done:
		return true, err
	case <-ctx.Done():
	}
	c.mu.Lock()
	withdrawn := c.g.withdraw(j)
	c.mu.Unlock()
	if withdrawn {
		return false, ctx.Err()
	}
	return true, <-j.done // soon: the transaction has ended with ctx
}

// start begins what is to begin. c.mu is held.
func (c *combiner) start(insist bool) {
	for set := c.g.next(insist); set != nil; set = c.g.next(false) {
		c.wg.Go(func() { c.run(set) })
	}
}

// run applies set and tells its workers.
func (c *combiner) run(set []*job) {
	from := c.clock.Now()
	err := c.transact(set)
	took := c.clock.Now().Sub(from)
	if err == nil {
		c.metrics.transaction(len(set), took)
	} else if len(set) > 1 {
		c.metrics.parted.Inc()
	}
	c.mu.Lock()
	if c.g.ended(); err == nil {
		c.g.learn(set, took)
	}
	// Those that have more are to be in the next transaction, not in the one after it.
	c.g.expect(len(set))
	c.mu.Unlock()
	for i, o := range outcomes(err, len(set)) {
		set[i].done <- o
	}
}

// transact runs one transaction. It is cut when one of its workers is: the partition's next owner must not wait for it.
func (c *combiner) transact(set []*job) error {
	c.turns.RLock()
	defer c.turns.RUnlock()
	if len(set) == 1 {
		return c.store.Apply(set[0].ctx, set[0].batch)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(set[0].ctx))
	defer cancel()
	bs := make([]sinks.Batch, len(set))
	for i, j := range set {
		bs[i] = j.batch
		defer context.AfterFunc(j.ctx, cancel)()
	}
	return c.store.ApplyAll(ctx, bs)
}
