package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// wantError checks class, code, and that the text holds all of parts.
func wantError(t *testing.T, err, class error, code string, parts ...string) {
	t.Helper()
	var e *outrelay.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want [%s]", err, code)
	}
	if e.Code != code || !errors.Is(err, class) {
		t.Fatalf("got [%s] %v, want [%s] %v", e.Code, err, code, class)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q lacks %q", err, p)
		}
	}
}

// outbox creates the table and a source, and publishes one row: the position after it is returned, confirmed and the stream closed.
func (d *database) outbox(t *testing.T, change func(*postgres.Options)) (*postgres.Source, outrelay.Position) {
	t.Helper()
	d.CreateOutbox(t, "outbox")
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}, change)
	pos, err := s.Init(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Open(ctxOf(t), pos)
	if err != nil {
		t.Fatal(err)
	}
	pos = d.publish(t, st, "first")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	d.waitInactive(t)
	return s, pos
}

// publish inserts a row, reads it and confirms it.
func (d *database) publish(t *testing.T, st sources.Stream, id string) outrelay.Position {
	t.Helper()
	d.exec(t, fmt.Sprintf("INSERT INTO outbox VALUES ('%s', 'k', 1, 'p')", id))
	for {
		txn, err := st.Next(ctxOf(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(txn.Events) == 0 {
			continue
		}
		if v, _ := txn.Events[0].Get("id"); string(v) != id {
			t.Fatalf("read %s, want %s", v, id)
		}
		if err := st.Confirm(context.Background(), txn.Position); err != nil {
			t.Fatal(err)
		}
		return txn.Position
	}
}

func (d *database) slot() string { return d.name + "_shop" }

func (d *database) waitInactive(t *testing.T) {
	t.Helper()
	d.waitValue(t, "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '"+d.slot()+"'", "0")
}

// waitValue polls the server: it tells nobody when this changes.
func (d *database) waitValue(t *testing.T, sql, want string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	got := ""
	for {
		if got = d.value(t, sql); got == want {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s is %q, want %q", sql, got, want)
		}
	}
}

// TestOpen_halts makes a real server fail in the ways that would lose events in silence, and wants the gap and the ways out.
func TestOpen_halts(t *testing.T) {
	t.Parallel()
	const waysOut = "`outrelay source repair shop --from-table`"
	tests := []struct {
		name   string
		config map[string]string // of a server for this test alone; nil shares one
		breaks func(t *testing.T, d *database)
		class  error
		code   string
		text   []string
	}{
		{"slot dropped", nil, func(t *testing.T, d *database) {
			d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')")
		}, outrelay.ErrPositionLost, "slot-missing", []string{"does not exist", "committed in (", waysOut, "--accept-gap"}},
		{"slot dropped and created again", nil, func(t *testing.T, d *database) {
			d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')", "INSERT INTO outbox VALUES ('lost')",
				"SELECT pg_create_logical_replication_slot('"+d.slot()+"', 'pgoutput')")
		}, outrelay.ErrPositionLost, "slot-ahead", []string{"beyond our position", waysOut}},
		{"slot invalidated", map[string]string{"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}, func(t *testing.T, d *database) {
			d.exec(t, "CREATE TABLE noise (b text)")
			for range 4 {
				d.exec(t, "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 16000)", "SELECT pg_switch_wal()")
			}
			d.exec(t, "CHECKPOINT")
			d.waitValue(t, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '"+d.slot()+"'", "lost")
		}, outrelay.ErrPositionLost, "slot-invalidated", []string{"max_slot_wal_keep_size", "committed in (", waysOut}},
		{"slot of another plugin", nil, func(t *testing.T, d *database) {
			d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')", "SELECT pg_create_logical_replication_slot('"+d.slot()+"', 'test_decoding')")
		}, outrelay.ErrEnvironment, "slot-unfit", []string{"test_decoding"}},
		{"publication dropped", nil, func(t *testing.T, d *database) {
			d.exec(t, `DROP PUBLICATION "pub shop"`)
		}, outrelay.ErrPositionLost, "publication-missing", []string{`"pub shop"`, "committed in (", waysOut}},
		{"table left the publication", nil, func(t *testing.T, d *database) {
			d.exec(t, `ALTER PUBLICATION "pub shop" DROP TABLE outbox`)
		}, outrelay.ErrEnvironment, "table-not-published", []string{`ALTER PUBLICATION "pub shop" ADD TABLE "public"."outbox"`}},
		{"publication without inserts", nil, func(t *testing.T, d *database) {
			d.exec(t, `ALTER PUBLICATION "pub shop" SET (publish = 'update')`)
		}, outrelay.ErrEnvironment, "publication-unfit", []string{"SET (publish ="}},
		{"wal_level lowered", map[string]string{}, func(t *testing.T, d *database) {
			d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')", "ALTER SYSTEM SET wal_level = replica")
			if err := d.pg.Restart(); err != nil {
				t.Fatal(err)
			}
		}, outrelay.ErrEnvironment, "wal-level", []string{"ALTER SYSTEM SET wal_level = logical"}},
		{"standby", map[string]string{}, func(t *testing.T, d *database) { d.becomeStandby(t) },
			outrelay.ErrEnvironment, "server-is-standby", []string{"target_session_attrs=read-write"}},
		{"restored from a backup", map[string]string{}, func(t *testing.T, d *database) {
			// The position is taken back further below, by restoring an older copy under it.
		}, outrelay.ErrPositionLost, "server-behind", []string{"restored", waysOut}},
		{"published beyond a failover", map[string]string{}, func(t *testing.T, d *database) {
			d.becomeStandby(t)
			d.exec(t, "SELECT pg_promote()")
		}, outrelay.ErrPositionLost, "published-beyond-failover", []string{"timeline 2 left timeline 1 at", waysOut}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDB
			if tt.config != nil {
				d = func(t *testing.T) *database {
					return newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Config: tt.config}))
				}
			}
			db := d(t)
			s, pos := db.outbox(t, func(*postgres.Options) {})
			if tt.code == "server-behind" || tt.code == "published-beyond-failover" {
				pos = db.loseLast(t, s, pos)
			}
			tt.breaks(t, db)
			_, err := s.Open(ctxOf(t), pos)
			wantError(t, err, tt.class, tt.code, tt.text...)
			if errors.Is(tt.class, outrelay.ErrPositionLost) && outrelay.ExitCode(err) != 4 {
				t.Errorf("exit code %d", outrelay.ExitCode(err))
			}
		})
	}
}

// loseLast publishes a row and puts the server back to before it was written.
func (d *database) loseLast(t *testing.T, s *postgres.Source, pos outrelay.Position) outrelay.Position {
	t.Helper()
	must(t, d.pg.Stop())
	copied, err := d.pg.Snapshot()
	must(t, err)
	must(t, d.pg.Start())
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	d.exec(t, "CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	pos = d.publish(t, st, "lost")
	must(t, st.Close())
	must(t, d.pg.Stop())
	must(t, d.pg.Restore(copied))
	must(t, d.pg.Start())
	return pos
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d *database) becomeStandby(t *testing.T) {
	t.Helper()
	must(t, d.pg.Stop())
	must(t, os.WriteFile(filepath.Join(d.pg.Data(), "standby.signal"), nil, 0o600))
	must(t, d.pg.Start())
}

func TestOpen_otherServer(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	_, pos := d.outbox(t, func(*postgres.Options) {})
	other := newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, FreshIdentity: true}))
	s, _ := other.outbox(t, func(*postgres.Options) {})
	_, err := s.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrPositionLost, "other-server", "system identifier", "--from-table")
}

// TestOpen_timelines promotes the server behind our back: that is a failover that lost nothing, then an old primary that comes back.
func TestOpen_timelines(t *testing.T) {
	t.Parallel()
	d := newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true}))
	s, pos := d.outbox(t, func(*postgres.Options) {})
	must(t, d.pg.Stop())
	old, err := d.pg.Snapshot()
	must(t, err)
	d.becomeStandby(t)
	d.exec(t, "SELECT pg_promote()")
	st, err := s.Open(ctxOf(t), pos)
	if err != nil {
		t.Fatalf("after a failover that lost nothing: %v", err)
	}
	must(t, st.Confirm(context.Background(), pos))
	pos = d.publish(t, st, "second")
	must(t, st.Close())
	place, err := postgres.ParsePlace(pos)
	must(t, err)
	if place.Timeline != 2 || place.Events != 2 {
		t.Errorf("position after the failover: %s", pos.Token)
	}
	must(t, d.pg.Stop())
	must(t, d.pg.Restore(old))
	must(t, d.pg.Start())
	_, err = s.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrPositionLost, "old-primary", "timeline 1")
}

// TestStream_publicationDropped drops the publication under a running stream.
func TestStream_publicationDropped(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	s, pos := d.outbox(t, func(*postgres.Options) {})
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	d.publish(t, st, "second")
	d.exec(t, `DROP PUBLICATION "pub shop"`, "INSERT INTO outbox VALUES ('unpublished')")
	for err == nil {
		var txn outrelay.Txn
		if txn, err = st.Next(ctxOf(t)); err == nil && len(txn.Events) > 0 {
			t.Fatalf("yielded %+v", txn)
		}
	}
	wantError(t, err, outrelay.ErrPositionLost, "publication-missing", "--from-table")
	must(t, st.Close())
}

func TestOpen_privileges(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Users: map[string]string{"relay": "s3cret"},
		HBA: []string{"host all barred 127.0.0.1/32 reject"}})
	d := newDBOn(t, pg)
	pg.Exec(t, "postgres", "CREATE ROLE plain LOGIN", "CREATE ROLE barred LOGIN REPLICATION")
	as := func(user, password string) func(*postgres.Options) {
		return func(o *postgres.Options) {
			o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(d.name, user, password), nil }
		}
	}
	d.CreateOutbox(t, "outbox")
	opts := sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}
	for _, tt := range []struct {
		name   string
		change func(*postgres.Options)
		class  error
		code   string
		text   []string
	}{
		{"no REPLICATION", as("plain", ""), outrelay.ErrEnvironment, "missing-privilege", []string{"ALTER ROLE", "REPLICATION"}},
		{"wrong password", as("relay", "wrong"), outrelay.ErrEnvironment, "login-refused", []string{"password authentication failed"}},
		{"pg_hba.conf", as("barred", ""), outrelay.ErrEnvironment, "login-refused", []string{"pg_hba.conf needs a line"}},
		{"not the owner", as("relay", "s3cret"), outrelay.ErrEnvironment, "missing-privilege", []string{"run as the tables' owner: CREATE PUBLICATION \"pub shop\""}},
		{"no such database", func(o *postgres.Options) {
			o.ConnString = func(context.Context) (string, error) { return pg.DSN("nowhere"), nil }
		}, outrelay.ErrEnvironment, "database-missing", nil},
		{"nobody listens", func(o *postgres.Options) {
			o.ConnString = func(context.Context) (string, error) { return "postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable", nil }
		}, outrelay.ErrTransient, "connection", []string{"refused"}},
		{"TLS that the server lacks", func(o *postgres.Options) {
			o.ConnString = func(context.Context) (string, error) {
				return strings.Replace(pg.DSN(d.name), "disable", "require", 1), nil
			}
		}, outrelay.ErrEnvironment, "tls", []string{"sslmode"}},
		{"no connection string", func(o *postgres.Options) {
			o.ConnString = func(context.Context) (string, error) { return "postgres://u:s3cret@h:port/d", nil }
		}, outrelay.ErrConfig, "connection-string", nil},
		{"table missing", func(o *postgres.Options) { o.Tables = []string{"public.nothing"} }, outrelay.ErrEnvironment, "table-missing", []string{"public.nothing"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.source(t, opts, tt.change).Init(ctxOf(t))
			wantError(t, err, tt.class, tt.code, tt.text...)
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "wrong") && tt.code != "login-refused" {
				t.Errorf("a secret in %q", err)
			}
		})
	}
	// With the publication made by the owner, a role with REPLICATION and nothing else does.
	s := d.source(t, opts, as("relay", "s3cret"))
	d.exec(t, s.InitSQL()...)
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	d.publish(t, st, "a")
	must(t, st.Close())
	_, err = d.source(t, opts, as("plain", "")).Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrEnvironment, "missing-privilege")
}

// TestOpen_passwordReadAgain changes the password between two connects.
func TestOpen_passwordReadAgain(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Users: map[string]string{"relay": "one"}})
	d := newDBOn(t, pg)
	d.CreateOutbox(t, "outbox")
	password := "one"
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}, func(o *postgres.Options) {
		o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(d.name, "relay", password), nil }
	})
	d.exec(t, s.InitSQL()...)
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	pg.Exec(t, "postgres", "ALTER ROLE relay PASSWORD 'two'")
	_, err = s.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrEnvironment, "login-refused")
	password = "two"
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	must(t, st.Close())
}

// TestOpen_slotActive has two relays: the second waits its turn, unless the first is known to be fenced.
func TestOpen_slotActive(t *testing.T) {
	t.Parallel()
	for name, log := range map[string]string{"short": "log", "longer than the server keeps": strings.Repeat("x", 60)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slotActive(t, log)
		})
	}
}

func slotActive(t *testing.T, log string) {
	d := newDB(t)
	s, pos := d.outbox(t, func(o *postgres.Options) { o.Owner = func() string { return log + "1" } })
	first, err := s.Open(ctxOf(t), pos)
	must(t, err)
	stranger := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}, func(o *postgres.Options) { o.Owner = func() string { return log + "2" } })
	_, err = stranger.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrTransient, "slot-active", "held by pid", "outrelay source steal shop")
	pos = d.publish(t, first, "still here")

	second, err := s.Open(ctxOf(t), pos)
	if err != nil {
		t.Fatalf("the owner's next relay: %v", err)
	}
	d.publish(t, second, "taken over")
	for err == nil {
		_, err = first.Next(ctxOf(t))
	}
	if !errors.Is(err, outrelay.ErrTransient) {
		t.Errorf("the relay that lost the slot: %v", err)
	}
	must(t, first.Close())
	must(t, second.Close())
}
