package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/mysql"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

// outbox creates the table and a source, and publishes one row: the position after it is returned, and the stream closed.
func (d *database) outbox(t *testing.T, change func(*mysql.Options)) (*mysql.Source, outrelay.Position) {
	t.Helper()
	table := d.CreateOutbox(t, "outbox")
	s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{table}}, change)
	pos, err := s.Init(ctxOf(t))
	must(t, err)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	pos = d.publish(t, st, "first")
	must(t, st.Close())
	return s, pos
}

func asItIs(*mysql.Options) {}

// publish inserts a row, reads it and confirms it.
func (d *database) publish(t *testing.T, st sources.Stream, id string) outrelay.Position {
	t.Helper()
	d.exec(t, fmt.Sprintf("INSERT INTO outbox VALUES ('%s', 'k', 1, 'p')", id))
	txn := nextEvents(t, st)
	if v, _ := txn.Events[0].Get("id"); string(v) != id {
		t.Fatalf("read %s, want %s", v, id)
	}
	must(t, st.Confirm(context.Background(), txn.Position))
	return txn.Position
}

// nextEvents returns the next transaction or part that has events.
func nextEvents(t *testing.T, st sources.Stream) outrelay.Txn {
	t.Helper()
	for ctx := ctxOf(t); ; {
		txn, err := st.Next(ctx)
		must(t, err)
		if len(txn.Events) > 0 {
			return txn
		}
	}
}

// nextError returns what ends the stream.
func nextError(t *testing.T, st sources.Stream) error {
	t.Helper()
	for ctx := ctxOf(t); ; {
		if txn, err := st.Next(ctx); err != nil {
			return err
		} else if len(txn.Events) > 0 {
			t.Fatalf("got events %s after %s, want an error", txn.Events[0].Values, txn.Place)
		}
	}
}

// hasLog reports whether the server still has that file of its binlog.
func (d *database) hasLog(t *testing.T, file string) bool {
	t.Helper()
	rows, err := d.my.Connect(t, "").QueryContext(ctxOf(t), "SHOW BINARY LOGS")
	must(t, err)
	defer rows.Close()
	names, err := rows.Columns()
	must(t, err)
	for rows.Next() {
		values := make([]any, len(names))
		for i := range values {
			values[i] = new(sql.RawBytes)
		}
		must(t, rows.Scan(values...))
		if string(*values[0].(*sql.RawBytes)) == file {
			return true
		}
	}
	return false
}

// TestOpen_purged (C39) purges what was not read: the halt names the transactions.
func TestOpen_purged(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		s, pos := d.outbox(t, func(o *mysql.Options) { o.HeartbeatInterval = 20 * time.Millisecond })
		gap := ""
		if flavor == testenv.MariaDBServer {
			gap = "after " + d.value(t, "SELECT @@gtid_binlog_pos") + " up to 0-1-"
		}
		d.exec(t, "INSERT INTO outbox VALUES ('unread', 'k', 1, 'p')", "FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
		if flavor == testenv.MySQLServer {
			n := d.value(t, "SELECT SUBSTRING_INDEX(@@GLOBAL.gtid_executed, '-', -1)")
			gap = "transactions " + d.value(t, "SELECT @@GLOBAL.server_uuid") + ":" + n + " from its binlog"
		}
		d.exec(t, "INSERT INTO outbox VALUES ('later', 'k', 1, 'p')", "PURGE BINARY LOGS TO 'binlog.000003'")
		for d.hasLog(t, "binlog.000001") { // the server keeps it until it finds that the stream is closed
			d.exec(t, "PURGE BINARY LOGS TO 'binlog.000003'")
		}
		_, err := s.Open(ctxOf(t), pos)
		wantError(t, err, outrelay.ErrPositionLost, "binlog-purged", gap, "source repair shop")
	})
}

// TestOpen_reset (C41) resets the binlog and lets as much, or more, be written again as was published: neither is taken for what was.
func TestOpen_reset(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		s, pos := d.outbox(t, asItIs)
		reset := "RESET BINARY LOGS AND GTIDS"
		if flavor == testenv.MariaDBServer {
			reset = "RESET MASTER"
		}
		d.exec(t, reset)
		_, err := s.Open(ctxOf(t), pos)
		wantError(t, err, outrelay.ErrPositionLost, "server-behind", "were published and are not there any more", "source repair shop")
		for i := range 20 {
			d.exec(t, fmt.Sprintf("INSERT INTO outbox VALUES ('again%d', 'k', 1, 'p')", i))
		}
		st, err := s.Open(ctxOf(t), pos)
		if err == nil { // MySQL shows it when it sends the transaction again
			defer st.Close()
			err = nextError(t, st)
		}
		wantError(t, err, outrelay.ErrPositionLost, "history-rewritten", "its binlog was reset", "source repair shop")
	})
}

// TestOpen_refusesServers asks servers that are set up wrongly: each refusal names the setting and how to mend it.
func TestOpen_refusesServers(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		s, pos := d.outbox(t, asItIs)
		for _, tt := range []struct{ variable, wrong, code string }{
			{"binlog_format", "STATEMENT", "binlog-format"},
			{"binlog_row_image", "MINIMAL", "row-image"},
			{"binlog_row_metadata", "MINIMAL", "row-metadata"},
			{"gtid_mode", "ON_PERMISSIVE", "gtid-mode"},
		} {
			if tt.code == "gtid-mode" && flavor == testenv.MariaDBServer {
				continue // its transactions always have ids
			}
			d.exec(t, "SET GLOBAL "+tt.variable+" = '"+tt.wrong+"'")
			_, err := s.Open(ctxOf(t), pos)
			wantError(t, err, outrelay.ErrEnvironment, tt.code, tt.variable, tt.wrong)
			_, err = s.PrepareInit(ctxOf(t))
			wantError(t, err, outrelay.ErrEnvironment, tt.code)
			d.exec(t, "SET GLOBAL "+tt.variable+" = DEFAULT")
			if tt.variable == "binlog_row_metadata" {
				d.exec(t, "SET GLOBAL "+tt.variable+" = FULL")
			}
			if tt.variable == "binlog_format" {
				d.exec(t, "SET GLOBAL "+tt.variable+" = ROW")
			}
		}
		other := map[testenv.MySQLFlavor]mysql.Flavor{testenv.MariaDBServer: mysql.MySQL, testenv.MySQLServer: mysql.MariaDB}[flavor]
		wrong := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, func(o *mysql.Options) { o.Flavor = other })
		_, err := wrong.PrepareInit(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "server-flavor", "write `"+string(flavor)+":`")
		_, err = wrong.Open(ctxOf(t), pos)
		wantError(t, err, outrelay.ErrDataHalt, "position-foreign", string(flavor))
		d.exec(t, "CREATE TABLE my (id int) ENGINE = MyISAM", "CREATE VIEW v AS SELECT * FROM outbox")
		for table, code := range map[string]string{"my": "table-engine", "v": "table-missing", "nowhere.outbox": "table-missing"} {
			_, err := d.source(t, sourcetest.Options{Name: "other", Tables: []string{table}}, asItIs).PrepareInit(ctxOf(t))
			wantError(t, err, outrelay.ErrEnvironment, code, table)
		}
	})
	t.Run("without a binlog", func(t *testing.T) {
		t.Parallel()
		d := newDBOn(t, testenv.StartMariaDB(t, testenv.MySQLOptions{NoFsync: true, Config: map[string]string{"log-bin": "", "skip-log-bin": ""}}))
		d.CreateOutbox(t, "outbox")
		_, err := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, asItIs).PrepareInit(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "binlog-off", "log_bin")
	})
}

// TestStream_haltsOnSessions: what a session can do to its part of the binlog halts by name, and only for outbox tables.
func TestStream_haltsOnSessions(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		insert := func(table string) string { return "INSERT INTO " + table + " (id) VALUES ('x')" }
		for name, tt := range map[string]struct {
			sql  func(table string) []string
			code string
			says string
		}{
			"statement format": {func(table string) []string { return []string{"SET SESSION binlog_format = STATEMENT", insert(table)} }, "statement-format", "binlog_format"},
			"minimal image":    {func(table string) []string { return []string{"SET SESSION binlog_row_image = MINIMAL", insert(table)} }, "row-image", "binlog_row_image"},
			"xa": {func(table string) []string {
				return []string{"XA START 'x'", insert(table), "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'"}
			}, "xa", "XA transaction"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d := newDB(t, flavor)
				d.CreateOutbox(t, "harmless")
				s, pos := d.outbox(t, asItIs)
				st, err := s.Open(ctxOf(t), pos)
				must(t, err)
				defer st.Close()
				a := d.Session(t)
				for _, sql := range tt.sql("harmless") {
					a.Exec(t, sql)
				}
				d.publish(t, st, "second")
				b := d.Session(t)
				for _, sql := range tt.sql("outbox") {
					b.Exec(t, sql)
				}
				wantError(t, nextError(t, st), outrelay.ErrDataHalt, tt.code, "outbox", tt.says, "source repair shop")
			})
		}
	})
}

// TestStream_metadataMissing reads a part of the binlog that was written without the names of columns.
func TestStream_metadataMissing(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		s, pos := d.outbox(t, asItIs)
		d.exec(t, "SET GLOBAL binlog_row_metadata = MINIMAL", "INSERT INTO outbox VALUES ('x', 'k', 1, 'p')", "SET GLOBAL binlog_row_metadata = FULL")
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		wantError(t, nextError(t, st), outrelay.ErrDataHalt, "row-metadata", "binlog_row_metadata", "source repair shop")
	})
}

// TestOpen_replaced opens the source twice, as a relay does that has fenced the one before it: the server ends the older stream.
func TestOpen_replaced(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		d := newDB(t, flavor)
		s, pos := d.outbox(t, asItIs)
		older, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer older.Close()
		d.publish(t, older, "second") // it is being served
		newer, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer newer.Close()
		if txn := nextEvents(t, newer); string(txn.Events[0].Values[0]) != "second" {
			t.Errorf("%+v", txn)
		}
		if err := nextError(t, older); !errors.Is(err, outrelay.ErrTransient) {
			t.Errorf("the older stream: %v", err)
		}
		d.publish(t, newer, "third")
	})
}

// TestOpen_serverIDTaken names the number that another has.
func TestOpen_serverIDTaken(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		d := newDB(t, flavor)
		_, pos := d.outbox(t, asItIs)
		own := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, func(o *mysql.Options) { o.ServerID = 1 })
		_, err := own.Open(ctxOf(t), pos)
		wantError(t, err, outrelay.ErrEnvironment, "server-id-taken", "server id 1", "the server itself", "server_id")
		first := d.source(t, sourcetest.Options{Name: "first", Tables: []string{"outbox"}}, func(o *mysql.Options) { o.ServerID = 77 })
		pos.Source = "first"
		st, err := first.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		d.publish(t, st, "second")
		second := d.source(t, sourcetest.Options{Name: "second", Tables: []string{"outbox"}}, func(o *mysql.Options) { o.ServerID = 77 })
		pos.Source = "second"
		_, err = second.Open(ctxOf(t), pos)
		wantError(t, err, outrelay.ErrEnvironment, "server-id-taken", "server id 77", `"outrelay first"`)
		chosen := d.source(t, sourcetest.Options{Name: "second", Tables: []string{"outbox"}}, func(o *mysql.Options) { o.ServerID = 0; o.Owner = func() string { return d.name } })
		st2, err := chosen.Open(ctxOf(t), pos)
		must(t, err)
		defer st2.Close()
		d.publish(t, st, "third")
	})
}

// TestInit_readOnly: a source begins on the primary.
func TestInit_readOnly(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		d.CreateOutbox(t, "outbox")
		s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, func(o *mysql.Options) {
			o.ConnString = func(context.Context) (string, error) { return d.my.DSNAs(d.name, "app", "pw"), nil }
		})
		_, err := s.PrepareInit(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "login-refused", "app")
		d.exec(t, "CREATE USER app IDENTIFIED BY 'pw'")
		_, err = s.PrepareInit(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "database-missing", d.name)
		d.exec(t, "GRANT SELECT ON "+d.name+".* TO app")
		_, err = s.PrepareInit(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "missing-privilege", "GRANT SELECT, INSERT, CREATE ON <database>.outrelay_sources")
		d.exec(t, "GRANT SELECT, INSERT, CREATE ON "+d.name+".outrelay_sources TO app")
		_, err = s.Init(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "missing-privilege", "REPLICATION SLAVE")
		monitor := "REPLICATION CLIENT"
		if flavor == testenv.MariaDBServer {
			monitor = "BINLOG MONITOR"
		}
		d.exec(t, "GRANT "+monitor+" ON *.* TO app", "SET GLOBAL read_only = 1")
		_, err = s.Init(ctxOf(t))
		wantError(t, err, outrelay.ErrEnvironment, "server-read-only", "primary")
		d.exec(t, "SET GLOBAL read_only = 0")
		pos, err := s.Init(ctxOf(t))
		must(t, err)
		if st, err := s.Open(ctxOf(t), pos); err == nil { // the server says so when it is asked for the binlog
			err = nextError(t, st)
			must(t, st.Close())
			wantError(t, err, outrelay.ErrEnvironment, "missing-privilege", "REPLICATION SLAVE")
		} else {
			wantError(t, err, outrelay.ErrEnvironment, "missing-privilege", "REPLICATION SLAVE")
		}
		d.exec(t, "GRANT REPLICATION SLAVE ON *.* TO app")
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		d.publish(t, st, "first")
		if _, err := s.Status(ctxOf(t), pos); err != nil {
			t.Error(err)
		}
	})
}

// TestStream_outOfOrder gives a number of MariaDB again: the position cannot tell such a transaction from one that was read.
func TestStream_outOfOrder(t *testing.T) {
	t.Parallel()
	d := newDBOn(t, testenv.StartMariaDB(t, testenv.MySQLOptions{NoFsync: true}))
	s, pos := d.outbox(t, asItIs)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	d.publish(t, st, "second") // it is being served: when it is asked for the binlog, the server itself refuses such a place
	a := d.Session(t)
	a.Exec(t, "SET SESSION gtid_seq_no = 2")
	a.Exec(t, "INSERT INTO outbox VALUES ('again', 'k', 1, 'p')")
	wantError(t, nextError(t, st), outrelay.ErrDataHalt, "gtid-out-of-order", "0-1-2", "gtid_strict_mode", "source repair shop")
}
