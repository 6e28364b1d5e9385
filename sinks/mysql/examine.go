package mysql

import (
	"context"
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// Examine looks at everything that a sink with these options needs of its database, and changes nothing. The ids are those of docs/operations/doctor.md.
func Examine(ctx context.Context, place string, o Options) []doctor.Finding {
	x := &examination{Report: doctor.Report{Place: place}}
	err := o.complete()
	if err == nil {
		x.s = &Sink{o: o}
		x.s.handlers, err = handler.Compile(handler.MySQL, o.Handlers)
	}
	if err == nil {
		x.s.connects, err = sqlsink.Connects("mysql", nil)
	}
	if err != nil {
		x.Fail("S2", "correct the file; docs/consumers.md says what a handler may use", "%v", err)
		return x.Findings
	}
	x.run(ctx)
	return x.Findings
}

// examination is one run of the checks.
type examination struct {
	doctor.Report
	s      *Sink
	c      *conn
	schema string // that holds outrelay's tables
}

func (x *examination) run(ctx context.Context) {
	c, database, err := x.s.dial(ctx)
	if err != nil {
		x.Fail("S3", "check host, port, user, password and that it is the primary; `mysql` with the same settings says the same", "%v", openError(err))
		return
	}
	x.c = c
	defer c.Close()
	x.OK("S3", "the server takes writes")
	if x.schema = x.s.o.Schema; x.schema == "" {
		x.schema = database
	}
	x.s.table = identifier(x.schema) + ".outrelay_offsets"
	there := x.tables(ctx)
	x.statements(ctx, database, there)
	x.OK("S4", "results and offsets go to one server in one transaction")
	x.settings(ctx)
	x.Skip("S7", "no deduplication is configured")
	x.triggers(ctx, there)
}

// tables is S1.
func (x *examination) tables(ctx context.Context) bool {
	version, err := schemaVersion(ctx, x.c, x.schema)
	switch {
	case err != nil:
		x.Fail("S1", "run the version of outrelay that made them, or a newer one", "outrelay's tables: %v", err)
	case version == SchemaVersion:
		x.OK("S1", "outrelay_offsets is there, version %d", version)
		return true
	default:
		x.OK("S1", "outrelay_offsets is not there yet; it is created at the first start, if the account may")
	}
	return false
}

// statements is S2: privileges and engines, by what the server says of the statements that will run.
func (x *examination) statements(ctx context.Context, database string, there bool) {
	err := x.s.checkHandlers(ctx, x.c)
	if err != nil {
		x.Fail("S2", "correct the statement, create what it names, or grant what it needs", "%v", err)
	}
	if there {
		if err := x.s.checkEngines(ctx, x.c, database); err != nil {
			x.Fail("S2", "alter table … engine = InnoDB", "%v", err)
			return
		}
		for _, sql := range []string{"select 1 from " + x.s.table + " limit 0", "update " + x.s.table + " set epoch = epoch where false", "delete from " + x.s.table + " where false"} {
			_, err := x.c.query(ctx, "start transaction;"+sql+";rollback")
			var e *mysql.MySQLError
			if errors.As(err, &e) {
				_, _ = x.c.rollback()
				x.Fail("S2", "grant select, insert, update, delete on "+x.s.table+" to the account", "%v", serverText(e))
				return
			}
		}
	}
	if err == nil {
		x.OK("S2", "the server takes the %d statements of the handlers", len(x.s.handlers.Statements))
	}
}

// settings is S5 and S6.
func (x *examination) settings(ctx context.Context) {
	x.OK("S5", "sessions are set to read committed and strict mode")
	rows, err := x.c.query(ctx, "select @@innodb_flush_log_at_trx_commit, @@sync_binlog, @@log_bin")
	switch {
	case err != nil:
		x.Skip("S6", "%v", err)
	case string(rows[0][0]) != "1":
		x.Warn("S6", "set persist innodb_flush_log_at_trx_commit = 1 (MariaDB: set global, and in its file)", "innodb_flush_log_at_trx_commit is %s: a crash of the server takes back results and offsets together; they are applied again", rows[0][0])
	case isOn(rows[0][2]) && string(rows[0][1]) != "1":
		x.Warn("S6", "set persist sync_binlog = 1 (MariaDB: set global, and in its file)", "sync_binlog is %s: after a crash replicas of this server may lack results that it has", rows[0][1])
	default:
		x.OK("S6", "commits are on disk when they are answered")
	}
}

// triggers is S8.
func (x *examination) triggers(ctx context.Context, there bool) {
	if there {
		rows, err := x.c.query(ctx, "select trigger_name from information_schema.triggers where event_object_schema = "+quote(x.schema)+" and event_object_table = 'outrelay_offsets'")
		if err == nil && len(rows) > 0 {
			var names []string
			for _, r := range rows {
				names = append(names, string(r[0]))
			}
			x.Warn("S8", "drop them", "triggers on outrelay_offsets run with every move of an offset: %s", strings.Join(names, ", "))
			return
		}
	}
	x.OK("S8", "no trigger runs with the offsets")
}
