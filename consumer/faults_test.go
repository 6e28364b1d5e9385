package consumer_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/postgres"
)

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
	// The way out, while the group runs: its client must forget the old topic.
	store, err := postgres.Open(t.Context(), e.sinkOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rows, err := store.Offsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := store.Reset(t.Context(), "g", r.Partition, -1); err != nil {
			t.Fatal(err)
		}
	}
	e.eventually("the new topic is applied", func() bool { return e.effects() == 2+5 })
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
			so.Handlers = map[string][]handler.Statement{"*": {{SQL: "update totals set n = n + 1 where k = " + k}}}
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

// freezer is a network that can stand still, as it does for a process that is stopped.
type freezer struct {
	mu     sync.Mutex
	frozen chan struct{} // closed when it moves again; nil while it moves
}

func (f *freezer) freeze() { f.mu.Lock(); f.frozen = make(chan struct{}); f.mu.Unlock() }

func (f *freezer) thaw() { f.mu.Lock(); close(f.frozen); f.frozen = nil; f.mu.Unlock() }

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
