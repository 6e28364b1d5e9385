package mysql_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/mysql"
)

// TestOpen_failover (C40) moves to a replica: it goes on where the first server was, within a transaction too; and a replica that lacks what was published is refused by the
// ids that are missing.
func TestOpen_failover(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		o := testenv.MySQLOptions{Flavor: flavor, NoFsync: true, Config: map[string]string{"log-slave-updates": "ON"}}
		if flavor == testenv.MySQLServer {
			o.Config = nil // it is the default
		}
		first := testenv.StartMySQL(t, o)
		o.Config = map[string]string{"server-id": "2", "log-bin": "other-name"}
		if flavor == testenv.MariaDBServer {
			o.Config["log-slave-updates"] = "ON"
		}
		second := testenv.StartMySQL(t, o)
		replicate(t, flavor, second, first)

		d := newDBOn(t, first)
		at := first
		s, pos := d.outbox(t, func(o *mysql.Options) {
			o.MaxPartBytes = 10_000
			o.ConnString = func(context.Context) (string, error) { return at.DSN(d.name), nil }
		})
		d.Fill(t, "outbox", 100, 1000)
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		part := nextEvents(t, st)
		must(t, st.Close())
		if part.Last || len(part.Events) == 0 {
			t.Fatalf("%d events, last %v", len(part.Events), part.Last)
		}
		caughtUp(t, flavor, second, first)

		at = second
		st, err = s.Open(ctxOf(t), part.Position)
		must(t, err)
		next := nextEvents(t, st)
		if got, want := next.Events[0].Ordinal, len(part.Events); got != want {
			t.Errorf("goes on at event %d, want %d", got, want)
		}
		for !next.Last {
			next = nextEvents(t, st)
		}
		must(t, st.Close())
		for _, p := range []outrelay.Position{pos, next.Position} { // from before the failover, and from after
			st, err = s.Open(ctxOf(t), p)
			must(t, err)
			must(t, st.Close())
		}

		at = first
		st, err = s.Open(ctxOf(t), next.Position)
		must(t, err)
		second.Exec(t, "", map[testenv.MySQLFlavor]string{testenv.MariaDBServer: "STOP SLAVE", testenv.MySQLServer: "STOP REPLICA"}[flavor])
		ahead := d.publish(t, st, "phantom")
		must(t, st.Close())
		at = second
		_, err = s.Open(ctxOf(t), ahead)
		wantError(t, err, outrelay.ErrPositionLost, "server-behind", "were published and are not there any more", "source repair shop")
	})
}

// replicate makes a server the replica of another.
func replicate(t *testing.T, flavor testenv.MySQLFlavor, replica, primary *testenv.MySQL) {
	t.Helper()
	host, port, err := net.SplitHostPort(primary.Addr())
	must(t, err)
	primary.Exec(t, "", "CREATE USER repl IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO repl")
	if flavor == testenv.MariaDBServer {
		replica.Exec(t, "", fmt.Sprintf("CHANGE MASTER TO MASTER_HOST = '%s', MASTER_PORT = %s, MASTER_USER = 'repl', MASTER_PASSWORD = 'pw', MASTER_USE_GTID = slave_pos; START SLAVE", host, port))
		return
	}
	replica.Exec(t, "", fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '%s', SOURCE_PORT = %s, SOURCE_USER = 'repl', SOURCE_PASSWORD = 'pw', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA", host, port))
}

// caughtUp waits until a replica has everything.
func caughtUp(t *testing.T, flavor testenv.MySQLFlavor, replica, primary *testenv.MySQL) {
	t.Helper()
	if flavor == testenv.MariaDBServer {
		if got := replica.Value(t, "", "SELECT MASTER_GTID_WAIT('"+primary.Value(t, "", "SELECT @@gtid_binlog_pos")+"', 60)"); got != "0" {
			t.Fatalf("the replica did not catch up: %s", got)
		}
		return
	}
	if got := replica.Value(t, "", "SELECT WAIT_FOR_EXECUTED_GTID_SET('"+primary.Value(t, "", "SELECT @@GLOBAL.gtid_executed")+"', 60)"); got != "0" {
		t.Fatalf("the replica did not catch up: %s", got)
	}
}
