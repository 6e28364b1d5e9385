package consumer_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/postgres"
)

var shared testenv.Shared

// env is a log and a sink database, with what was produced.
type env struct {
	t     testing.TB
	log   *kfake.Cluster
	pg    *testenv.Postgres
	db    string
	dsn   string
	admin *kadm.Client
	cl    *kgo.Client
	sent  int // records in committed transactions
}

func newEnv(t testing.TB, partitions int32, opts ...kfake.Opt) *env {
	t.Helper()
	if p, ok := t.(*testing.T); ok {
		p.Parallel()
	}
	pg := shared.Get(t)
	e := &env{t: t, pg: pg, db: pg.NewDatabase(t)}
	e.dsn = pg.DSN(e.db)
	pg.Exec(t, e.db, "create table effects (n bigserial, id text, part int, at bigint, body text, check (body <> 'poison'))")
	base := []kfake.Opt{kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second)}
	if partitions > 0 {
		base = append(base, kfake.SeedTopics(partitions, "t"))
	}
	e.startLog(append(base, opts...)...)
	return e
}

func (e *env) startLog(opts ...kfake.Opt) {
	e.t.Helper()
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.log = c
	e.t.Cleanup(c.Close)
	e.cl = e.client()
	e.admin = kadm.NewClient(e.cl)
}

func (e *env) client(opts ...kgo.Opt) *kgo.Client {
	e.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(e.log.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(cl.Close)
	return cl
}

// produce writes n records over the partitions in one transaction, which is committed or aborted.
func (e *env) produce(cl *kgo.Client, partitions, n int, commit bool) {
	e.t.Helper()
	body := "ok"
	if !commit {
		body = "aborted"
	}
	e.produceBodies(cl, partitions, n, commit, func(int) string { return body })
}

func (e *env) produceBodies(cl *kgo.Client, partitions, n int, commit bool, body func(i int) string) {
	e.t.Helper()
	ctx := e.t.Context()
	if err := cl.BeginTransaction(); err != nil {
		e.t.Fatal(err)
	}
	for i := range n {
		cl.Produce(ctx, &kgo.Record{
			Topic: "t", Partition: int32(i % partitions), Value: []byte(fmt.Sprintf(`{"body": %q}`, body(i))),
			Headers: []kgo.RecordHeader{{Key: sinks.HeaderID, Value: []byte(fmt.Sprintf("e%d", e.sent+i))}},
		}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		e.t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		e.t.Fatal(err)
	}
	if commit {
		e.sent += n
	}
}

// put writes one plain record.
func (e *env) put(partition int32, body string) {
	e.t.Helper()
	r := &kgo.Record{
		Topic: "t", Partition: partition, Value: []byte(fmt.Sprintf(`{"body": %q}`, body)),
		Headers: []kgo.RecordHeader{{Key: sinks.HeaderID, Value: []byte(fmt.Sprintf("e%d", e.sent))}},
	}
	if err := e.cl.ProduceSync(e.t.Context(), r).FirstErr(); err != nil {
		e.t.Fatal(err)
	}
	e.sent++
}

func (e *env) txnClient() *kgo.Client {
	return e.client(kgo.TransactionalID("tx-"+strconv.Itoa(rand.Int())), kgo.ProducerLinger(0))
}

func (e *env) sinkOptions() postgres.Options {
	return postgres.Options{
		ConnString: func(context.Context) (string, error) { return e.dsn, nil }, Owner: "test",
		Handlers: map[string][]handler.Statement{"*": {{SQL: "insert into effects (id, part, at, body) values (:id, :partition, :offset, :payload.body)", Place: "test.yaml:1"}}},
	}
}

func (e *env) options() consumer.Options {
	return consumer.Options{
		Name: "g", Topics: []string{"t"}, SessionTimeout: 2 * time.Second,
		Client: []kgo.Opt{kgo.SeedBrokers(e.log.ListenAddrs()...)},
		Sink:   func(ctx context.Context) (sinks.OffsetStore, error) { return postgres.Open(ctx, e.sinkOptions()) },
		Logger: slog.New(slog.NewTextHandler(logTo{e.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// logTo writes to the test's log, until the test is over.
type logTo struct{ t testing.TB }

func (l logTo) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSuffix(string(b), "\n"))
	}
	return len(b), nil
}

// start runs a group until stop is called or the test ends.
func (e *env) start(o consumer.Options) (g *consumer.Group, stop func()) {
	e.t.Helper()
	g, err := consumer.New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				e.t.Errorf("Run: %v", err)
			}
		})
	}
	e.t.Cleanup(stop)
	return g, stop
}

// eventually polls: what is waited for happens in a database and a log that tell nobody.
func (e *env) eventually(what string, ok func() bool) {
	e.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			e.t.Fatalf("not within 30s: %s", what)
		}
	}
}

func (e *env) value(sql string) string { e.t.Helper(); return e.pg.Value(e.t, e.db, sql) }

func (e *env) effects() int { n, _ := strconv.Atoi(e.value("select count(*) from effects")); return n }

// drained waits until every partition of the groups is applied, and checks what must hold then.
func (e *env) drained(gs ...*consumer.Group) {
	e.t.Helper()
	ctx := e.t.Context()
	ends, err := e.admin.ListEndOffsets(ctx, "t")
	if err != nil {
		e.t.Fatal(err)
	}
	e.eventually("drained", func() bool {
		n := 0
		for _, g := range gs {
			for _, p := range g.Status() {
				o, _ := ends.Lookup("t", p.Partition)
				if p.State != consumer.StateRunning || p.NextOffset != o.Offset || p.LagRecords != 0 {
					return false
				}
				n++
			}
		}
		return n == len(ends["t"])
	})
	e.exactlyOnce()
}

// exactlyOnce: each record of a committed transaction took effect once, in the order of its partition.
func (e *env) exactlyOnce() {
	e.t.Helper()
	if n := e.effects(); n != e.sent {
		e.t.Errorf("%d effects, want %d", n, e.sent)
	}
	if n := e.value("select count(*) from (select id from effects group by id having count(*) > 1) x"); n != "0" {
		e.t.Errorf("%s ids took effect more than once", n)
	}
	if n := e.value("select count(*) from (select at <= lag(at) over (partition by part order by n) as back from effects) x where back"); n != "0" {
		e.t.Errorf("%s effects out of order", n)
	}
	if n := e.value("select count(*) from effects where body = 'aborted'"); n != "0" {
		e.t.Errorf("%s effects of aborted transactions", n)
	}
}
