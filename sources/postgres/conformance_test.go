package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

var shared = testenv.Shared{Options: testenv.PostgresOptions{NoFsync: true, Config: map[string]string{"max_prepared_transactions": "5"}}}

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(t *testing.T, alone bool) sourcetest.Database {
		t.Helper()
		if alone {
			return newDBOn(t, testenv.StartPostgres(t, testenv.PostgresOptions{}))
		}
		return newDB(t)
	})
}

// database is a fresh database on the shared server; the one that crashes has a server of its own.
type database struct {
	pg   *testenv.Postgres
	name string
}

func newDB(t *testing.T) *database {
	t.Helper()
	return newDBOn(t, shared.Get(t))
}

func newDBOn(t *testing.T, pg *testenv.Postgres) *database {
	t.Helper()
	return &database{pg: pg, name: pg.NewDatabase(t)}
}

func (d *database) CreateOutbox(t *testing.T, name string) string {
	t.Helper()
	d.exec(t, "CREATE TABLE "+name+" (id text PRIMARY KEY, k text, seq bigint, payload text)")
	return "public." + name
}

func (d *database) exec(t *testing.T, sql ...string) {
	t.Helper()
	d.pg.Exec(t, d.name, sql...)
}

func (d *database) value(t *testing.T, sql string) string {
	t.Helper()
	return d.pg.Value(t, d.name, sql)
}

type session struct{ *pgx.Conn }

func (s session) Exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func (d *database) Session(t *testing.T) sourcetest.Session {
	t.Helper()
	return session{d.pg.Connect(t, d.name)}
}

func (d *database) Fill(t *testing.T, table string, n, payloadBytes int) {
	t.Helper()
	d.exec(t, fmt.Sprintf("INSERT INTO %s SELECT i::text, i::text, i, repeat('x', %d) FROM generate_series(1, %d) i", table, payloadBytes, n))
}

func (d *database) Noise(t *testing.T, bytes int) {
	t.Helper()
	d.exec(t, "CREATE TABLE IF NOT EXISTS noise (b text)",
		fmt.Sprintf("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, %d)", bytes/1000+1),
		"CHECKPOINT") // a checkpoint's running-xacts record lets restart_lsn move
}

func (d *database) Source(t *testing.T, o sourcetest.Options) sources.Source {
	t.Helper()
	return d.source(t, o, func(*postgres.Options) {})
}

func (d *database) source(t *testing.T, o sourcetest.Options, change func(*postgres.Options)) *postgres.Source {
	t.Helper()
	po := postgres.Options{
		Name: outrelay.SourceID(o.Name), Slot: d.name + "_" + o.Name, Publication: "pub " + o.Name, Tables: o.Tables,
		ConnString:   func(context.Context) (string, error) { return d.pg.DSN(d.name), nil },
		MaxPartBytes: o.MaxPartBytes, IdleInterval: o.Idle, PrefetchBytes: o.Prefetch,
	}
	change(&po)
	s, err := postgres.New(po)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Crash kills a server that the test has for itself: the shared one is others' too.
func (d *database) Crash(t *testing.T) {
	t.Helper()
	if err := d.pg.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := d.pg.Start(); err != nil {
		t.Fatal(err)
	}
}

func (d *database) Types(*testing.T) (create, insert, table string, want []sourcetest.Value) {
	return `CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE TYPE mood AS ENUM ('so so');
		CREATE TABLE kinds (id int PRIMARY KEY, u uuid, n numeric, big int8, f float8, j json, jb jsonb, b bytea, ts timestamptz,
			far timestamptz, d date, iv interval, bo bool, arr text[], empty text, nothing text, emoji text, ip inet, nan numeric, dom posint, mood mood)`,
		`INSERT INTO kinds VALUES (1, '00000000-0000-0000-0000-00000000000a', 123456789012345678901234567890.123456789, -9223372036854775808, 0.1,
			'{"a":  1, "a": 2, "u": "\u0000"}', '{"b": 1.10, "a": null}', '\x00ff5c', '2024-02-29 12:00:00.123456+02', 'infinity', '0044-03-15 BC',
			'1 mon 2 days 03:04:05', true, '{a,"b,c",NULL}', '', NULL, '🜁 מ"''\', '10.0.0.1/8', 'NaN', 7, 'so so')`,
		"public.kinds", []sourcetest.Value{
			{Column: "id", Type: "int4", Text: "1"},
			{Column: "u", Type: "uuid", Text: "00000000-0000-0000-0000-00000000000a"},
			{Column: "n", Type: "numeric", Text: "123456789012345678901234567890.123456789"},
			{Column: "big", Type: "int8", Text: "-9223372036854775808"},
			{Column: "f", Type: "float8", Text: "0.1"},
			{Column: "j", Type: "json", Text: `{"a":  1, "a": 2, "u": "\u0000"}`},
			{Column: "jb", Type: "jsonb", Text: `{"a": null, "b": 1.10}`},
			{Column: "b", Type: "bytea", Text: `\x00ff5c`},
			{Column: "ts", Type: "timestamptz", Text: "2024-02-29 10:00:00.123456+00"},
			{Column: "far", Type: "timestamptz", Text: "infinity"},
			{Column: "d", Type: "date", Text: "0044-03-15 BC"},
			{Column: "iv", Type: "interval", Text: "1 mon 2 days 03:04:05"},
			{Column: "bo", Type: "bool", Text: "t"},
			{Column: "arr", Type: "_text", Text: `{a,"b,c",NULL}`},
			{Column: "empty", Type: "text", Text: ""},
			{Column: "nothing", Type: "text", Null: true},
			{Column: "emoji", Type: "text", Text: `🜁 מ"'\`},
			{Column: "ip", Type: "inet", Text: "10.0.0.1/8"},
			{Column: "nan", Type: "numeric", Text: "NaN"},
			{Column: "dom", Type: "int4", Text: "7"},
			{Column: "mood", Type: "mood", Text: "so so"},
		}
}
