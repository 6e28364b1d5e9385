package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
)

const (
	loadConns     = 4
	loadCustomers = 500

	orderSQL = `with o as (insert into orders (customer, amount) values ($2, $3::numeric) returning id)
insert into outbox (id, aggregatetype, aggregateid, type, payload)
select $1, 'order', $2, 'OrderPlaced', jsonb_build_object('order', o.id, 'customer', $2::text, 'amount', $3::numeric) from o`
)

// load commits orders at a fixed rate: each transaction one business row and one outbox row, one statement and one round trip.
type load struct {
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	committed atomic.Int64
	from, to  time.Time // of the phase that counts

	mu  sync.Mutex
	err error
}

func startLoad(ctx context.Context, dsn string, rate int) (*load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	var next atomic.Int64
	began := time.Now()
	for range loadConns {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			cancel()
			l.wg.Wait()
			return nil, err
		}
		l.wg.Go(func() {
			defer conn.Close(context.WithoutCancel(ctx))
			l.work(ctx, conn, func() (int64, time.Time) {
				n := next.Add(1)
				return n, began.Add(time.Duration(n) * time.Second / time.Duration(rate))
			})
		})
	}
	return l, nil
}

// work commits what is due: each connection takes the next order and waits for its time. When all are late, as behind a slow server, they catch up: the
// rate holds, and what was late is in the latencies of the database, not of outrelay.
func (l *load) work(ctx context.Context, conn *pgx.Conn, next func() (n int64, due time.Time)) {
	for {
		n, due := next()
		if sleep(ctx, time.Until(due)) != nil {
			return
		}
		// A transaction that was begun is finished: otherwise nobody would know whether it counts.
		if err := order(context.WithoutCancel(ctx), conn, newID(), int(n)); err != nil {
			l.fail(err)
			return
		}
		l.committed.Add(1)
	}
}

func newID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

func order(ctx context.Context, conn *pgx.Conn, id [16]byte, n int) error {
	_, err := conn.Exec(ctx, orderSQL, id, "c"+strconv.Itoa(n*7919%loadCustomers), strconv.Itoa(1+n%90)+".50")
	return err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("load: %w", err)
	}
	l.cancel()
}

func (l *load) stop() error {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// probe commits events of its own and looks for each in the sink as a client would, by its key, until it is there. It returns, in ms, the times from the
// commit's answer to the row: what a user could see. They include the commits' syncs, which the servers' own timestamps do not.
func (l *latency) probe(ctx context.Context) (times []float64) {
	out, err := pgx.Connect(ctx, l.localShop)
	if err != nil {
		return nil
	}
	defer out.Close(context.WithoutCancel(ctx))
	in, err := pgx.Connect(ctx, l.localWarehouse)
	if err != nil {
		return nil
	}
	defer in.Close(context.WithoutCancel(ctx))
	t := time.NewTicker(time.Second / latencyProbes)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return times
		case <-t.C:
		}
		id := newID()
		if order(context.WithoutCancel(ctx), out, id, n) != nil {
			return times
		}
		began := time.Now()
		err := every(ctx, 500*time.Microsecond, func() (bool, error) {
			var n int
			err := in.QueryRow(context.WithoutCancel(ctx), "select count(*) from applied where id = $1", id).Scan(&n)
			return n == 1, err
		})
		if err != nil {
			return times
		}
		times = append(times, ms(time.Since(began)))
	}
}

// logWatcher is a Kafka client that notes when committed records reach it.
type logWatcher struct {
	cl   *kgo.Client
	done chan struct{}
	seen []seenRecord // valid once done is closed
}

type seenRecord struct{ committed, stamped, arrived time.Time }

func watchLog(ctx context.Context, seed string) (*logWatcher, error) {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{seed}}, kgo.ConsumeTopics(relayTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	if err != nil {
		return nil, err
	}
	w := &logWatcher{cl: cl, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			fs := cl.PollFetches(ctx)
			if fs.IsClientClosed() || ctx.Err() != nil {
				return
			}
			now := time.Now()
			fs.EachRecord(func(r *kgo.Record) { w.seen = append(w.seen, seenRecord{headerTime(r), r.Timestamp, now}) })
		}
	}()
	return w, nil
}

func headerTime(r *kgo.Record) time.Time {
	for _, h := range r.Headers {
		if h.Key == kafka.HeaderCommittedAt {
			if t, err := time.Parse(time.RFC3339Nano, string(h.Value)); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}

// stop returns, in ms, the times from the source's commit to the arrival here and to the record's timestamp, of events committed in [from, to).
func (w *logWatcher) stop(from, to time.Time) (arrived, stamped []float64) {
	w.cl.Close()
	<-w.done
	for _, s := range w.seen {
		if !s.committed.Before(from) && s.committed.Before(to) {
			arrived = append(arrived, ms(s.arrived.Sub(s.committed)))
			stamped = append(stamped, ms(s.stamped.Sub(s.committed)))
		}
	}
	return arrived, stamped
}
