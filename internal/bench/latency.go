package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/testenv"
)

const (
	latencyP50TargetMS = 6
	latencyP99TargetMS = 25
	readyTargetMS      = 1000
	memoryTargetMB     = 150
	binaryTargetMB     = 45

	latencyWarm     = 5 * time.Second
	latencyObserved = 10 * time.Second // the phase in which a Kafka client watches
	latencyProbes   = 10               // events a second that are also looked for by a client of the sink

	// The file of a first deployment, with a second statement that notes each event, so that its times can be read.
	latencyConfig = `sources:
  shop:
    postgres: ${env:SHOP_DSN}
    outbox:
      - table: public.outbox
consumers:
  order-totals:
    topics: [outbox.event.order]
    into: {postgres: ${env:WAREHOUSE_DSN}}
    handle:
      OrderPlaced:
        - |
          insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
          on conflict (customer) do update set total = order_totals.total + excluded.total
        - insert into applied (id) values (:id)
`
	latencyShopSQL = `
create table orders (id bigint generated always as identity primary key, customer text not null, amount numeric(12, 2) not null);
create table outbox (id uuid primary key, aggregatetype text not null, aggregateid text not null, type text not null, payload jsonb);
`
	latencyWarehouseSQL = `
create table order_totals (customer text primary key, total numeric(14, 2) not null);
create table applied (id uuid primary key);
`
)

// latencyFound is everything that the run found.
type latencyFound struct {
	main     span       // of the phase that counts
	observed span       // of the phase in which a Kafka client watches
	probes   []float64  // ms, from the commit's answer to the row being seen
	stages   stageTimes // of the main phase
	inLog    []float64  // ms, source commit to a Kafka client's having the record, in the observed phase
	stamped  []float64  // ms, source commit to the record's timestamp, in the observed phase
	rate     float64    // events a second that were really committed
	rss, hwm int64
	ready    []float64 // ms: first start, after SIGTERM, after kill -9
	working  []float64 // ms: until the source is relayed
	binary   int64
	cpu      float64 // share of one core that outrelay used
	pgCPU    float64 // PostgreSQL, all of it
	ownCPU   float64 // load and probes
}

// span is the latencies of one phase, in ms.
type span struct{ mean, p50, p90, p99, max, n float64 }

func spanOf(xs []float64) span {
	return span{mean(xs), quantile(xs, 0.5), quantile(xs, 0.9), quantile(xs, 0.99), quantile(xs, 1), float64(len(xs))}
}

// Latency measures from the commit in the source to the commit in the sink, at a steady rate, with everything on this machine, and what outrelay needs for it.
func Latency(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	if o.Rate <= 0 {
		o.Rate = 1000
	}
	if o.For <= 0 {
		o.For = 30 * time.Second
	}
	e, err := open(o)
	if err != nil {
		return nil, err
	}
	defer e.close()
	pg, version, err := startPostgres(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close()
	l := &latency{e: e, pg: pg, shop: pg.DSN("shop"), warehouse: pg.DSN("warehouse"), localShop: socketDSN(pg, "shop"), localWarehouse: socketDSN(pg, "warehouse")}
	if err := l.setUp(ctx); err != nil {
		return nil, err
	}
	f, err := l.run(ctx)
	if err != nil {
		return nil, err
	}
	return e.finish(e.latencyReport(f), began, version)
}

type latency struct {
	e               *env
	pg              *testenv.Postgres
	shop, warehouse string // DSNs
	conf            string
	// The load and the probes come through the server's socket, which costs them and the server less of the cores than TCP.
	localShop, localWarehouse string
}

func (l *latency) setUp(ctx context.Context) error {
	for db, sql := range map[string]string{"shop": latencyShopSQL, "warehouse": latencyWarehouseSQL} {
		if err := execute(ctx, l.pg.DSN("postgres"), "create database "+db); err != nil {
			return err
		}
		if err := execute(ctx, l.pg.DSN(db), sql); err != nil {
			return err
		}
	}
	l.conf = l.e.path("outrelay.yaml")
	return os.WriteFile(l.conf, []byte(latencyConfig), 0o600)
}

// startOutrelay starts it and notes how long it took.
func (l *latency) startOutrelay(ctx context.Context, name string, f *latencyFound, profile bool) (*child, error) {
	c, err := l.e.start(ctx, childOptions{name: name, config: l.conf, data: l.e.path("data"), profile: profile,
		env: []string{"SHOP_DSN=" + l.shop, "WAREHOUSE_DSN=" + l.warehouse}})
	if err != nil {
		return nil, err
	}
	if err := c.awaitRelay(ctx, "shop"); err != nil {
		c.kill()
		return nil, err
	}
	f.ready = append(f.ready, ms(c.ready))
	f.working = append(f.working, ms(time.Since(c.began)))
	return c, nil
}

func (l *latency) run(ctx context.Context) (*latencyFound, error) {
	f := &latencyFound{}
	info, err := os.Stat(l.e.o.Binary)
	if err != nil {
		return nil, err
	}
	f.binary = info.Size()
	c, err := l.startOutrelay(ctx, "latency", f, true)
	if err != nil {
		return nil, err
	}
	defer func() { c.kill() }()
	if err := l.phases(ctx, c, f); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.tail())
	}
	f.rss, f.hwm = c.status("VmRSS"), c.status("VmHWM")
	if err := c.stop(); err != nil {
		return nil, err
	}
	if c, err = l.startOutrelay(ctx, "latency-again", f, false); err != nil {
		return nil, err
	}
	c.kill()
	if c, err = l.startOutrelay(ctx, "latency-killed", f, false); err != nil {
		return nil, err
	}
	return f, c.stop()
}

// phases warms up, measures, and measures again while a Kafka client watches.
func (l *latency) phases(ctx context.Context, c *child, f *latencyFound) error {
	// The load is one thread's: on so few cores every hand-over to another one is taken from what is measured.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	load, err := startLoad(ctx, l.localShop, l.e.o.Rate)
	if err != nil {
		return err
	}
	defer load.stop()
	l.e.say("warming up at %d events/s", l.e.o.Rate)
	if err := sleep(ctx, latencyWarm); err != nil {
		return err
	}
	l.e.say("measuring for %s", l.e.o.For)
	probing, stopProbes := context.WithCancel(ctx)
	probed := make(chan []float64, 1)
	go func() { probed <- l.probe(probing) }()
	err = l.phase(ctx, c, f, load)
	stopProbes()
	f.probes = <-probed
	if err != nil {
		return err
	}
	l.e.say("measuring for %s with a Kafka client beside it", latencyObserved)
	w, err := watchLog(ctx, c.kafka)
	if err != nil {
		return err
	}
	from := time.Now()
	err = sleep(ctx, latencyObserved)
	to := time.Now()
	f.inLog, f.stamped = w.stop(from, to)
	if err != nil {
		return err
	}
	if err := load.stop(); err != nil {
		return err
	}
	if err := l.drain(ctx); err != nil {
		return err
	}
	all, err := l.latencies(ctx)
	if err != nil {
		return err
	}
	f.main = spanOf(all.between(load.from, load.to))
	f.observed = spanOf(all.between(from, to))
	return nil
}

// phase is the part that counts: what the metrics say before and after it tells where the time went.
func (l *latency) phase(ctx context.Context, c *child, f *latencyFound, load *load) error {
	before, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	cpu, pg, own, n := c.cpu(), treeCPU(l.pg.Pid()), cpuOf(os.Getpid()), load.committed.Load()
	load.from = time.Now()
	if err := sleep(ctx, l.e.o.For); err != nil {
		return err
	}
	load.to = time.Now()
	took := load.to.Sub(load.from).Seconds()
	f.rate, f.cpu = float64(load.committed.Load()-n)/took, (c.cpu()-cpu).Seconds()/took
	f.pgCPU, f.ownCPU = (treeCPU(l.pg.Pid())-pg).Seconds()/took, (cpuOf(os.Getpid())-own).Seconds()/took
	after, err := c.metrics(ctx)
	f.stages = stagesOf(before, after)
	return err
}

// drain waits until the warehouse has every event.
func (l *latency) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return every(ctx, 100*time.Millisecond, func() (bool, error) {
		var out, in int64
		if err := query(ctx, l.shop, "select count(*) from outbox", &out); err != nil {
			return false, err
		}
		if err := query(ctx, l.warehouse, "select count(*) from applied", &in); err != nil {
			return false, err
		}
		if in > out {
			return false, fmt.Errorf("%d events were applied, %d were committed", in, out)
		}
		return in == out, nil
	})
}

// commits is when each event was committed, here and there.
type commits []struct{ out, in time.Time }

func (c commits) between(from, to time.Time) (latencies []float64) {
	for _, x := range c {
		if !x.out.Before(from) && x.out.Before(to) {
			latencies = append(latencies, ms(x.in.Sub(x.out)))
		}
	}
	return latencies
}

// latencies joins what both databases noted: the time of the transaction that made the row.
func (l *latency) latencies(ctx context.Context) (commits, error) {
	out, err := commitTimes(ctx, l.shop, "outbox")
	if err != nil {
		return nil, err
	}
	in, err := commitTimes(ctx, l.warehouse, "applied")
	if err != nil {
		return nil, err
	}
	if len(in) != len(out) {
		return nil, fmt.Errorf("%d events committed, %d applied", len(out), len(in))
	}
	all := make(commits, 0, len(out))
	for id, at := range out {
		then, ok := in[id]
		if !ok {
			return nil, fmt.Errorf("event %x was never applied", id)
		}
		all = append(all, struct{ out, in time.Time }{at, then})
	}
	return all, nil
}

func commitTimes(ctx context.Context, dsn, table string) (map[[16]byte]time.Time, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, "select id, pg_xact_commit_timestamp(xmin) from "+table)
	if err != nil {
		return nil, err
	}
	m := map[[16]byte]time.Time{}
	var id [16]byte
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error { m[id] = at; return nil })
	return m, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// profileName is where the profile of a run goes.
func (e *env) profileName(name string) string { return filepath.Join(e.o.Profile, name+".pprof") }
