package system_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/testenv"
)

const rate = 200 // source transactions a second

// killAt crashes outrelay at a failpoint again and again while the shop goes on, and counts.
func killAt(t *testing.T, point string, times, hitMax int) {
	t.Helper()
	if soak() {
		times *= 10
	}
	w := newWorld(t, worldOptions{failpoints: true})
	w.start() // what commits before the slot exists is nobody's promise
	if err := w.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	w.killAt(point, times, hitMax)
	w.start()
	if r := w.verify(); r.Restarts != times {
		t.Errorf("%d restarts, want %d", r.Restarts, times)
	}
}

// killAt lets outrelay, which does not run, start and die at a failpoint so many times under load.
func (w *world) killAt(point string, times, hitMax int) {
	t := w.t
	t.Helper()
	rnd := seed(t)
	l := w.load(rate)
	for range times {
		if err := w.Process.Launch(fmt.Sprintf("OUTRELAY_FAILPOINTS=%s=kill@%d", point, 1+rnd.IntN(hitMax))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := w.Process.Died(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("at %s outrelay should have been killed: %v", point, err)
		}
	}
	w.stopLoad(l)
}

// C1: the database has committed, the relay has not read yet.
func TestCrash_C1(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	l := w.load(rate)
	w.appliedMore(100, 20*time.Second)
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	behind := l.Committed()
	await(t, "the shop commits without outrelay", 20*time.Second, func() bool { return l.Committed() > behind+400 })
	w.stopLoad(l)
	w.start()
	w.verify()
}

// C2: read, not yet published.
func TestCrash_C2(t *testing.T) { killAt(t, "C2", 6, 60) }

// C3: published and committed in the log, not yet confirmed to the source.
func TestCrash_C3(t *testing.T) { killAt(t, "C3", 10, 40) }

// Between the produce and the commit of the relay's transaction: it is aborted, nobody sees it, the rows come again.
func TestCrash_relayBeforeCommit(t *testing.T) { killAt(t, "relay.beforeCommit", 5, 40) }

// C12: the consumer dies before COMMIT.
func TestCrash_C12(t *testing.T) { killAt(t, "C12", 6, 60) }

// C14: committed in the sink, Kafka's own group offset not.
func TestCrash_C14(t *testing.T) { killAt(t, "C14", 6, 60) }

// The broker dies after a batch was applied, and around its checkpoint.
func TestCrash_brokerAfterApply(t *testing.T) {
	ownLog(t, "its broker dies")
	killAt(t, "replica.afterApply", 5, 400)
}

func TestCrash_brokerBeforeCheckpointRename(t *testing.T) {
	ownLog(t, "its broker dies")
	killAt(t, "replica.beforeCheckpointRename", 1, 2)
}

func TestCrash_brokerAfterCheckpoint(t *testing.T) {
	ownLog(t, "its broker dies")
	killAt(t, "replica.afterCheckpoint", 1, 2)
}

// C4: PostgreSQL crashes right after positions were confirmed: its slot goes back, and what it sends again is dropped.
func TestCrash_C4(t *testing.T) {
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Config: map[string]string{"track_commit_timestamp": "on", "checkpoint_timeout": "1h"}})
	w := newWorld(t, worldOptions{pg: pg})
	w.start()
	for range 3 {
		l := w.load(rate)
		w.appliedMore(200, 30*time.Second)
		w.stopLoad(l)
		if err := pg.Kill9(); err != nil {
			t.Fatal(err)
		}
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
	}
	l := w.load(rate)
	w.appliedMore(200, 60*time.Second)
	w.stopLoad(l)
	w.verify()
}

// sidecar splits the world: the log in one process, relay and consumers in another (and more), which reach it through a proxy.
type sidecar struct {
	*world
	proxy *testenv.Proxy
}

func newSidecar(t *testing.T) *sidecar {
	t.Helper()
	w := newWorld(t, worldOptions{noLog: true})
	if external() {
		return newSidecarOfKafka(t, w)
	}
	dir := t.TempDir()
	log, err := demo.NewProcess(binary(t, false), dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecar{world: w, proxy: testenv.StartProxy(t, log.Kafka)}
	writeConfig(t, dir, "broker: {advertise: '"+s.proxy.Addr()+"'}\n")
	log.Args = []string{"--log-only"}
	t.Cleanup(log.Close)
	if _, err := log.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.edit(w.Config + "log: {kafka: ['" + s.proxy.Addr() + "']}\nroles: [relay, consumers, admin]\n")
	s.Process.Kafka = log.Kafka // where the audit reads: not through the proxy
	return s
}

// newSidecarOfKafka gives the world a Kafka whose clients are told the proxy's address.
func newSidecarOfKafka(t *testing.T, w *world) *sidecar {
	t.Helper()
	port := testenv.FreePort(t)
	s := &sidecar{world: w, proxy: testenv.StartProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))}
	s.kf = testenv.StartKafka(t, testenv.KafkaOptions{Listeners: []testenv.KafkaListener{{Name: "PROXIED", Protocol: "PLAINTEXT", Port: port, Advertised: s.proxy.Addr()}}})
	w.edit(w.Config + "log: {kafka: ['" + s.proxy.Addr() + "']}\n")
	s.Process.Kafka, s.Process.External = s.kf.Addr(), true
	return s
}

// second returns another process with the same file and an identity of its own.
func (s *sidecar) second() *demo.Process {
	s.t.Helper()
	dir := s.t.TempDir()
	writeConfig(s.t, dir, s.Config)
	p, err := demo.NewProcess(s.Process.Binary, dir, s.Env()...)
	if err != nil {
		s.t.Fatal(err)
	}
	p.External = s.Process.External
	s.t.Cleanup(func() {
		p.Close()
		if s.t.Failed() {
			s.t.Logf("the end of the second process's log:\n%s", p.Tail())
		}
	})
	return p
}

// C7: the answer to a produce or a commit is lost with its connection, again and again.
func TestCrash_C7(t *testing.T) {
	s := newSidecar(t)
	s.start()
	l := s.load(rate)
	rnd := seed(t)
	times := 25
	if soak() {
		times = 250
	}
	for range times {
		n := int64(200 + rnd.IntN(6000))
		from := s.proxy.Passed(testenv.ToClient)
		s.proxy.CutAfterBytes(testenv.ToClient, n)
		await(t, "the proxy cuts, and outrelay comes back", 60*time.Second, func() bool { return s.proxy.Passed(testenv.ToClient) > from+n+4000 })
	}
	s.stopLoad(l)
	s.verify()
}

// C10: a relay is stopped, another takes over, the first wakes up: fenced, it publishes and confirms nothing.
func TestCrash_C10(t *testing.T) {
	s := newSidecar(t)
	s.start()
	l := s.load(rate)
	s.appliedMore(200, 30*time.Second)
	b := s.second()
	if err := b.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := s.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The second takes over once the first's session has ended (10 s), and ends the connection by which the first, which cannot, still holds the
	// slot: the server itself would do that after wal_sender_timeout, a minute.
	began := time.Now()
	s.appliedMore(500, 40*time.Second)
	t.Logf("taken over within %s", time.Since(began).Round(time.Second))
	if err := s.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.appliedMore(500, 60*time.Second)
	s.stopLoad(l)
	s.verify()
}

// commitSent is a part of the message that runs COMMIT: an empty portal, then the name of the prepared statement. Its preparation has a length
// before the name instead.
const commitSent = "\x00outrelay_commit\x00"

// mysqlCommitSent is the end of the text of a transaction in MySQL.
const mysqlCommitSent = "\n;commit"

// throughProxy lets outrelay reach the warehouse by a proxy, which it puts into p.
func throughProxy(t *testing.T, p **testenv.Proxy) func(dsn string) string {
	return func(dsn string) string {
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		*p = testenv.StartProxy(t, u.Host)
		u.Host = (*p).Addr()
		return u.String()
	}
}

// C13: the connection to the sink breaks around COMMIT: before it arrives, or after, so that its answer is lost. Nobody may guess.
func TestCrash_C13(t *testing.T) {
	var proxy *testenv.Proxy
	w := newWorld(t, worldOptions{proxy: throughProxy(t, &proxy)})
	sent := commitSent
	if mysqlSink() {
		sent = mysqlCommitSent
	}
	w.start()
	l := w.load(rate)
	times := 60
	if soak() {
		times = 200
	}
	rnd := seed(t)
	cuts := map[testenv.Action]int{}
	for i := range times {
		action := testenv.CutBefore
		if i%2 == 1 {
			action = testenv.CutAfter
		}
		proxy.CutOn(testenv.Rule{Dir: testenv.ToServer, Pattern: []byte(sent), Action: action, Nth: 1 + rnd.IntN(8)})
		select {
		case <-proxy.Hits():
			cuts[action]++
		case <-time.After(30 * time.Second):
			t.Fatalf("no COMMIT came by for cut %d", i)
		}
	}
	w.stopLoad(l)
	r := w.verify()
	t.Logf("%d cuts before COMMIT, %d after it, %d events", cuts[testenv.CutBefore], cuts[testenv.CutAfter], r.Committed)
}

// C15: a consumer is stopped with a transaction open, another takes over, the first wakes up and tries to commit what is no longer its own.
func TestCrash_C15(t *testing.T) {
	s := newSidecar(t)
	s.Process.Binary = binary(t, true)
	b := s.second()
	s.start("OUTRELAY_FAILPOINTS=C15=stop@40")
	l := s.load(rate)
	await(t, "the first process stops itself inside a transaction", 30*time.Second, func() bool { return stopped(t, s.Process) })
	if err := b.Launch(); err != nil {
		t.Fatal(err)
	}
	s.appliedMore(500, 90*time.Second)
	if err := s.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.appliedMore(500, 60*time.Second)
	s.stopLoad(l)
	s.verify()
}

// C16: a handler takes longer than the group's session: heartbeats go on beside it.
func TestCrash_C16(t *testing.T) {
	slow := "        - select pg_sleep(case when :payload.amount::text::numeric >= 1000 then 15 else 0 end)\n"
	if mysqlSink() {
		slow = strings.NewReplacer("pg_sleep", "sleep", "::text::numeric", "").Replace(slow)
	}
	w := newWorld(t, worldOptions{edit: func(c string) string { return c + slow }})
	w.start()
	l := w.load(50)
	w.appliedMore(50, 20*time.Second)
	w.pg.Exec(t, w.db, "select place_order('c1', 5000, true)")
	w.appliedMore(200, 60*time.Second)
	w.stopLoad(l)
	w.verify()
}

func writeConfig(t *testing.T, dir, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "outrelay.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// stopped reports whether a process is stopped by a signal (state T in /proc).
func stopped(t *testing.T, p *demo.Process) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && strings.HasPrefix(rest, "T")
}
