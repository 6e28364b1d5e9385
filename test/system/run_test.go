package system_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/testenv"
)

// SIGTERM under load: what was begun is finished, within 10 s and with exit code 0; nothing is lost or doubled by it.
func TestRun_drainsOnSIGTERM(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	l := w.load(rate)
	for range 3 {
		w.appliedMore(50, 20*time.Second)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("SIGTERM took %s", took)
		}
		w.start()
	}
	w.stopLoad(l)
	w.verify()
}

// A second SIGTERM does not wait for what was begun.
func TestRun_secondSIGTERMStopsAtOnce(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(20)
	release := w.lockSink()
	w.place(20)
	await(t, "a batch waits for the lock", 20*time.Second, func() bool {
		return w.pg.Value(t, w.db, "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'outrelay%'") != "0"
	})
	for _, says := range []string{"a second signal stops at once", "stopped at once"} {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		w.awaitLogged(says)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Process.Died(ctx); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("want exit code 1: %v", err)
	}
	release()
	w.start()
	w.served(20)
	w.verify()
}

// lockSink keeps handlers waiting until release is called.
func (w *world) lockSink() (release func()) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.Warehouse)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := conn.Exec(w.t.Context(), "begin; lock table order_totals in access exclusive mode"); err != nil {
		w.t.Fatal(err)
	}
	return func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) } // its transaction ends with it
}

// The sink is away at the start: the process comes up, says so, and applies once the sink is back.
func TestRun_sinkAwayAtStart(t *testing.T) {
	var proxy *testenv.Proxy
	w := newWorld(t, worldOptions{proxy: throughProxy(t, &proxy)})
	proxy.Refuse(true)
	w.launch()
	w.awaitReadyz(503, "relay: ok", "consumers: group order-totals")
	w.place(100)
	await(t, "the relay does not wait for the sink", 20*time.Second, func() bool {
		s := w.status()
		return len(s.Sources) == 1 && s.Sources[0].Events == 100
	})
	proxy.Refuse(false)
	w.awaitReadyz(200)
	w.drained()
	proxy.Cut()
	proxy.Refuse(true)
	w.place(100)
	await(t, "status says that the group is paused", 20*time.Second, func() bool {
		return strings.Contains(w.cli("status", "--http", w.Process.HTTP), "paused")
	})
	proxy.Refuse(false)
	w.served(10)
	w.verify()
}

// The source's server restarts in order, in the middle of a load.
func TestRun_sourceRestarts(t *testing.T) {
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Config: map[string]string{"track_commit_timestamp": "on"}})
	w := newWorld(t, worldOptions{pg: pg})
	w.start()
	for range 2 {
		l := w.load(rate)
		w.appliedMore(100, 30*time.Second)
		if err := pg.Restart(); err != nil {
			t.Fatal(err)
		}
		_ = l.Stop() // its connections were ended; what it committed stands in the ledger
	}
	w.served(50)
	w.verify()
}

// What is in the way at the start is said by name, with exit code 3.
func TestRun_whatIsInTheWay(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	data := w.Dir + "/data"
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"the data directory", []string{"--data", data, "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"},
			[]string{"another outrelay uses this data directory", fmt.Sprint(w.Process.Pid()), "[data-dir-locked]", "--data"}},
		{"the Kafka port", []string{"--data", t.TempDir(), "--kafka-listen", w.Process.Kafka, "--http-listen", "127.0.0.1:0"},
			[]string{"address already in use", "[port-in-use]", "--kafka-listen"}},
		{"the HTTP port", []string{"--data", t.TempDir(), "--kafka-listen", "127.0.0.1:0", "--http-listen", w.Process.HTTP},
			[]string{"address already in use", "[http-listen]", "--http-listen"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := w.runCLI("", append([]string{"run", "--log-only", "-c", w.Dir + "/outrelay.yaml"}, c.args...)...)
			if o.code != 3 || !containsAll(o.stderr, c.want) {
				t.Errorf("exit code %d, want 3 and %q:\n%s", o.code, c.want, o.stderr)
			}
		})
	}
	w.served(20) // the one that was there first has not noticed
	w.verify()
}

// A record that the handler cannot apply blocks its partition and nothing else, is shown, and goes on by itself once the data is mended.
func TestRun_poisonRecordBlocksItsPartition(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	execute(t, w.Warehouse, "alter table order_totals add constraint no_c7 check (customer <> 'c7') not valid")
	w.place(200)
	var at struct {
		partition int32
		offset    int64
	}
	await(t, "one partition is blocked, the others are drained", 40*time.Second, func() bool {
		blocked, behind := 0, 0
		for _, p := range w.status().Groups[0].Partitions {
			switch {
			case p.State == "blocked":
				blocked++
				at.partition, at.offset = p.Partition, p.BlockedAt
				if !strings.Contains(p.LastError, "no_c7") || p.NextOffset != p.BlockedAt {
					t.Fatalf("%+v", p)
				}
			case p.LagRecords != 0:
				behind++
			}
		}
		return blocked == 1 && behind == 0
	})
	for _, r := range w.records(orders) {
		if r.Partition == at.partition && r.Offset == at.offset && string(r.Key) != "c7" {
			t.Errorf("blocked at the record of %s", r.Key)
		}
	}
	if n := rows(t, w.Warehouse, "select id from applied where key = 'c7'"); len(n) != 1 {
		t.Errorf("%d events of the failing key are applied, want the one from before", len(n))
	}
	if text := w.cli("status", "--http", w.Process.HTTP); !containsAll(text, []string{"blocked", "no_c7"}) {
		t.Errorf("status does not show it:\n%s", text)
	}
	if _, body := get(t, w.Process, "/metrics"); !strings.Contains(body, `state="blocked"`) {
		t.Error("no metric shows it")
	}
	w.awaitLogged("partition blocked by a record that fails by itself")
	execute(t, w.Warehouse, "alter table order_totals drop constraint no_c7")
	w.drained()
	w.verify()
}

// A large transaction goes the whole way in bounded memory.
func TestRun_largeTransaction(t *testing.T) {
	n, highest := 100_000, int64(250<<20)
	if soak() {
		n = 300_000
	}
	w := newWorld(t, worldOptions{})
	w.start()
	w.pg.Exec(t, w.db, fmt.Sprintf(`with e as (
		insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'order', 'big' || i %% 1000, 'OrderPlaced', jsonb_build_object('customer', 'big' || i %% 1000, 'amount', 1 + i / 100.0, 'order', i, 'padding', repeat('x', 200))
		from generate_series(1, %d) i returning id, aggregateid, payload)
		insert into ledger (id, key, seq, amount) select id, aggregateid, (payload->>'order')::bigint, (payload->>'amount')::numeric from e`, n))
	await(t, "it is applied", 3*time.Minute, func() bool {
		committed, applied, err := w.Counts(t.Context())
		return err == nil && committed == int64(n) && applied == committed
	})
	if rss := highWater(t, w.Process); rss > highest {
		t.Errorf("%d MB were resident, at most %d MB are allowed", rss>>20, highest>>20)
	} else {
		t.Logf("%d rows in one transaction, %d MB resident at most", n, rss>>20)
	}
	w.verify()
}

// highWater returns the highest resident size of a process.
func highWater(t *testing.T, p *demo.Process) int64 {
	t.Helper()
	var kb int64
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", p.Pid()))) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
