package postgres_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/doctor/doctortest"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

var outboxColumns = map[string][]string{"public.outbox": {"id", "k", "payload"}}

func at(p outrelay.Position) func(context.Context) outrelay.Position {
	return func(context.Context) outrelay.Position { return p }
}

// TestExamine_right: a server that is set up as it should be has nothing to mend.
func TestExamine_right(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Users: map[string]string{"relay": "s3cret"}, Config: map[string]string{"max_slot_wal_keep_size": "10GB"}})
	d := newDBOn(t, pg)
	d.CreateOutbox(t, "outbox")
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}, func(o *postgres.Options) {
		o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(d.name, "relay", "s3cret"), nil }
	})
	d.exec(t, append(s.InitSQL(), "GRANT SELECT ON outbox TO relay")...)
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	pos = d.publish(t, st, "a")
	fs := s.Examine(ctxOf(t), at(pos), outboxColumns)
	for _, f := range fs {
		if f.Severity != doctor.OK && f.ID != "P15" && f.ID != "P19" && !(f.ID == "P2" && strings.Contains(f.Text, "PostgreSQL 14")) {
			t.Errorf("%+v", f)
		}
		if strings.Contains(f.Text+f.Fix, "s3cret") {
			t.Errorf("a secret in %+v", f)
		}
	}
	doctortest.WantMade(t, fs, "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12", "P13", "P15", "P16", "P17", "P18", "P19", "P20", "P21", "P22", "P23")
}

// TestExamine_wrongServer plants what an administrator gets wrong before anything was created.
func TestExamine_wrongServer(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Users: map[string]string{"plain": "s3cret"}, Config: map[string]string{
		"wal_level": "replica", "wal_sender_timeout": "5s", "max_replication_slots": "1", "max_prepared_transactions": "2",
	}})
	d := newDBOn(t, pg)
	d.exec(t, "SELECT pg_create_physical_replication_slot('other')", "ALTER ROLE plain NOREPLICATION", "CREATE UNLOGGED TABLE outbox (id text PRIMARY KEY, k text)",
		"REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM public", "BEGIN; CREATE TABLE forgotten (); PREPARE TRANSACTION 'forgotten'")
	t.Cleanup(func() { d.exec(t, "ROLLBACK PREPARED 'forgotten'") })
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"public.outbox", "public.absent"}}, func(o *postgres.Options) {
		o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(d.name, "plain", "s3cret"), nil }
	})
	fs := s.Examine(ctxOf(t), at(outrelay.Position{}), outboxColumns)
	for id, want := range map[string][]string{
		"P3":  {"error", "wal_level is replica", "ALTER SYSTEM SET wal_level = logical"},
		"P5":  {"error", "max_replication_slots is 1, and all are in use", "ALTER SYSTEM SET max_replication_slots"},
		"P6":  {"error", "may not replicate", `ALTER ROLE "plain" REPLICATION`, "may not read public.outbox", "GRANT SELECT ON"},
		"P7":  {"warning", "publication", "does not exist", "outrelay init shop"},
		"P9":  {"error", "table public.outbox", "unlogged", "SET LOGGED", "table public.absent", "no such table"},
		"P10": {"error", "columns payload are missing", "it has id, k"},
		"P11": {"warning", "does not exist"},
		"P13": {"warning", "max_slot_wal_keep_size is -1"},
		"P16": {"warning", "prepared transaction forgotten", "ROLLBACK PREPARED"},
		"P18": {"error", "wal_sender_timeout is 5s", "ALTER SYSTEM SET wal_sender_timeout"},
		"P20": {"warning", "synchronous_commit is off"},
		"P21": {"warning", "GRANT EXECUTE ON FUNCTION pg_logical_emit_message"},
	} {
		doctortest.Want(t, fs, id, want...)
	}
}

// TestExamine_wrongStream plants what goes wrong with slot, publication and position.
func TestExamine_wrongStream(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, d *database)
		move  func(p postgres.Place) postgres.Place
		id    string
		want  []string
	}{
		"publication without inserts": {func(t *testing.T, d *database) { d.exec(t, `ALTER PUBLICATION "pub shop" SET (publish = 'update')`) }, nil, "P7", []string{"error", "does not publish inserts", "ALTER PUBLICATION"}},
		"table not published":         {func(t *testing.T, d *database) { d.exec(t, `ALTER PUBLICATION "pub shop" DROP TABLE outbox`) }, nil, "P7", []string{"error", "does not publish table public.outbox", "ADD TABLE"}},
		"row filter": {func(t *testing.T, d *database) {
			d.exec(t, `ALTER PUBLICATION "pub shop" SET TABLE outbox WHERE (seq > 1)`, `ALTER PUBLICATION "pub shop" SET (publish = 'insert')`)
		}, nil, "P7", []string{"warning", "row filter"}},
		"column list": {func(t *testing.T, d *database) { d.exec(t, `ALTER PUBLICATION "pub shop" SET TABLE outbox (id, k)`) }, nil, "P7", []string{"error", "leaves out column payload"}},
		"publication changed later": {func(t *testing.T, d *database) {
			d.exec(t, `DROP PUBLICATION "pub shop"`, `CREATE PUBLICATION "pub shop" FOR TABLE outbox`)
		}, nil, "P8", []string{"warning", "made or changed after", "source repair"}},
		"no primary key": {func(t *testing.T, d *database) { d.exec(t, "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey") }, nil, "P9", []string{"warning", "no primary key"}},
		"slot of another plugin": {func(t *testing.T, d *database) {
			d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')", "SELECT pg_create_logical_replication_slot('"+d.slot()+"', 'test_decoding')")
		}, nil, "P11", []string{"error", `plugin "test_decoding"`}},
		"slot dropped": {func(t *testing.T, d *database) { d.exec(t, "SELECT pg_drop_replication_slot('"+d.slot()+"')") }, nil, "P12", []string{"error", "[slot-missing]", "--from-table"}},
		"slot used by somebody else": {func(t *testing.T, d *database) {
			d.exec(t, "SET synchronous_commit = on; INSERT INTO outbox VALUES ('x')", "SELECT count(*) FROM pg_logical_slot_get_binary_changes('"+d.slot()+"', NULL, NULL, 'proto_version', '1', 'publication_names', '\"pub shop\"')")
		}, nil, "P12", []string{"error", "[slot-ahead]"}},
		"another server": {nil, func(p postgres.Place) postgres.Place { p.System = "1"; return p }, "P12", []string{"error", "[other-server]", "system identifier"}},
		"server behind":  {nil, func(p postgres.Place) postgres.Place { p.LSN += 1 << 40; return p }, "P12", []string{"error", "[server-behind]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDB(t)
			if strings.Contains(tc.id+name, "row filter") || name == "column list" {
				if d.value(t, "SELECT current_setting('server_version_num')::int >= 150000") != "t" {
					t.Skip("needs PostgreSQL 15")
				}
			}
			s, pos := d.outbox(t, func(*postgres.Options) {})
			if tc.spoil != nil {
				tc.spoil(t, d)
			}
			if tc.move != nil {
				p, err := postgres.ParsePlace(pos)
				must(t, err)
				p = tc.move(p)
				pos.Token = p.Token()
			}
			doctortest.Want(t, s.Examine(ctxOf(t), at(pos), outboxColumns), tc.id, tc.want...)
		})
	}
}

// fast is a machine whose clock is an hour ahead.
type fast struct{ clock.Real }

func (f fast) Now() time.Time { return f.Real.Now().Add(time.Hour) }

func TestExamine_connection(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	opts := sourcetest.Options{Name: "shop", Tables: []string{"public.outbox"}}
	s, pos := d.outbox(t, func(*postgres.Options) {})

	nobody := d.source(t, opts, func(o *postgres.Options) {
		o.ConnString = func(context.Context) (string, error) { return "postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable", nil }
	})
	fs := nobody.Examine(ctxOf(t), at(pos), outboxColumns)
	doctortest.Want(t, fs, "P1", "error", "refused")
	if len(fs) != 1 || strings.Contains(doctortest.Troubles(fs, "P1"), "s3cret") {
		t.Errorf("%+v", fs)
	}

	ahead := d.source(t, opts, func(o *postgres.Options) { o.Clock = fast{} })
	doctortest.Want(t, ahead.Examine(ctxOf(t), at(pos), outboxColumns), "P22", "warning", "differs from this machine's by 3600")

	// Somebody else's client holds the slot.
	pgc, err := pgconn.Connect(ctxOf(t), d.pg.DSN(d.name)+"&replication=database&application_name=debezium")
	must(t, err)
	defer pgc.Close(context.Background())
	must(t, pglogrepl.StartReplication(ctxOf(t), pgc, d.slot(), 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{"proto_version '1'", `publication_names '"pub shop"'`}}))
	d.waitValue(t, "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '"+d.slot()+"'", "1")
	doctortest.Want(t, s.Examine(ctxOf(t), at(pos), outboxColumns), "P11", "error", `("debezium")`, "not by this source", "pg_terminate_backend")
}
