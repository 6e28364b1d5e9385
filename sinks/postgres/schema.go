package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// SchemaVersion is the version of outrelay's tables that this code works with (docs/format/offsets-tables.md).
const SchemaVersion = 1

// upgrades[i] takes the tables from version i to i+1; %s is the quoted schema.
var upgrades = [SchemaVersion]string{
	`create table if not exists %[1]s.outrelay_meta (
	name text primary key,
	value text not null,
	updated_at timestamptz not null default now()
);
create table if not exists %[1]s.outrelay_offsets (
	log_id text not null,
	group_id text not null,
	topic_id uuid not null,
	partition integer not null,
	topic text not null,
	epoch bigint not null,
	owner text not null,
	next_offset bigint not null,
	done_set bytea,
	updated_at timestamptz not null default now(),
	primary key (log_id, group_id, topic_id, partition)
) with (fillfactor = 70)`,
}

// upgradeLock serialises processes that create or upgrade the tables at the same time: "outrelay" in ASCII.
const upgradeLock = 0x6f757472656c6179

// SchemaSQL returns the SQL that creates outrelay's tables in schema, for a database whose owner runs it by hand. The sink's role then
// needs SELECT, INSERT, UPDATE and DELETE on outrelay_offsets and SELECT on outrelay_meta.
func SchemaSQL(schema string) string {
	quoted := pgx.Identifier{schema}.Sanitize()
	var b strings.Builder
	b.WriteString("begin;\n")
	for _, u := range upgrades {
		fmt.Fprintf(&b, u+";\n", quoted)
	}
	b.WriteString(setVersionSQL(quoted) + ";\ncommit;\n")
	return b.String()
}

func setVersionSQL(quoted string) string {
	return fmt.Sprintf(`insert into %s.outrelay_meta (name, value) values ('schema_version', '%d')
	on conflict (name) do update set value = excluded.value, updated_at = now()`, quoted, SchemaVersion)
}

// ensureSchema creates or upgrades the tables. Where they are as they must be it writes nothing, so that a role without CREATE works.
func ensureSchema(ctx context.Context, pg *pgconn.PgConn, schema string) error {
	quoted := pgx.Identifier{schema}.Sanitize()
	version, err := schemaVersion(ctx, pg, schema)
	if err != nil || version == SchemaVersion {
		return err
	}
	err = upgrade(ctx, pg, schema)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		_, _ = pg.Exec(ctx, "rollback").ReadAll()
		return &outrelay.Error{
			Class: outrelay.ErrEnvironment, Code: "sink-tables", Place: "schema " + schema, Cause: "the tables outrelay_offsets and outrelay_meta cannot be created", Err: err,
			Fix: fmt.Sprintf("grant CREATE on schema %s to the role, or run as the schema's owner:\n%s", quoted, SchemaSQL(schema)),
		}
	}
	return err
}

func upgrade(ctx context.Context, pg *pgconn.PgConn, schema string) error {
	if _, err := pg.Exec(ctx, fmt.Sprintf("begin read write; select pg_advisory_xact_lock(%d)", int64(upgradeLock))).ReadAll(); err != nil {
		return err
	}
	version, err := schemaVersion(ctx, pg, schema) // again, now that nobody else upgrades
	if err != nil {
		return err
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	if version < SchemaVersion {
		for _, u := range upgrades[version:] {
			if _, err := pg.Exec(ctx, fmt.Sprintf(u, quoted)).ReadAll(); err != nil {
				return err
			}
		}
		if _, err := pg.Exec(ctx, setVersionSQL(quoted)).ReadAll(); err != nil {
			return err
		}
	}
	_, err = pg.Exec(ctx, "commit").ReadAll()
	return err
}

// schemaVersion returns 0 when the tables are not there.
func schemaVersion(ctx context.Context, pg *pgconn.PgConn, schema string) (int, error) {
	name := pgx.Identifier{schema, "outrelay_meta"}.Sanitize()
	rows, err := query(ctx, pg, "select to_regclass($1)::text", name)
	if err != nil {
		return 0, err
	}
	if rows[0][0] == nil {
		return 0, nil
	}
	rows, err = query(ctx, pg, "select value from "+name+" where name = 'schema_version'")
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	return sqlsink.ParseVersion(name, string(rows[0][0]), SchemaVersion)
}

// query runs one statement with text parameters and returns copies of its rows; nil is NULL.
func query(ctx context.Context, pg *pgconn.PgConn, sql string, args ...string) ([][][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	res := pg.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	return res.Rows, res.Err
}
