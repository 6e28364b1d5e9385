package mysql

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// SchemaVersion is the version of outrelay's tables that this code works with (docs/format/offsets-tables.md).
const SchemaVersion = 1

// tableOptions makes the tables take part in transactions, and names differ by case and accents, whatever the server's defaults are.
const tableOptions = "engine = InnoDB default character set utf8mb4 collate utf8mb4_bin"

// upgrades[i] takes the tables from version i to i+1; %[1]s is the quoted database. DDL commits by itself, so every statement may be run again.
var upgrades = [SchemaVersion][]string{{
	"create table if not exists %[1]s.outrelay_meta (\n\tname varchar(64) not null primary key,\n\tvalue varchar(255) not null,\n\tupdated_at datetime(6) not null\n) " + tableOptions,
	"create table if not exists %[1]s.outrelay_offsets (\n\tlog_id varchar(64) not null,\n\tgroup_id varchar(255) not null,\n\ttopic_id char(36) not null,\n\t`partition` int not null,\n" +
		"\ttopic varchar(255) not null,\n\tepoch bigint not null,\n\towner varchar(255) not null,\n\tnext_offset bigint not null,\n\tdone_set longblob,\n\tupdated_at datetime(6) not null,\n" +
		"\tprimary key (log_id, group_id, topic_id, `partition`)\n) " + tableOptions,
}}

// upgradeLock serialises processes that create or upgrade the tables at the same time.
const (
	upgradeLock        = "outrelay_upgrade"
	upgradeLockSeconds = 60
)

// SchemaSQL returns the SQL that creates outrelay's tables in a database, for an administrator who runs it by hand. The sink's account then
// needs SELECT, INSERT, UPDATE and DELETE on outrelay_offsets and SELECT on outrelay_meta.
func SchemaSQL(database string) string {
	return strings.Join(schemaStatements(database, 0), ";\n") + ";\n"
}

// schemaStatements takes the tables from a version to ours. The version comes last: what was cut short is begun again.
func schemaStatements(database string, from int) []string {
	quoted := identifier(database)
	var out []string
	for _, u := range upgrades[from:] {
		for _, st := range u {
			out = append(out, fmt.Sprintf(st, quoted))
		}
	}
	return append(out, fmt.Sprintf("insert into %s.outrelay_meta (name, value, updated_at) values ('schema_version', '%d', utc_timestamp(6))\n"+
		"\ton duplicate key update value = values(value), updated_at = values(updated_at)", quoted, SchemaVersion))
}

// ensureSchema creates or upgrades the tables. Where they are as they must be it writes nothing, so that an account without CREATE works.
func ensureSchema(ctx context.Context, c *conn, database string) error {
	version, err := schemaVersion(ctx, c, database)
	if err != nil || version == SchemaVersion {
		return err
	}
	err = upgrade(ctx, c, database)
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return &outrelay.Error{
			Class: outrelay.ErrEnvironment, Code: "sink-tables", Place: "database " + database, Cause: "the tables outrelay_offsets and outrelay_meta cannot be created", Err: serverText(e),
			Fix: fmt.Sprintf("grant create on %s.* to the account, or run as an administrator:\n%s", identifier(database), SchemaSQL(database)),
		}
	}
	return err
}

func upgrade(ctx context.Context, c *conn, database string) error {
	rows, err := c.query(ctx, fmt.Sprintf("select get_lock('%s', %d)", upgradeLock, upgradeLockSeconds))
	if err != nil {
		return err
	}
	if string(rows[0][0]) != "1" {
		return sqlsink.Unavailable("tables", fmt.Errorf("another session has the lock %s for longer than %d s", upgradeLock, upgradeLockSeconds))
	}
	version, err := schemaVersion(ctx, c, database) // again, now that nobody else upgrades
	if err == nil && version < SchemaVersion {
		err = c.exec(ctx, []byte(strings.Join(schemaStatements(database, version), ";\n")))
	}
	_, uerr := c.query(ctx, "select release_lock('"+upgradeLock+"')")
	return errors.Join(err, uerr)
}

// schemaVersion returns 0 when the tables are not there.
func schemaVersion(ctx context.Context, c *conn, database string) (int, error) {
	name := identifier(database) + ".outrelay_meta"
	rows, err := c.query(ctx, "select value from "+name+" where name = 'schema_version'")
	var e *mysql.MySQLError
	if errors.As(err, &e) && (e.Number == errorNoTable || e.Number == errorNoSelect) {
		return 0, nil
	}
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	return sqlsink.ParseVersion(name, string(rows[0][0]), SchemaVersion)
}
