package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const loadConns = 8

// Load is what the shop's customers do: transactions from several connections, at a fixed rate, whatever outrelay does meanwhile.
type Load struct {
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	txns      atomic.Int64 // committed or rolled back
	committed atomic.Int64 // events

	mu  sync.Mutex
	err error
}

// StartLoad begins; the load goes on until Stop.
func StartLoad(ctx context.Context, dsn string, rate int) (*Load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cancel: cancel}
	tickets := make(chan struct{}, rate) // up to a second of orders may queue while the database is slow
	for i := range loadConns {
		conn, err := openTill(ctx, dsn)
		if err != nil {
			cancel()
			return nil, err
		}
		l.wg.Go(func() {
			defer conn.close(ctx)
			if err := l.work(ctx, conn, rand.New(rand.NewPCG(uint64(i), 7)), tickets); err != nil && ctx.Err() == nil {
				l.fail(err)
			}
		})
	}
	l.wg.Go(func() { pace(ctx, rate, tickets) })
	return l, nil
}

// pace hands out rate tickets a second, in steps of a few milliseconds.
func pace(ctx context.Context, rate int, tickets chan<- struct{}) {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	began, given := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for due := int(time.Since(began).Seconds() * float64(rate)); given < due; given++ {
			select {
			case tickets <- struct{}{}:
			default: // the database cannot take more: the rate is a wish
			}
		}
	}
}

func (l *Load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.cancel()
}

// Txns returns how many transactions have ended, by commit or rollback.
func (l *Load) Txns() int64 { return l.txns.Load() }

// Committed returns how many events were committed.
func (l *Load) Committed() int64 { return l.committed.Load() }

// Stop ends the load: what was begun is finished. The error is the first that a connection met.
func (l *Load) Stop() error {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *Load) work(ctx context.Context, conn till, rnd *rand.Rand, tickets <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tickets:
		}
		// A transaction that was begun is finished: otherwise nobody would know whether it counts.
		n, err := l.transact(context.WithoutCancel(ctx), conn, rnd)
		if err != nil {
			return err
		}
		l.txns.Add(1)
		l.committed.Add(int64(n))
	}
}

// transact runs one transaction of a random shape and returns how many events it committed.
func (l *Load) transact(ctx context.Context, conn till, rnd *rand.Rand) (events int, err error) {
	who := customer(rnd)
	steps := []step{{sql: "begin"}}
	place := func(keep bool) {
		steps = append(steps, step{order: &order{who, fmt.Sprintf("%d.%02d", rnd.IntN(90)+1, rnd.IntN(100)), keep}})
		events++
	}
	end := "commit"
	switch p := rnd.IntN(100); {
	case p < 5: // rolled back
		place(true)
		end = "rollback"
		events = 0
	case p < 10: // a savepoint rolled back in the middle
		place(true)
		steps = append(steps, step{sql: "savepoint s"})
		place(true)
		steps = append(steps, step{sql: "rollback to savepoint s"})
		events--
		place(true)
	case p < 20: // written and deleted: the write-ahead log, or the binlog, has it all the same
		place(false)
	case p < 30: // several rows
		for range 2 + rnd.IntN(4) {
			place(true)
		}
	default:
		place(true)
	}
	return events, conn.transact(ctx, append(steps, step{sql: end}))
}

// customer picks one of 500, and one of the first five in a fifth of all cases: hot keys.
func customer(rnd *rand.Rand) string {
	if rnd.IntN(5) == 0 {
		return fmt.Sprint("c", rnd.IntN(5))
	}
	return fmt.Sprint("c", rnd.IntN(500))
}
