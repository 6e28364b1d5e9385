package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

// TestStream_backpressureKeepsTheConnection takes nothing for several times wal_sender_timeout.
func TestStream_backpressureKeepsTheConnection(t *testing.T) {
	t.Parallel()
	d := newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Config: map[string]string{"wal_sender_timeout": "1s"}}))
	s, pos := d.outbox(t, func(o *postgres.Options) { o.KeepaliveInterval, o.PrefetchBytes = 200*time.Millisecond, 100_000 })
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	const rows = 20_000
	d.Fill(t, "outbox", rows/2, 1000)
	d.exec(t, fmt.Sprintf("INSERT INTO outbox SELECT i::text, i::text, i, 'x' FROM generate_series(%d, %d) i", rows/2+1, rows))
	d.waitValue(t, "SELECT clock_timestamp() - backend_start > interval '4s' FROM pg_stat_replication", "t")
	for n := 0; n < rows; {
		txn, err := st.Next(ctxOf(t))
		if err != nil {
			t.Fatalf("after %d rows: %v", n, err)
		}
		n += len(txn.Events)
	}
}

// TestStream_connectionCut cuts the network in the middle of a transaction and goes on from the last position.
func TestStream_connectionCut(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	proxy := testenv.StartProxy(t, d.pg.Addr())
	s, pos := d.outbox(t, func(o *postgres.Options) {
		o.MaxPartBytes = 50_000
		o.ConnString = func(context.Context) (string, error) {
			return testenv.DSN(proxy.Addr(), d.name, "postgres", ""), nil
		}
	})
	const rows = 2000
	d.exec(t, "TRUNCATE outbox")
	d.Fill(t, "outbox", rows, 1000)
	seen, cuts := 0, 0
	for seen < rows {
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		proxy.CutAfterBytes(testenv.ToClient, int64(cuts+1)*400_000) // the server sends the transaction again from its beginning
		for seen < rows {
			txn, err := st.Next(ctxOf(t))
			if err != nil {
				if !errors.Is(err, outrelay.ErrTransient) {
					t.Fatal(err)
				}
				cuts++
				break
			}
			for i := range txn.Events {
				if v, _ := txn.Events[i].Get("seq"); string(v) != fmt.Sprint(seen+1) {
					t.Fatalf("row %s after %d", v, seen)
				}
				seen++
			}
			pos = txn.Position
			must(t, st.Confirm(context.Background(), pos))
		}
		must(t, st.Close())
	}
	if cuts == 0 {
		t.Error("nothing was cut")
	}
}

// TestStream_serverStops stops a server in order: it waits until what it has written is confirmed, which an idle source must not
// hold up.
func TestStream_serverStops(t *testing.T) {
	t.Parallel()
	d := newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true}))
	s, pos := d.outbox(t, func(*postgres.Options) {})
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	d.publish(t, st, "second")
	d.Noise(t, 100_000)
	done := make(chan error, 1)
	go func() { // as the relay does: what comes is made durable, then confirmed
		for {
			txn, err := st.Next(context.Background())
			if err != nil {
				done <- err
				return
			}
			if err := st.Confirm(context.Background(), txn.Position); err != nil {
				done <- err
				return
			}
		}
	}()
	began := time.Now()
	must(t, d.pg.Stop())
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the server took %v to stop", took)
	}
	if err := <-done; !errors.Is(err, outrelay.ErrTransient) {
		t.Error(err)
	}
	must(t, st.Close())
}

// TestInit_names quotes whatever the configuration says.
func TestInit_names(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	d.exec(t, `CREATE SCHEMA "Sch.ema"; CREATE TABLE "Sch.ema"."out""; drop table x; ünï'" (id int PRIMARY KEY)`, "CREATE TABLE x (id int)")
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{`"Sch.ema"."out""; drop table x; ünï'"`}}, func(o *postgres.Options) {
		o.Publication = `p"'; drop table x; --`
	})
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	d.exec(t, "INSERT INTO x VALUES (1)", `INSERT INTO "Sch.ema"."out""; drop table x; ünï'" VALUES (7)`)
	txn, err := st.Next(ctxOf(t))
	must(t, err)
	if string(txn.Events[0].Values[0]) != "7" {
		t.Errorf("%+v", txn)
	}
}

// TestStream_encodings reads bytes that are no UTF-8 from a database that does not care (B32).
func TestStream_encodings(t *testing.T) {
	t.Parallel()
	pg := shared.Get(t)
	for name, tt := range map[string]struct{ create, value, want string }{
		"SQL_ASCII": {"ENCODING 'SQL_ASCII'", `E'\xff\xfe'`, "\xff\xfe"},
		"LATIN1":    {"ENCODING 'LATIN1'", `chr(233)`, "é"},
	} {
		db := strings.ToLower("enc_" + name)
		pg.Exec(t, "postgres", "CREATE DATABASE "+db+" TEMPLATE template0 LOCALE 'C' "+tt.create)
		d := &database{pg: pg, name: db}
		s, pos := d.outbox(t, func(*postgres.Options) {})
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		d.exec(t, "INSERT INTO outbox VALUES ("+tt.value+", 'k', 1, 'p')")
		txn, err := st.Next(ctxOf(t))
		must(t, err)
		if got := string(txn.Events[0].Values[0]); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		must(t, st.Close())
		d.waitInactive(t)
		d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')")
	}
}

// TestStream_partitioned reads a partitioned outbox under its own name, and a table without a primary key, whose updates must go on working.
func TestStream_partitioned(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	d.exec(t, "CREATE TABLE parted (id int, day date) PARTITION BY RANGE (day)",
		"CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')")
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"parted"}}, func(*postgres.Options) {})
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	d.exec(t, "INSERT INTO parted VALUES (1, '2026-01-05')", "UPDATE parted SET id = 2", "DELETE FROM parted",
		"CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')", "INSERT INTO parted VALUES (3, '2026-02-05')")
	for _, want := range []string{"1", "3"} {
		txn, err := st.Next(ctxOf(t))
		must(t, err)
		if e := txn.Events[0]; e.Schema.Table != "parted" || string(e.Values[0]) != want {
			t.Errorf("%s %s, want %s", e.Schema.Table, e.Values, want)
		}
	}
}

// TestStream_prepared: a prepared transaction comes when it is committed, not when it is prepared (C38).
func TestStream_prepared(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	s, pos := d.outbox(t, func(*postgres.Options) {})
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	a := d.Session(t)
	for _, sql := range []string{"BEGIN", "INSERT INTO outbox VALUES ('no')", "PREPARE TRANSACTION 'no'",
		"BEGIN", "INSERT INTO outbox VALUES ('yes')", "PREPARE TRANSACTION 'yes'"} {
		a.Exec(t, sql)
	}
	d.publish(t, st, "between")
	a.Exec(t, "ROLLBACK PREPARED 'no'")
	a.Exec(t, "COMMIT PREPARED 'yes'")
	txn, err := st.Next(ctxOf(t))
	must(t, err)
	if string(txn.Events[0].Values[0]) != "yes" {
		t.Errorf("%+v", txn)
	}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestInit_blocked holds up the creation of the slot by an open transaction (C35): Init says whose, and goes on when it ends.
func TestInit_blocked(t *testing.T) {
	t.Parallel()
	d := newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true}))
	d.CreateOutbox(t, "outbox")
	fake := clock.NewFake(time.Now())
	var logged lockedBuffer
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, func(o *postgres.Options) {
		o.Clock, o.Logger = fake, slog.New(slog.NewTextHandler(&logged, nil))
	})
	a := d.Session(t)
	a.Exec(t, "BEGIN")
	a.Exec(t, "INSERT INTO outbox VALUES ('blocks')")
	done := make(chan error, 1)
	go func() {
		_, err := s.Init(ctxOf(t))
		done <- err
	}()
	d.waitValue(t, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT lsn FROM pg_create%' AND wait_event_type = 'Lock'", "1")
	fake.Advance(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(logged.String(), "waits for a transaction to end") {
		select {
		case err := <-done:
			t.Fatalf("init ended: %v", err)
		case <-tick.C:
		}
	}
	if !strings.Contains(logged.String(), "pid ") {
		t.Error(logged.String())
	}
	a.Exec(t, "COMMIT")
	must(t, <-done)
}

// TestMetrics counts what came and what was ignored.
func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	d := newDB(t)
	s, pos := d.outbox(t, func(o *postgres.Options) { o.Registerer = reg })
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	d.exec(t, "UPDATE outbox SET k = 'x'")
	d.publish(t, st, "second")
	families, err := reg.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"outrelay_source_events_total shop": 2, "outrelay_source_transactions_total shop": 2,
		"outrelay_source_ignored_total UPDATE shop public.outbox": 1,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v; all: %v", name, got[name], want, got)
		}
	}
}
