// Package system_test runs the real binary between real databases, crashes what can crash, and counts from outside: each committed event once in the
// log, once in the sink, in the order of its key (E1–E5).
package system_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/testenv"
)

// shared is the server of the tests that do not crash it. Slots are names of the whole server, so each world has its own.
var shared = &testenv.Shared{Options: testenv.PostgresOptions{Config: map[string]string{"track_commit_timestamp": "on", "max_connections": "200",
	"max_replication_slots": "64", "max_wal_senders": "64"}}}

// soak reports whether the long forms are asked for.
func soak() bool { return os.Getenv("OUTRELAY_SOAK") != "" }

// seed is printed by a test that draws numbers, and repeats it when set in the environment.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("OUTRELAY_SEED"), 10, 64); err == nil {
		s = v
	}
	t.Logf("to repeat: OUTRELAY_SEED=%d go test -run '^%s$' ./test/system", s, t.Name())
	return rand.New(rand.NewPCG(s, 1))
}

var (
	builds sync.Mutex
	built  = map[string]string{}
)

// external reports whether the log of every world is an Apache Kafka: the same binary, another YAML (make compat-kafka).
func external() bool { return os.Getenv("OUTRELAY_TEST_LOG") == "kafka" }

// sharedMySQL is the warehouse's server of the worlds that do not crash it, where OUTRELAY_TEST_SINK says mariadb or mysql (make crash-sinks).
var sharedMySQL = &testenv.SharedMySQL{Options: testenv.MySQLOptions{Flavor: testenv.MySQLFlavor(os.Getenv("OUTRELAY_TEST_SINK"))}}

// mysqlSink reports whether every world's sink is a MariaDB or MySQL.
func mysqlSink() bool { return os.Getenv("OUTRELAY_TEST_SINK") != "" }

// ownLog skips a test of what only outrelay's own log has.
func ownLog(t *testing.T, what string) {
	t.Helper()
	if external() {
		t.Skip("outrelay's own log alone: " + what)
	}
}

// binary returns outrelay's path: what make built, or one built now.
func binary(t *testing.T, failpoints bool) string {
	t.Helper()
	env, tags := "OUTRELAY_BIN", ""
	if failpoints {
		env, tags = "OUTRELAY_BIN_FAILPOINTS", "failpoints"
	}
	if b := os.Getenv(env); b != "" {
		return b
	}
	builds.Lock()
	defer builds.Unlock()
	if b := built[env]; b != "" {
		return b
	}
	b := filepath.Join(os.TempDir(), fmt.Sprintf("outrelay-test-%d-%s", os.Getpid(), tags))
	if out, err := exec.Command("go", "build", "-tags", tags, "-o", b, "github.com/outrelay/outrelay/cmd/outrelay").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	built[env] = b
	return b
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, b := range built {
		_ = os.Remove(b) // a temporary file
	}
	os.Exit(code)
}

type world struct {
	*demo.World
	t  *testing.T
	pg *testenv.Postgres
	db string         // of the shop
	kf *testenv.Kafka // the log, where it is not outrelay's own
}

type worldOptions struct {
	pg         *testenv.Postgres // nil: the shared one
	failpoints bool
	kafka      bool // the log is an Apache Kafka, whatever OUTRELAY_TEST_LOG says
	noLog      bool // somebody else gives the world its log
	edit       func(config string) string
	source     string // mariadb or mysql: the shop is database shopDB there, at the connection string shop
	shop       string
	shopDB     string
	my         *testenv.MySQL          // the warehouse's server; nil: PostgreSQL, or what OUTRELAY_TEST_SINK names
	proxy      func(dsn string) string // replaces the warehouse's connection string as outrelay sees it
}

// newWorld returns a shop, a warehouse and an outrelay that does not run yet.
func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	pg := o.pg
	if pg == nil {
		pg = shared.Get(t)
	}
	db := pg.NewDatabase(t)
	shop := pg.DSN(db)
	name := "w_" + db
	config := strings.Replace(demo.ConfigText, "    outbox:", "    slot: "+name+"\n    publication: "+name+"\n    outbox:", 1)
	if o.source != "" {
		shop, config = o.shop, demo.From(demo.ConfigText, o.source, o.shopDB)
	}
	warehouse := ""
	if my := o.my; my != nil || mysqlSink() {
		if my == nil {
			my = sharedMySQL.Get(t)
		}
		warehouse, config = my.DSN(my.NewDatabase(t)), demo.Into(config, string(my.Flavor()))
	} else {
		warehouse = pg.DSN(pg.NewDatabase(t))
	}
	if o.edit != nil {
		config = o.edit(config)
	}
	var kf *testenv.Kafka
	if !o.noLog && (o.kafka || external()) {
		kf = testenv.StartKafka(t, testenv.KafkaOptions{})
		config += "log: {kafka: ['" + kf.Addr() + "']}\n"
	}
	w := &world{t: t, pg: pg, db: db, kf: kf, World: &demo.World{Dir: t.TempDir(), Shop: shop, Warehouse: warehouse, Config: config, Say: t.Logf}}
	if err := w.SetUp(t.Context(), binary(t, o.failpoints)); err != nil {
		t.Fatal(err)
	}
	if kf != nil {
		w.Process.Kafka, w.Process.External = kf.Addr(), true
	}
	if o.proxy != nil {
		w.Process.Env = []string{"SHOP_DSN=" + shop, "WAREHOUSE_DSN=" + o.proxy(warehouse)}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of outrelay's log:\n%s", w.Process.Tail())
			t.Logf("its goroutines:\n%s", w.Process.Stacks())
			if w.kf != nil {
				t.Logf("the log's transactions:\n%s", transactions(t, w.kf.Addr()))
			}
		}
		w.Process.Close()
	})
	return w
}

func (w *world) start(env ...string) {
	w.t.Helper()
	if _, err := w.Process.Start(w.t.Context(), env...); err != nil {
		w.t.Fatal(err)
	}
}

// edit replaces the configuration; it holds from the next start on.
func (w *world) edit(config string) {
	w.t.Helper()
	w.Config = config
	if err := os.WriteFile(filepath.Join(w.Dir, "outrelay.yaml"), []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) load(rate int) *demo.Load {
	w.t.Helper()
	l, err := demo.StartLoad(w.t.Context(), w.Shop, rate)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) stopLoad(l *demo.Load) {
	w.t.Helper()
	if err := l.Stop(); err != nil {
		w.t.Fatalf("load: %v", err)
	}
}

// await waits until ok, asking often.
func await(t *testing.T, what string, max time.Duration, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), max)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %s", what, max)
		case <-tick.C:
		}
	}
}

// applied waits until the warehouse holds n events more than it does now.
func (w *world) appliedMore(n int64, max time.Duration) {
	w.t.Helper()
	_, before, err := w.Counts(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	await(w.t, fmt.Sprintf("%d more events applied", n), max, func() bool {
		_, now, err := w.Counts(w.t.Context())
		return err == nil && now >= before+n
	})
}

// verify drains, counts from outside, and fails unless everything is zero and something was done.
func (w *world) verify() demo.Result {
	w.t.Helper()
	r := w.count()
	if !r.Clean() {
		w.t.Fatalf("not clean: %+v", r)
	}
	w.t.Logf("committed %d, in log %d, applied %d, restarts %d: clean", r.Committed, r.InLog, r.Applied, r.Restarts)
	return r
}

func (w *world) count() demo.Result {
	w.t.Helper()
	if err := w.Drain(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	r, err := w.Count(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}
