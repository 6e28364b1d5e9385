package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
)

const (
	sinkTarget    = 0.6
	sinkPerTxn    = 200
	sinkCustomers = 10_000
	sinkConns     = 8 // what outrelay's sink opens at most, for the second comparison

	// The handler is the one of the first deployment in the README.
	sinkConfig = `consumers:
  %s:
    topics: [outbox.event.order]
    into: {postgres: ${env:WAREHOUSE_DSN}}
    handle:
      OrderPlaced: |
        insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
        on conflict (customer) do update set total = order_totals.total + excluded.total
`
	// pgbench runs the same statement. Clients keep to customers of their own, as partitions do, so that none waits for another's row.
	sinkStatement = `insert into order_totals (customer, total) values (:c, :a) on conflict (customer) do update set total = order_totals.total + excluded.total;`
	sinkSQL       = `create table order_totals (customer text primary key, total numeric(14, 2) not null)`
)

// sinkRun is one measurement.
type sinkRun struct {
	perSec    float64
	clientCPU float64 // µs a row: of outrelay, or of pgbench
	batches   float64 // rows a transaction
}

type sinkRounds struct{ own, one, many []sinkRun }

// Sink applies a backlog of the log to PostgreSQL, by turns with pgbench, which runs the same statement in a pipeline, 200 to a transaction.
func Sink(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	if o.Rows <= 0 {
		o.Rows = 400_000
	}
	if o.For <= 0 {
		o.For = 8 * time.Second
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
	if err := execute(ctx, pg.DSN("postgres"), "create database warehouse"); err != nil {
		return nil, err
	}
	if err := execute(ctx, pg.DSN("warehouse"), sinkSQL); err != nil {
		return nil, err
	}
	b := &sinkBench{e: e, pg: pg, data: e.path("data")}
	if err := b.fill(ctx); err != nil {
		return nil, fmt.Errorf("fill the log: %w", err)
	}
	e.say("%d records are in the log", e.o.Rows)
	if _, err := b.pgbench(ctx, 1, 2*time.Second); err != nil { // warm-up: the table gets its rows
		return nil, err
	}
	var r sinkRounds
	for round := range e.o.Rounds {
		if err := b.round(ctx, round, &r); err != nil {
			return nil, err
		}
	}
	return e.finish(e.sinkReport(r), began, version)
}

type sinkBench struct {
	e    *env
	pg   *testenv.Postgres
	data string
}

func (b *sinkBench) round(ctx context.Context, round int, r *sinkRounds) error {
	one, err := b.pgbench(ctx, 1, b.e.o.For)
	if err != nil {
		return err
	}
	own, err := b.outrelay(ctx, fmt.Sprintf("sink-%d", round+1))
	if err != nil {
		return err
	}
	many, err := b.pgbench(ctx, sinkConns, b.e.o.For)
	if err != nil {
		return err
	}
	r.one, r.own, r.many = append(r.one, one), append(r.own, own), append(r.many, many)
	b.e.say("round %d: pgbench %s rows/s (with %d connections %s), outrelay %s rows/s, ratio %.2f", round+1, num(one.perSec), sinkConns, num(many.perSec), num(own.perSec), own.perSec/one.perSec)
	return nil
}

// fill puts the backlog into the log of a data directory, in the shape that the relay gives to records.
func (b *sinkBench) fill(ctx context.Context) error {
	c, err := b.e.start(ctx, childOptions{name: "sink-fill", data: b.data})
	if err != nil {
		return err
	}
	defer c.kill()
	if err := createTopic(ctx, c.kafka, relayTopic, 16); err != nil {
		return err
	}
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{c.kafka}}, kgo.DefaultProduceTopic(relayTopic))
	if err != nil {
		return err
	}
	defer cl.Close()
	var failed error
	for i := range b.e.o.Rows {
		cl.Produce(ctx, sinkRecord(i), func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return c.stop()
}

func sinkRecord(i int) *kgo.Record {
	customer := "c" + strconv.Itoa(i*7919%sinkCustomers)
	return &kgo.Record{
		Key:   []byte(customer),
		Value: []byte(fmt.Sprintf(`{"order": %d, "amount": %d.50, "customer": %q}`, i, 1+i%90, customer)),
		Headers: []kgo.RecordHeader{
			{Key: kafka.HeaderID, Value: []byte(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))},
			{Key: kafka.HeaderType, Value: []byte("OrderPlaced")}, {Key: kafka.HeaderSource, Value: []byte("shop")},
			{Key: kafka.HeaderPlace, Value: []byte("0/1A2B3C4D")}, {Key: kafka.HeaderOrdinal, Value: []byte("0")},
			{Key: kafka.HeaderCommittedAt, Value: []byte(time.Now().UTC().Format("2006-01-02T15:04:05.999999Z07:00"))},
		},
	}
}

// outrelay applies the whole backlog as a new group.
func (b *sinkBench) outrelay(ctx context.Context, group string) (sinkRun, error) {
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	dsn := b.pg.DSN("warehouse")
	if err := execute(ctx, dsn, "update order_totals set total = 0", "vacuum full analyze order_totals", "checkpoint"); err != nil {
		return sinkRun{}, err
	}
	conf := b.e.path(group + ".yaml")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(sinkConfig, group)), 0o600); err != nil {
		return sinkRun{}, err
	}
	c, err := b.e.start(ctx, childOptions{name: group, config: conf, data: b.data, env: []string{"WAREHOUSE_DSN=" + dsn}, profile: true})
	if err != nil {
		return sinkRun{}, err
	}
	defer c.kill()
	before := c.cpu()
	seen, err := c.awaitCount(ctx, "outrelay_consumer_records_applied_total", group, float64(b.e.o.Rows))
	if err != nil {
		return sinkRun{}, fmt.Errorf("%w\n%s", err, c.tail())
	}
	own := c.cpu() - before
	m, err := c.metrics(ctx)
	if err != nil {
		return sinkRun{}, err
	}
	if err := b.verify(ctx); err != nil {
		return sinkRun{}, err
	}
	first, last := seen[0], seen[len(seen)-1]
	n := float64(b.e.o.Rows)
	return sinkRun{
		perSec: (last.n - first.n) / last.at.Sub(first.at).Seconds(), clientCPU: float64(own.Microseconds()) / n,
		batches: n / m.sum("outrelay_consumer_transaction_batches_count", group),
	}, c.stop()
}

// verify compares the sum of all amounts, which is right only when each record was applied once.
func (b *sinkBench) verify(ctx context.Context) error {
	want := 0.0
	for i := range b.e.o.Rows {
		want += float64(1+i%90) + 0.5
	}
	var got float64
	if err := query(ctx, b.pg.DSN("warehouse"), "select sum(total)::float8 from order_totals", &got); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the totals add up to %f, the records to %f", got, want)
	}
	return nil
}

var pgbenchTPS = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench runs the handler's statement, sinkPerTxn to a transaction, each transaction one pipeline.
func (b *sinkBench) pgbench(ctx context.Context, clients int, d time.Duration) (sinkRun, error) {
	var s strings.Builder
	s.WriteString("\\startpipeline\nbegin;\n")
	for range sinkPerTxn {
		fmt.Fprintf(&s, "\\set c random(1, %d) * %d + :client_id\n\\set a random(1, 90)\n%s\n", sinkCustomers/clients, clients, sinkStatement)
	}
	s.WriteString("commit;\n\\endpipeline\n")
	script := b.e.path("pgbench.sql")
	if err := os.WriteFile(script, []byte(s.String()), 0o600); err != nil {
		return sinkRun{}, err
	}
	dsn := b.pg.DSN("warehouse")
	if err := execute(ctx, dsn, "vacuum full analyze order_totals", "checkpoint"); err != nil {
		return sinkRun{}, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.pg.BinDir(), "pgbench"), "-n", "-M", "prepared", "-c", strconv.Itoa(clients), "-j", "1",
		"-T", strconv.Itoa(int(d.Seconds())), "-f", script, dsn)
	out, err := cmd.CombinedOutput()
	m := pgbenchTPS.FindSubmatch(out)
	if err != nil || m == nil {
		return sinkRun{}, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	tps, err := strconv.ParseFloat(string(m[1]), 64)
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	rows := tps * sinkPerTxn
	return sinkRun{perSec: rows, clientCPU: float64(cpu.Microseconds()) / (rows * d.Seconds()), batches: sinkPerTxn}, err
}

func (e *env) sinkReport(s sinkRounds) *Report {
	rate := func(rs []sinkRun) (xs []float64) {
		for _, x := range rs {
			xs = append(xs, x.perSec)
		}
		return xs
	}
	r := &Report{Name: "sink", Title: "Applying a backlog of small rows to PostgreSQL, beside pgbench"}
	r.Figures = []Figure{{Name: "rows/s ÷ pgbench's, one connection, pipelined, 200 a transaction", Value: median(ratios(rate(s.own), rate(s.one))), Target: sinkTarget,
		Peer: fmt.Sprintf("%s rows/s; pgbench %s; with %d connections pgbench reaches %s, we %.2f of that; Debezium's JDBC sink, tuned: 14,800",
			num(median(rate(s.own))), num(median(rate(s.one))), sinkConns, num(median(rate(s.many))), median(ratios(rate(s.own), rate(s.many))))}}
	t := Table{Title: "Rounds", Header: []string{"round", "by", "rows/s", "rows a transaction", "client µs CPU/row", "ratio"},
		Note: "Client CPU is pgbench's, or all of outrelay's: the broker that serves the records, too."}
	for i := range s.own {
		t.add(strconv.Itoa(i+1), "pgbench, 1 connection", num(s.one[i].perSec), num(s.one[i].batches), num(s.one[i].clientCPU), "")
		t.add(strconv.Itoa(i+1), "outrelay", num(s.own[i].perSec), num(s.own[i].batches), num(s.own[i].clientCPU), fmt.Sprintf("%.2f", s.own[i].perSec/s.one[i].perSec))
		t.add(strconv.Itoa(i+1), fmt.Sprintf("pgbench, %d connections", sinkConns), num(s.many[i].perSec), num(s.many[i].batches), num(s.many[i].clientCPU), "")
	}
	r.Tables = []Table{t}
	r.Method = []string{
		fmt.Sprintf("%d records in the shape that the relay writes (a JSON payload of about 60 bytes, six headers), %d keys, stand in a topic of 16 partitions before the clock starts. outrelay: `run` with one consumer group, each round a new one; from the last sample before the count of applied records moved to the one that says all of them (`outrelay_consumer_records_applied_total`); then the sum of all totals must be exact. Batches and connections (at most %d) are the defaults.",
			e.o.Rows, sinkCustomers, sinkConns),
		fmt.Sprintf("The statement is the upsert of the README's first deployment. pgbench runs the same on the same table and server, `-M prepared`, `\\startpipeline … \\endpipeline` around each transaction of %d, %s a run, with one connection (the comparison of the target) and with %d. Before every run the table is vacuumed and a checkpoint is made. By turns; the figure is the median of the rounds' ratios.",
			sinkPerTxn, e.o.For, sinkConns),
		"Debezium's figure was measured on another day on a machine of the same kind (2 cores), at-least-once; it is no part of this run.",
	}
	return r
}
