package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/sinks/handler"
)

// Examine looks at everything that a sink with these options needs of its database, and changes nothing. The ids are those of docs/operations/doctor.md.
func Examine(ctx context.Context, place string, o Options) []doctor.Finding {
	x := &examination{Report: doctor.Report{Place: place}}
	if err := o.complete(); err != nil {
		x.Fail("S1", "correct the file", "%v", err)
		return x.Findings
	}
	x.o = o
	x.run(ctx)
	return x.Findings
}

// examination is one run of the checks.
type examination struct {
	doctor.Report
	o      Options
	pg     *pgconn.PgConn
	schema string
	table  string // quoted name of outrelay_offsets
}

func (x *examination) run(ctx context.Context) {
	dsn, err := x.o.ConnString(ctx)
	if err == nil {
		x.pg, err = pgconn.Connect(ctx, dsn)
	}
	if err != nil {
		x.Fail("S3", "check host, port, user, password and pg_hba.conf; `psql` with the same connection string says the same", "no connection: %v", err)
		return
	}
	defer closeConn(x.pg)
	row, err := x.row(ctx, "select pg_is_in_recovery(), current_setting('transaction_read_only'), coalesce(current_schema(), ''), current_database(), current_user, "+
		"current_setting('default_transaction_isolation'), current_setting('synchronous_commit'), current_setting('fsync')")
	if err != nil {
		x.Fail("S3", "check that this is a PostgreSQL server", "connected, but it does not answer: %v", err)
		return
	}
	x.schema = x.o.Schema
	if x.schema == "" {
		x.schema = row[2]
	}
	x.table = pgx.Identifier{x.schema, "outrelay_offsets"}.Sanitize()
	x.writer(row)
	if x.schema == "" {
		x.Fail("S1", "alter role "+row[4]+" set search_path = public", "no schema of the role's search_path exists")
		return
	}
	there := x.tables(ctx)
	x.privileges(ctx, row[4], there)
	x.OK("S4", "results and offsets go to database %s in one transaction", row[3])
	x.settings(row)
	x.Skip("S7", "no deduplication is configured")
	x.beside(ctx, there)
}

// row runs one statement that returns one row; NULL is "".
func (x *examination) row(ctx context.Context, sql string, args ...string) ([]string, error) {
	rows, err := query(ctx, x.pg, sql, args...)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%d rows where one was expected", len(rows))
	}
	out := make([]string, len(rows[0]))
	for i, v := range rows[0] {
		out[i] = string(v)
	}
	return out, nil
}

// writer is S3.
func (x *examination) writer(row []string) {
	switch {
	case row[0] == "t":
		x.Fail("S3", "point the connection at the primary (target_session_attrs=read-write with several hosts)", "the server is a standby and takes no writes")
	case row[1] == "on":
		x.Fail("S3", "alter role "+row[4]+" set default_transaction_read_only = off", "transactions are read-only here")
	default:
		x.OK("S3", "the server takes writes")
	}
}

// tables is S1.
func (x *examination) tables(ctx context.Context) bool {
	version, err := schemaVersion(ctx, x.pg, x.schema)
	switch {
	case err != nil:
		x.Fail("S1", "run the version of outrelay that made them, or a newer one", "outrelay's tables: %v", err)
		return false
	case version == SchemaVersion:
		x.OK("S1", "outrelay_offsets is there, version %d", version)
		return true
	}
	row, err := x.row(ctx, "select has_schema_privilege($1, 'CREATE')", x.schema)
	if err == nil && row[0] == "t" {
		x.OK("S1", "outrelay_offsets is not there yet; it is created at the first start")
	} else {
		x.Fail("S1", "grant create on schema "+pgx.Identifier{x.schema}.Sanitize()+" to the role, or run the SQL of docs/consumers.md as the schema's owner", "outrelay_offsets is not there, and the role may not create it in schema %s", x.schema)
	}
	return false
}

// privileges is S2: what the role may do with outrelay's table, and whether the server takes every handler.
func (x *examination) privileges(ctx context.Context, user string, there bool) {
	if row, err := x.row(ctx, "select rolsuper from pg_roles where rolname = current_user"); err == nil && row[0] == "t" {
		x.Warn("S2", "give the sink a role of its own, with what its handlers do and select, insert, update, delete on outrelay_offsets", "the role %s is a superuser, which the sink does not need", user)
	}
	if there {
		for _, p := range []string{"SELECT", "INSERT", "UPDATE", "DELETE"} {
			if row, err := x.row(ctx, "select has_table_privilege($1, $2)", x.table, p); err == nil && row[0] != "t" {
				x.Fail("S2", "grant select, insert, update, delete on "+x.table+" to "+pgx.Identifier{user}.Sanitize(), "the role %s may not %s in %s", user, p, x.table)
			}
		}
	}
	hs, err := handler.Compile(handler.PostgreSQL, x.o.Handlers)
	if err != nil {
		x.Fail("S2", "docs/consumers.md says what a handler may use", "%v", err)
		return
	}
	refused := 0
	for _, st := range hs.Statements {
		_, err := x.pg.Prepare(ctx, "", st.Text(handler.PostgreSQL), nil)
		var e *pgconn.PgError
		if errors.As(err, &e) {
			refused++
			x.Fail("S2", "correct the statement, create what it names, or grant what it needs", "%v", prepareError(st, e))
		}
	}
	if refused == 0 {
		x.OK("S2", "the server takes the %d statements of the handlers", len(hs.Statements))
	}
}

// settings is S5 and S6.
func (x *examination) settings(row []string) {
	if row[5] == "read committed" {
		x.OK("S5", "transactions are read committed")
	} else {
		x.Warn("S5", "alter role "+pgx.Identifier{row[4]}.Sanitize()+" set default_transaction_isolation = 'read committed'", "default_transaction_isolation is %s: transactions fail and are made again more often", row[5])
	}
	switch {
	case row[7] == "off":
		x.Warn("S6", "alter system set fsync = on", "fsync is off: a crash of the machine can destroy results and offsets")
	case row[6] == "off":
		x.Warn("S6", "alter role "+pgx.Identifier{row[4]}.Sanitize()+" set synchronous_commit = on", "synchronous_commit is off: a crash of the server takes back results and offsets together; they are applied again")
	default:
		x.OK("S6", "synchronous_commit is %s, fsync on", row[6])
	}
}

// beside is S8: what does not commit with the transaction.
func (x *examination) beside(ctx context.Context, there bool) {
	found := false
	if there {
		rows, err := query(ctx, x.pg, "select tgname from pg_trigger where not tgisinternal and tgrelid = to_regclass($1)", x.table)
		for i := 0; err == nil && i < len(rows); i++ {
			found = true
			x.Warn("S8", "drop it", "trigger %s on outrelay_offsets runs with every move of an offset", rows[i][0])
		}
	}
	rows, err := query(ctx, x.pg, "select relname from pg_class where relkind = 'f'")
	if err != nil {
		x.Skip("S8", "%v", err)
		return
	}
	for _, r := range rows {
		if name := string(r[0]); x.handlersMention(name) {
			found = true
			x.Warn("S8", "write into a table of this database", "handlers name the foreign table %s: what they write there does not commit together with the offset", name)
		}
	}
	if !found {
		x.OK("S8", "nothing that handlers write is outside of the transaction")
	}
}

func (x *examination) handlersMention(name string) bool {
	for _, list := range x.o.Handlers {
		for _, st := range list {
			if strings.Contains(strings.ToLower(st.SQL), strings.ToLower(name)) {
				return true
			}
		}
	}
	return false
}
