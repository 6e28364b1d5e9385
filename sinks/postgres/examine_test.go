package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/doctor/doctortest"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/postgres"
)

// TestExamine_right: a role with just what it needs, before the first start and after.
func TestExamine_right(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Users: map[string]string{"sink": "s3cret"}})
	tg := &target{pg: pg, db: pg.NewDatabase(t)}
	pg.Exec(t, tg.db, "create table effects (id text, key text, num numeric, at bigint)", "grant insert on effects to sink", "grant create on schema public to sink")
	o := tg.options("o")
	o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(tg.db, "sink", "s3cret"), nil }
	for _, when := range []string{"before", "after"} {
		fs := postgres.Examine(t.Context(), "group g", o)
		for _, f := range fs {
			if f.Severity != doctor.OK && f.ID != "S7" {
				t.Errorf("%s the first start: %+v", when, f)
			}
		}
		doctortest.WantMade(t, fs, "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8")
		open(t, o)
	}
}

func TestExamine_wrong(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, Users: map[string]string{"sink": "s3cret"}})
	tg := &target{pg: pg, db: pg.NewDatabase(t)}
	pg.Exec(t, tg.db, "create extension if not exists postgres_fdw", "create server far foreign data wrapper postgres_fdw", "create foreign table far_totals (id text) server far",
		"revoke create on schema public from public", "alter role sink set default_transaction_isolation = 'serializable'")
	o := tg.options("o")
	o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(tg.db, "sink", "s3cret"), nil }
	o.Handlers = map[string][]handler.Statement{"Added": {{SQL: "insert into far_totals values (:id)", Place: "outrelay.yaml:11"}, {SQL: "insert into missing values (:id)", Place: "outrelay.yaml:12"}}}
	fs := postgres.Examine(t.Context(), "group g", o)
	doctortest.Want(t, fs, "S1", "error", "may not create it in schema public", "grant create on schema")
	doctortest.Want(t, fs, "S2", "error", "outrelay.yaml:12", `relation "missing" does not exist`)
	doctortest.Want(t, fs, "S5", "warning", "serializable", "set default_transaction_isolation")
	doctortest.Want(t, fs, "S6", "warning", "fsync is off")
	doctortest.Want(t, fs, "S8", "warning", "foreign table far_totals")

	// Tables made by somebody else, with less than is needed, and a trigger.
	owner := tg.options("owner")
	owner.Handlers = nil
	open(t, owner)
	pg.Exec(t, tg.db, "grant select, insert on outrelay_offsets, outrelay_meta to sink", "create function f() returns trigger language plpgsql as 'begin return new; end'",
		"create trigger watched after update on outrelay_offsets for each row execute function f()", "alter role sink set default_transaction_read_only = on")
	fs = postgres.Examine(t.Context(), "group g", o)
	doctortest.Want(t, fs, "S2", "may not UPDATE", "may not DELETE", "grant select, insert, update, delete on")
	doctortest.Want(t, fs, "S3", "error", "read-only", "default_transaction_read_only = off")
	doctortest.Want(t, fs, "S8", "trigger watched")

	o.ConnString = func(context.Context) (string, error) { return pg.DSNAs(tg.db, "sink", "wrong"), nil }
	fs = postgres.Examine(t.Context(), "group g", o)
	doctortest.Want(t, fs, "S3", "error", "password authentication failed")
	if strings.Contains(doctortest.Troubles(fs, "S3"), "wrong") && strings.Contains(doctortest.Troubles(fs, "S3"), ":wrong@") {
		t.Error("a secret in the text")
	}
	doctortest.Want(t, postgres.Examine(t.Context(), "group g", tg.options("o")), "S2", "superuser")
}
