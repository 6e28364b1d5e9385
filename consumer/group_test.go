package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
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
	ctx := e.t.Context()
	if err := cl.BeginTransaction(); err != nil {
		e.t.Fatal(err)
	}
	for i := range n {
		body := "ok"
		if !commit {
			body = "aborted"
		}
		cl.Produce(ctx, &kgo.Record{
			Topic: "t", Partition: int32(i % partitions), Value: []byte(fmt.Sprintf(`{"body": %q}`, body)),
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
		Handlers: map[string][]postgres.Statement{"*": {{SQL: "insert into effects (id, part, at, body) values (:id, :partition, :offset, :payload.body)", Place: "test.yaml:1"}}},
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

func TestGroup_appliesWhatIsCommitted(t *testing.T) {
	e := newEnv(t, 3)
	tx := e.txnClient()
	e.produce(tx, 3, 30, true)
	e.produce(tx, 3, 30, false)
	g, _ := e.start(e.options())
	for i := range 20 {
		e.produce(tx, 3, 7, i%4 != 3)
	}
	e.drained(g)
	e.produce(tx, 2, 2, false) // only aborted data and a marker
	e.drained(g)
	if err := g.Ready(); err != nil {
		t.Fatal(err)
	}
	// Lag tools see the same.
	e.eventually("Kafka's group offsets follow", func() bool {
		offsets, err := e.admin.FetchOffsets(t.Context(), "g")
		ends, err2 := e.admin.ListEndOffsets(t.Context(), "t")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		for p := range int32(3) {
			at, _ := offsets.Lookup("t", p)
			end, _ := ends.Lookup("t", p)
			if at.At != end.Offset {
				return false
			}
		}
		return true
	})
}

func TestGroup_start(t *testing.T) {
	e := newEnv(t, 1)
	for range 5 {
		e.put(0, "before")
	}
	mark := time.Now().Add(time.Hour)
	o := e.options()
	o.Start = consumer.Start{Latest: true}
	g, stop := e.start(o)
	e.eventually("running", func() bool { s := g.Status(); return len(s) == 1 && s[0].State == consumer.StateRunning })
	if n := e.value("select next_offset from outrelay_offsets"); n != "5" {
		t.Fatalf("latest: next_offset %s, want 5, also before the first record", n)
	}
	stop()
	for range 3 {
		e.put(0, "while it is down")
	}
	e.sent -= 5
	g, _ = e.start(o) // latest is of a new group only
	e.drained(g)

	o.Name, o.Start = "by time", consumer.Start{Time: mark}
	g2, _ := e.start(o)
	e.eventually("running", func() bool { s := g2.Status(); return len(s) == 1 && s[0].State == consumer.StateRunning })
	if n := e.value("select next_offset from outrelay_offsets where group_id = 'by time'"); n != "8" {
		t.Fatalf("a time after all records: next_offset %s, want 8", n)
	}
	o.Name, o.Start = "by early time", consumer.Start{Time: mark.Add(-2 * time.Hour)}
	e.start(o)
	e.sent += 8
	e.eventually("all eight again", func() bool { return e.effects() == e.sent })
}

func TestGroup_waitsForTopics(t *testing.T) {
	e := newEnv(t, 0)
	g, _ := e.start(e.options())
	e.eventually("joined", func() bool { return g.Ready() == nil })
	if _, err := e.admin.CreateTopic(t.Context(), 2, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	e.put(0, "a")
	e.put(1, "b")
	e.drained(g)
	if _, err := e.admin.CreatePartitions(t.Context(), 1, "t"); err != nil {
		t.Fatal(err)
	}
}

func TestGroup_recreatedTopicHalts(t *testing.T) {
	e := newEnv(t, 1)
	e.put(0, "a")
	e.put(0, "b")
	g, _ := e.start(e.options())
	e.drained(g)
	if _, err := e.admin.DeleteTopics(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.admin.CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	fresh := *e
	fresh.cl = e.client()
	for range 5 {
		fresh.put(0, "new")
	}
	e.eventually("halted", func() bool { s := g.Status(); return len(s) == 1 && s[0].State == consumer.StateHalted })
	if s := g.Status()[0]; !strings.Contains(s.LastError, "other-topic") || !strings.Contains(s.LastError, "outrelay groups reset g --topic t") {
		t.Fatal(s.LastError)
	}
	if err := g.Ready(); err == nil {
		t.Fatal("ready though halted")
	}
	if n := e.effects(); n != 2 {
		t.Fatalf("%d effects, want the 2 of the old topic", n)
	}
}

func TestGroup_deletedLogHalts(t *testing.T) {
	e := newEnv(t, 1, kfake.ClusterID("log-one"))
	e.put(0, "a")
	g, stop := e.start(e.options())
	e.drained(g)
	stop()
	e.startLog(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second), kfake.SeedTopics(1, "t"), kfake.ClusterID("log-two"))
	e.put(0, "b")
	g, stop = e.start(e.options())
	e.eventually("halted", func() bool { s := g.Status(); return len(s) == 1 && s[0].State == consumer.StateHalted })
	if s := g.Status()[0].LastError; !strings.Contains(s, "other-log") || !strings.Contains(s, "log-one") || !strings.Contains(s, "log-two") {
		t.Fatal(s)
	}
	stop()
	// The way out.
	store, err := postgres.Open(t.Context(), e.sinkOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rows, err := store.Offsets(t.Context(), "g")
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	if err := store.Reset(t.Context(), "g", rows[0].Partition, -1); err != nil {
		t.Fatal(err)
	}
	e.start(e.options())
	e.eventually("both logs' records", func() bool { return e.effects() == 2 })
}

func TestGroup_outsideOfTheLogHalts(t *testing.T) {
	e := newEnv(t, 1)
	for range 10 {
		e.put(0, "a")
	}
	g, stop := e.start(e.options())
	e.drained(g)
	stop()
	store, err := postgres.Open(t.Context(), e.sinkOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rows, _ := store.Offsets(t.Context(), "g")
	for _, tc := range []struct {
		name, want string
		prepare    func()
	}{
		{"a log that lost its end", "offset-beyond-log", func() { _ = store.Reset(t.Context(), "g", rows[0].Partition, 99) }},
		{"a sink from an old backup", "offsets [2, 6) are lost", func() {
			_ = store.Reset(t.Context(), "g", rows[0].Partition, 2)
			_, err := e.admin.DeleteRecords(t.Context(), kadm.Offsets{"t": {0: kadm.Offset{Topic: "t", At: 6}}})
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		tc.prepare()
		g, stop := e.start(e.options())
		e.eventually(tc.name, func() bool { s := g.Status(); return len(s) == 1 && s[0].State == consumer.StateHalted })
		if s := g.Status()[0].LastError; !strings.Contains(s, tc.want) {
			t.Fatalf("%s: %s", tc.name, s)
		}
		stop()
	}
	e.exactlyOnce()
}

// C18: a sink from a backup that the log still covers is caught up by itself: results and offset are of the same moment.
func TestGroup_restoredSinkCatchesUp(t *testing.T) {
	e := newEnv(t, 1)
	for range 5 {
		e.put(0, "a")
	}
	g, stop := e.start(e.options())
	e.drained(g)
	stop()
	e.pg.Exec(t, e.db, "create table kept as select * from effects; create table kept_offsets as select * from outrelay_offsets")
	for range 5 {
		e.put(0, "b")
	}
	g, stop = e.start(e.options())
	e.drained(g)
	stop()
	e.pg.Exec(t, e.db, "begin; delete from effects; insert into effects select * from kept; delete from outrelay_offsets; insert into outrelay_offsets select * from kept_offsets; commit")
	g, _ = e.start(e.options())
	e.drained(g)
}

func TestGroup_poisonBlocksItsPartitionAlone(t *testing.T) {
	e := newEnv(t, 2)
	for i := range 10 {
		body := "ok"
		if i == 4 {
			body = "poison"
		}
		e.put(0, body)
		e.put(1, "ok")
	}
	g, _ := e.start(e.options())
	e.eventually("all but what is behind the poison", func() bool { return e.effects() == 14 })
	e.eventually("blocked", func() bool {
		s := g.Status()
		return s[0].State == consumer.StateBlocked && s[1].State == consumer.StateRunning
	})
	if s := g.Status()[0]; s.BlockedAt != 4 || s.NextOffset != 4 || !strings.Contains(s.LastError, "effects_body_check") || s.LagRecords != 6 || s.LagSeconds <= 0 {
		t.Fatalf("%+v", s)
	}
	e.pg.Exec(t, e.db, "alter table effects drop constraint effects_body_check") // somebody mends it
	e.drained(g)
}

// A partition whose sink is away is paused, its member stays in the group, and it goes on by itself.
func TestGroup_sinkAway(t *testing.T) {
	e := newEnv(t, 1)
	proxy := testenv.StartProxy(t, e.pg.Addr())
	e.dsn = testenv.DSN(proxy.Addr(), e.db, "postgres", "")
	g, _ := e.start(e.options())
	e.put(0, "a")
	e.drained(g)
	proxy.Refuse(true)
	proxy.Cut()
	for range 5 {
		e.put(0, "b")
	}
	e.eventually("paused, with a lag", func() bool { s := g.Status(); return s[0].State == consumer.StatePaused && s[0].LagRecords == 5 })
	described, err := e.admin.DescribeGroups(t.Context(), "g")
	if err != nil || described["g"].State != "Stable" {
		t.Fatal(described, err)
	}
	proxy.Refuse(false)
	e.drained(g)
}

// C13 while a group runs: connections cut around COMMIT, in both orders, over and over.
func TestGroup_ambiguousCommits(t *testing.T) {
	e := newEnv(t, 2)
	proxy := testenv.StartProxy(t, e.pg.Addr())
	e.dsn = testenv.DSN(proxy.Addr(), e.db, "postgres", "")
	g, _ := e.start(e.options())
	e.put(0, "a")
	e.drained(g)
	bind := []byte("\x00outrelay_commit\x00") // as the COMMIT of a batch names it, not as it is prepared
	rules := []testenv.Rule{
		{Dir: testenv.ToServer, Pattern: bind, Action: testenv.CutBefore},
		{Dir: testenv.ToServer, Pattern: bind, Action: testenv.CutAfter},
		{Dir: testenv.ToClient, Pattern: []byte("COMMIT\x00"), Action: testenv.CutBefore},
	}
	for i := range 60 {
		proxy.CutOn(rules[i%3])
		e.put(int32(i%2), "b")
		<-proxy.Hits()
	}
	proxy.Clear()
	e.drained(g)
}

// Two groups whose handlers take the same rows in opposite orders deadlock; both get through.
func TestGroup_deadlocks(t *testing.T) {
	e := newEnv(t, 4)
	e.pg.Exec(t, e.db, "create table totals (k int primary key, n bigint not null); insert into totals select k, 0 from generate_series(0, 9) k",
		fmt.Sprintf("alter database %s set deadlock_timeout = '10ms'", pgx.Identifier{e.db}.Sanitize()))
	tx := e.txnClient()
	for range 5 {
		e.produce(tx, 4, 80, true)
	}
	var gs []*consumer.Group
	for i, name := range []string{"up", "down"} {
		o := e.options()
		o.Name = name
		k := []string{"(:offset::bigint * 7 + :partition::int) % 10", "9 - (:offset::bigint * 3 + :partition::int) % 10"}[i]
		o.Sink = func(ctx context.Context) (sinks.OffsetStore, error) {
			so := e.sinkOptions()
			so.Handlers = map[string][]postgres.Statement{"*": {{SQL: "update totals set n = n + 1 where k = " + k}}}
			return postgres.Open(ctx, so)
		}
		g, _ := e.start(o)
		gs = append(gs, g)
	}
	want := strconv.Itoa(2 * e.sent)
	e.eventually("both groups are through", func() bool { return e.value("select sum(n) from totals") == want })
	for _, g := range gs {
		e.eventually("lag 0", func() bool {
			for _, p := range g.Status() {
				if p.LagRecords != 0 {
					return false
				}
			}
			return true
		})
	}
	if n := e.value("select sum(n) from totals"); n != want {
		t.Fatalf("%s updates, want %s", n, want)
	}
}

func TestGroup_boundedMemory(t *testing.T) {
	e := newEnv(t, 1)
	tx := e.txnClient()
	for range 20 {
		e.produce(tx, 1, 500, true)
	}
	o := e.options()
	o.BufferBytes, o.BatchBytes = 16<<10, 8<<10
	g, _ := e.start(o)
	e.drained(g)
}

// gate is a store that waits before it applies.
type gate struct {
	sinks.OffsetStore
	waiting, open chan struct{}
	once          sync.Once
	over          <-chan struct{} // the test's end, so that a failure is not a hang
	results       chan error
}

func (s *gate) Apply(ctx context.Context, b sinks.Batch) error {
	hold := false
	if len(b.Records) > 0 {
		s.once.Do(func() { hold = true })
	}
	if !hold {
		return s.OffsetStore.Apply(ctx, b)
	}
	close(s.waiting)
	select {
	case <-s.open:
	case <-s.over:
	}
	err := s.OffsetStore.Apply(context.WithoutCancel(ctx), b) // a stopped process does not know that time has passed
	s.results <- err
	return err
}

// C15: an owner that was stopped while it held a batch wakes up after another one has taken over: nothing of its batch takes effect, and it
// does not take the partition back.
func TestGroup_zombie(t *testing.T) {
	e := newEnv(t, 1)
	for range 10 {
		e.put(0, "a")
	}
	held := &gate{waiting: make(chan struct{}), open: make(chan struct{}), results: make(chan error, 1), over: t.Context().Done()}
	a := e.options()
	a.StopTimeout = time.Minute
	a.Sink = func(ctx context.Context) (sinks.OffsetStore, error) {
		s, err := postgres.Open(ctx, e.sinkOptions())
		if err != nil {
			return nil, err
		}
		held.OffsetStore = s
		return held, nil
	}
	e.start(a)
	<-held.waiting
	// B does what a new owner does once the group has given it the partition.
	store, err := postgres.Open(t.Context(), e.sinkOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Claim(t.Context(), "g", partitionOf(e, 0)); err != nil {
		t.Fatal(err)
	}
	close(held.open)
	if err := <-held.results; !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("the zombie's batch: %v, want ErrFenced", err)
	}
	// A is still a member (nobody took the partition in Kafka's eyes), so it claims again and does the work.
	e.eventually("applied", func() bool { return e.effects() == 10 })
	e.exactlyOnce()
}

func partitionOf(e *env, n int32) sinks.Partition {
	m, err := e.admin.Metadata(e.t.Context(), "t")
	if err != nil {
		e.t.Fatal(err)
	}
	return sinks.Partition{LogID: m.Cluster, TopicID: m.Topics["t"].ID, Topic: "t", Partition: n}
}

// Members come and go while records arrive: whatever they do, each record takes effect once and in order.
func TestGroup_membersComeAndGo(t *testing.T) {
	e := newEnv(t, 4)
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
	produced, enough := make(chan struct{}), make(chan struct{})
	tx := e.txnClient()
	go func() {
		defer close(produced)
		for i := 0; ; i++ {
			select {
			case <-enough:
				return
			default:
				e.produce(tx, 4, 1+i%9, i%7 != 0)
			}
		}
	}()
	type member struct {
		g    *consumer.Group
		stop func()
	}
	var members []member
	add := func() {
		g, stop := e.start(e.options())
		members = append(members, member{g, stop})
	}
	add()
	for range 10 {
		if len(members) < 3 && (len(members) == 0 || rnd.IntN(2) == 0) {
			add()
		} else {
			i := rnd.IntN(len(members))
			members[i].stop()
			members = append(members[:i], members[i+1:]...)
		}
		before := e.effects()
		e.eventually("progress", func() bool { return len(members) == 0 || e.effects() > before+20 })
	}
	close(enough)
	<-produced
	if len(members) == 0 {
		add()
	}
	var gs []*consumer.Group
	for _, m := range members {
		gs = append(gs, m.g)
	}
	e.drained(gs...)
}

// A static member that comes back at once is in its seat at once, without waiting for the session to end.
func TestGroup_staticMemberComesBack(t *testing.T) {
	e := newEnv(t, 2)
	o := e.options()
	o.InstanceID, o.SessionTimeout = "node-1", 30*time.Second
	g, stop := e.start(o)
	e.put(0, "a")
	e.drained(g)
	stop() // leaves no word: a static member keeps its seat
	e.put(1, "b")
	from := time.Now()
	g, _ = e.start(o)
	e.drained(g)
	if d := time.Since(from); d > 5*time.Second {
		t.Fatalf("back after %v", d)
	}
}

func TestNew_refuses(t *testing.T) {
	t.Parallel()
	ok := func(context.Context) (sinks.OffsetStore, error) { return nil, errors.New("unused") }
	for name, o := range map[string]consumer.Options{
		"no name":    {Topics: []string{"t"}, Sink: ok},
		"no topics":  {Name: "g", Sink: ok},
		"no sink":    {Name: "g", Topics: []string{"t"}},
		"two starts": {Name: "g", Topics: []string{"t"}, Sink: ok, Start: consumer.Start{Latest: true, Time: time.Now()}},
	} {
		if _, err := consumer.New(o); !errors.Is(err, outrelay.ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
}

func TestRun_endsWithWhatWaitingDoesNotMend(t *testing.T) {
	t.Parallel()
	n := 0
	g, err := consumer.New(consumer.Options{Name: "g", Topics: []string{"t"}, Sink: func(context.Context) (sinks.OffsetStore, error) {
		if n++; n < 3 {
			return nil, outrelay.ErrTransient
		}
		return nil, outrelay.ErrConfig
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); !errors.Is(err, outrelay.ErrConfig) || n != 3 {
		t.Fatalf("%v after %d attempts", err, n)
	}
}

// freezer is a network that can stand still, as it does for a process that is stopped.
type freezer struct {
	mu     sync.Mutex
	frozen chan struct{} // closed when it moves again; nil while it moves
}

func (f *freezer) freeze() { f.mu.Lock(); f.frozen = make(chan struct{}); f.mu.Unlock() }
func (f *freezer) thaw()   { f.mu.Lock(); close(f.frozen); f.frozen = nil; f.mu.Unlock() }

func (f *freezer) wait() {
	f.mu.Lock()
	c := f.frozen
	f.mu.Unlock()
	if c != nil {
		<-c
	}
}

func (f *freezer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	f.wait()
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return frozenConn{c, f}, nil
}

type frozenConn struct {
	net.Conn
	f *freezer
}

func (c frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.f.wait()
	return n, err
}

func (c frozenConn) Write(b []byte) (int, error) { c.f.wait(); return c.Conn.Write(b) }

// counting counts claims.
type counting struct {
	sinks.OffsetStore
	claims *atomic.Int64
}

func (s counting) Claim(ctx context.Context, group string, p sinks.Partition) (sinks.Claim, error) {
	s.claims.Add(1)
	return s.OffsetStore.Claim(ctx, group, p)
}

// C15 with Kafka's group in the play: a member stands still for longer than its session, another takes over, the first moves again.
// Its batch is refused, and it never claims a partition that is no longer its own.
func TestGroup_stoppedMember(t *testing.T) {
	e := newEnv(t, 1)
	for range 10 {
		e.put(0, "a")
	}
	var claims atomic.Int64
	network := &freezer{}
	held := &gate{waiting: make(chan struct{}), open: make(chan struct{}), results: make(chan error, 1), over: t.Context().Done()}
	a := e.options()
	a.SessionTimeout = time.Second
	a.Client = append(a.Client, kgo.Dialer(network.dial))
	a.Sink = func(ctx context.Context) (sinks.OffsetStore, error) {
		s, err := postgres.Open(ctx, e.sinkOptions())
		held.OffsetStore = s
		return counting{held, &claims}, err
	}
	ga, _ := e.start(a)
	<-held.waiting
	network.freeze()
	e.eventually("its session is over", func() bool {
		d, err := e.admin.DescribeGroups(t.Context(), "g")
		return err == nil && len(d["g"].Members) == 0
	})
	gb, _ := e.start(e.options())
	e.eventually("the other member has done the work", func() bool { return e.effects() == 10 })
	close(held.open)
	if err := <-held.results; !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("the stopped member's batch: %v, want ErrFenced", err)
	}
	if n := claims.Load(); n != 1 {
		t.Fatalf("%d claims while it was no member, want the first alone", n)
	}
	network.thaw()
	for range 5 {
		e.put(0, "b")
	}
	e.drained(ga, gb)
}

// The names of headers stand in two packages, since sinks know nothing of Kafka clients.
func TestHeaderNames(t *testing.T) {
	t.Parallel()
	for _, n := range [][2]string{{sinks.HeaderID, kafka.HeaderID}, {sinks.HeaderType, kafka.HeaderType}, {sinks.HeaderCommittedAt, kafka.HeaderCommittedAt}} {
		if n[0] != n[1] {
			t.Errorf("%q and %q", n[0], n[1])
		}
	}
}
