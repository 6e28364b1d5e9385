package mysql_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/doctor/doctortest"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/mysql"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

var outboxColumns = map[string][]string{"outbox": {"id", "k", "payload"}}

func at(p outrelay.Position) func(context.Context) outrelay.Position {
	return func(context.Context) outrelay.Position { return p }
}

// TestExamine_right: a server that is set up as it should be has nothing to mend.
func TestExamine_right(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		o := testenv.MySQLOptions{Flavor: flavor, Config: map[string]string{"sync-binlog": "1", "innodb-flush-log-at-trx-commit": "1"}}
		monitor := "REPLICATION CLIENT"
		if flavor == testenv.MariaDBServer {
			o.Config["gtid-strict-mode"] = "ON"
			monitor = "BINLOG MONITOR, REPLICATION MASTER ADMIN, SLAVE MONITOR"
		}
		d := newDBOn(t, testenv.StartMySQL(t, o))
		d.CreateOutbox(t, "outbox")
		d.exec(t, "ALTER TABLE outbox CONVERT TO CHARACTER SET utf8mb4", "CREATE USER relay IDENTIFIED BY 's3cret'", "GRANT REPLICATION SLAVE, "+monitor+" ON *.* TO relay", "GRANT SELECT, INSERT, CREATE ON "+d.name+".* TO relay")
		s := d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, func(o *mysql.Options) {
			o.ConnString = func(context.Context) (string, error) { return d.my.DSNAs(d.name, "relay", "s3cret"), nil }
		})
		pos, err := s.Init(ctxOf(t))
		must(t, err)
		fs := s.Examine(ctxOf(t), at(pos), outboxColumns)
		for _, f := range fs {
			if f.Severity != doctor.OK && f.ID != "M8" {
				t.Errorf("%+v", f)
			}
			if strings.Contains(f.Text+f.Fix, "s3cret") {
				t.Errorf("a secret in %+v", f)
			}
		}
		for n := range 20 {
			doctortest.WantMade(t, fs, fmt.Sprint("M", n+1))
		}
	})
}

// TestExamine_wrong plants what an administrator gets wrong.
func TestExamine_wrong(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true, Config: map[string]string{"binlog-ignore-db": "elsewhere"}}))
		s, pos := d.outbox(t, asItIs)
		d.exec(t, "SET GLOBAL binlog_format = 'STATEMENT'", "SET GLOBAL binlog_row_image = 'MINIMAL'", "SET GLOBAL binlog_row_metadata = 'MINIMAL'", "SET GLOBAL binlog_expire_logs_seconds = 3600",
			"SET GLOBAL max_allowed_packet = 1048576", "CREATE TABLE memory (id varchar(10)) ENGINE = MyISAM CHARACTER SET latin1", "CREATE TABLE keyless (id varchar(10), k int, payload text) CHARACTER SET latin1", "CREATE USER plain")
		d.exec(t, "GRANT SELECT ON "+d.name+".* TO plain")
		reset := "RESET BINARY LOGS AND GTIDS"
		if flavor == testenv.MariaDBServer {
			reset = "RESET MASTER"
		}
		d.exec(t, reset)
		tables := []string{"outbox", "memory", "keyless", "absent"}
		wrong := d.source(t, sourcetest.Options{Name: "wrong", Tables: tables}, asItIs)
		fs := wrong.Examine(ctxOf(t), at(outrelay.Position{}), map[string][]string{"memory": {"id", "payload"}})
		for id, want := range map[string][]string{
			"M2":  {"error", "binlog_format is \"STATEMENT\"", "binlog_format = ROW"},
			"M3":  {"error", "binlog_row_image is \"MINIMAL\"", "binlog_row_image = FULL"},
			"M4":  {"error", "binlog_row_metadata is \"MINIMAL\"", "binlog_row_metadata = FULL"},
			"M6":  {"warning", "kept for 1h0m0s", "binlog_expire_logs_seconds"},
			"M11": {"warning", "may do everything"},
			"M13": {"warning", "sync_binlog is 0", "innodb_flush_log_at_trx_commit is 2"},
			"M14": {"table memory: its engine is MyISAM", "ENGINE = InnoDB", "table keyless: it has no primary key", "table absent: there is no such table", "columns payload are missing"},
			"M15": {"warning", "max_allowed_packet is 1048576"},
			"M18": {"warning", "table memory: its character set is that of latin1"},
			"M20": {"warning", "binlog_ignore_db: elsewhere"},
		} {
			doctortest.Want(t, fs, id, want...)
		}
		doctortest.Want(t, s.Examine(ctxOf(t), at(pos), nil), "M9", "error", "[server-behind]", "source repair shop")

		plain := d.source(t, sourcetest.Options{Name: "plain", Tables: tables}, func(o *mysql.Options) {
			o.ConnString = func(context.Context) (string, error) { return d.my.DSNAs(d.name, "plain", ""), nil }
		})
		doctortest.Want(t, plain.Examine(ctxOf(t), at(outrelay.Position{}), nil), "M11", "error", "may not replicate", "GRANT REPLICATION SLAVE")
		nobody := d.source(t, sourcetest.Options{Name: "nobody", Tables: tables}, func(o *mysql.Options) {
			o.ConnString = func(context.Context) (string, error) {
				return testenv.MySQLDSN(flavor, "127.0.0.1:1", "d", "u", "s3cret"), nil
			}
		})
		fs = nobody.Examine(ctxOf(t), at(outrelay.Position{}), nil)
		if doctortest.Want(t, fs, "M19", "error", "refused"); len(fs) != 1 || strings.Contains(fs[0].Text, "s3cret") {
			t.Errorf("%+v", fs)
		}
	})
}
