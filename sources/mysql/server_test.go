package mysql_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/mysql"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

// idsOf returns the first column of all events.
func idsOf(txns ...outrelay.Txn) (ids []string) {
	for _, txn := range txns {
		for i := range txn.Events {
			ids = append(ids, string(txn.Events[i].Values[0]))
		}
	}
	return ids
}

func wantIDs(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("events %v, want %v", got, want)
	}
}

// TestStream_cutAnywhere cuts the connection at growing numbers of bytes, and goes on at the position that was reached, within a transaction too.
func TestStream_cutAnywhere(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		const rows = 2000
		d := newDB(t, flavor)
		proxy := testenv.StartProxy(t, d.my.Addr())
		s, pos := d.outbox(t, func(o *mysql.Options) {
			o.ConnString = func(context.Context) (string, error) {
				return testenv.MySQLDSN(flavor, proxy.Addr(), d.name, "root", ""), nil
			}
			o.MaxPartBytes = 30_000
		})
		d.exec(t, "TRUNCATE TABLE outbox")
		d.Fill(t, "outbox", rows, 1000)
		seen, cuts := 0, 0
		for seen < rows {
			proxy.CutAfterBytes(testenv.ToClient, int64(cuts+1)*400_000) // the server sends the transaction again from its beginning
			st, err := s.Open(ctxOf(t), pos)
			must(t, err)
			for seen < rows {
				txn, err := st.Next(ctxOf(t))
				if err != nil {
					if !errors.Is(err, outrelay.ErrTransient) {
						t.Fatal(err)
					}
					cuts++
					break
				}
				for i := range txn.Events {
					if v, _ := txn.Events[i].Get("seq"); string(v) != strconv.Itoa(seen+1) {
						t.Fatalf("row %s after %d", v, seen)
					}
					seen++
				}
				pos = txn.Position
				must(t, st.Confirm(context.Background(), pos))
			}
			must(t, st.Close())
		}
		if cuts == 0 {
			t.Error("nothing was cut")
		}
	})
}

// TestStream_killed kills the server again and again while rows are being committed, and expects every row that is in the table then, once.
func TestStream_killed(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		longForm(t, flavor)
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor}))
		s, pos := d.outbox(t, func(o *mysql.Options) { o.MaxPartBytes = 1000 })
		var got []string
		for round := range 2 {
			st, err := s.Open(ctxOf(t), pos)
			must(t, err)
			wrote := make(chan struct{})
			c := d.my.Connect(t, d.name)
			go func() { // ends when the server dies
				defer close(wrote)
				for i := 0; ; i++ {
					q := fmt.Sprintf("INSERT INTO outbox SELECT concat('%d-%d-', n), 'k', n, repeat('x', 200) FROM %s", round, i, numbers(20))
					if _, err := c.ExecContext(context.Background(), q); err != nil {
						return
					}
				}
			}()
			for len(got) < 100*(round+1) {
				txn, err := st.Next(ctxOf(t))
				must(t, err)
				got, pos = append(got, idsOf(txn)...), txn.Position
			}
			must(t, d.my.Kill9())
			<-wrote
			for { // what had arrived
				txn, err := st.Next(ctxOf(t))
				if err != nil {
					if !errors.Is(err, outrelay.ErrTransient) {
						t.Fatal(err)
					}
					break
				}
				got, pos = append(got, idsOf(txn)...), txn.Position
			}
			must(t, st.Close())
			must(t, d.my.Start())
		}
		n, err := strconv.Atoi(d.value(t, "SELECT count(*) - 1 FROM outbox")) // the first was read before
		must(t, err)
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		for len(got) < n {
			got = append(got, idsOf(nextEvents(t, st))...)
		}
		once := map[string]bool{}
		for _, id := range got {
			if once[id] {
				t.Fatalf("%s came twice", id)
			}
			once[id] = true
		}
		if len(once) != n {
			t.Errorf("%d events, %d rows", len(once), n)
		}
		d.publish(t, st, "last")
	})
}

// TestStream_compressed reads what the server compresses: transactions as a whole (MySQL), rows and statements (MariaDB).
func TestStream_compressed(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		on := "SET SESSION binlog_transaction_compression = ON"
		if flavor == testenv.MariaDBServer {
			on = "SET GLOBAL log_bin_compress = ON, GLOBAL log_bin_compress_min_len = 10"
		}
		d := newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true}))
		s, pos := d.outbox(t, func(o *mysql.Options) { o.MaxPartBytes = 50_000 })
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		a := d.Session(t)
		for _, sql := range []string{on, "CREATE TABLE other AS SELECT repeat('x', 1000) AS b", "BEGIN", "INSERT INTO other VALUES (repeat('y', 1000))", "INSERT INTO outbox VALUES ('a', 'k', 1, repeat('z', 1000))",
			"UPDATE outbox SET k = 'l'", "DELETE FROM outbox WHERE id = 'first'", "INSERT INTO outbox VALUES ('b', 'k', 1, '')", "COMMIT",
			"INSERT INTO outbox SELECT n, 'k', n, repeat('x', 1000) FROM " + numbers(1000) + " ORDER BY n"} {
			a.Exec(t, sql)
		}
		txn := nextEvents(t, st)
		wantIDs(t, idsOf(txn), "a", "b")
		if v, _ := txn.Events[0].Get("payload"); string(v) != strings.Repeat("z", 1000) {
			t.Errorf("payload %q", v)
		}
		for n, parts := 0, 0; n < 1000; parts++ {
			txn := nextEvents(t, st)
			if n += len(txn.Events); txn.Part != parts || txn.Last != (n == 1000) {
				t.Fatalf("part %d with %d events, last %v", txn.Part, len(txn.Events), txn.Last)
			}
			pos = txn.Position
			if parts == 3 { // goes on within
				must(t, st.Close())
				st, err = s.Open(ctxOf(t), pos)
				must(t, err)
				parts = -1
			}
		}
		d.publish(t, st, "last")
		status, err := s.Status(ctxOf(t), pos)
		must(t, err)
		if got := status.Ignored; got["UPDATE "+d.name+".outbox"] != 2 || got["DELETE "+d.name+".outbox"] != 1 {
			t.Errorf("ignored %v", got)
		}
	})
}

// TestStream_mixedEngines rolls back rows in a transaction that a table without transactions keeps in the binlog. MySQL refuses it where its transactions have ids.
func TestStream_mixedEngines(t *testing.T) {
	t.Parallel()
	d := newDB(t, testenv.MariaDBServer)
	d.exec(t, "CREATE TABLE my (id int) ENGINE = MyISAM")
	s, pos := d.outbox(t, asItIs)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	a := d.Session(t)
	row := func(id string) string { return "INSERT INTO outbox VALUES ('" + id + "', 'k', 1, 'p')" }
	for _, sql := range []string{
		"BEGIN", row("a"), "SAVEPOINT s", row("x1"), "INSERT INTO my VALUES (1)", row("x2"), "ROLLBACK TO SAVEPOINT s", row("b"), "COMMIT",
		"BEGIN", row("x3"), "INSERT INTO my VALUES (1)", "ROLLBACK",
	} {
		a.Exec(t, sql)
	}
	wantIDs(t, idsOf(nextEvents(t, st)), "a", "b")
	d.publish(t, st, "last")
}

// TestStream_taggedIDs mixes ids with tags and without, and opens after each.
func TestStream_taggedIDs(t *testing.T) {
	t.Parallel()
	if !testenv.MySQLInstalled() {
		t.Skip("no MySQL here: scripts/install-deps mysql")
	}
	d := newDB(t, testenv.MySQLServer)
	s, pos := d.outbox(t, asItIs)
	a := d.Session(t)
	for i, next := range []string{"AUTOMATIC", "AUTOMATIC:blue", "AUTOMATIC", "AUTOMATIC:red", "AUTOMATIC:blue"} {
		a.Exec(t, "SET gtid_next = '"+next+"'")
		a.Exec(t, fmt.Sprintf("INSERT INTO outbox VALUES ('%d', 'k', 1, 'p')", i))
		a.Exec(t, "SET gtid_next = 'AUTOMATIC'")
	}
	for i := range 5 {
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		txn := nextEvents(t, st)
		wantIDs(t, idsOf(txn), strconv.Itoa(i))
		pos = txn.Position
		must(t, st.Close())
	}
	if !strings.Contains(pos.Token, ":blue:1-") || !strings.Contains(pos.Token, ":red:1") {
		t.Error(pos.Token)
	}
}

// TestStream_partialJSON: an update of a part of a document is an update.
func TestStream_partialJSON(t *testing.T) {
	t.Parallel()
	if !testenv.MySQLInstalled() {
		t.Skip("no MySQL here: scripts/install-deps mysql")
	}
	d := newDB(t, testenv.MySQLServer)
	s, pos := d.outbox(t, asItIs)
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	a := d.Session(t)
	for _, sql := range []string{"SET SESSION binlog_row_value_options = PARTIAL_JSON", "ALTER TABLE outbox MODIFY payload json",
		`INSERT INTO outbox VALUES ('a', 'k', 1, concat('{"a": 1, "b": "', repeat('x', 1000), '"}'))`, "UPDATE outbox SET payload = json_set(payload, '$.a', 2) WHERE id = 'a'"} {
		if strings.HasPrefix(sql, "ALTER") {
			d.exec(t, "UPDATE outbox SET payload = '{}'")
		}
		a.Exec(t, sql)
	}
	wantIDs(t, idsOf(nextEvents(t, st)), "a")
	d.exec(t, `INSERT INTO outbox VALUES ('b', 'k', 1, '{}')`)
	wantIDs(t, idsOf(nextEvents(t, st)), "b")
	status, err := s.Status(ctxOf(t), pos)
	must(t, err)
	if status.Ignored["UPDATE "+d.name+".outbox"] != 2 {
		t.Errorf("ignored %v", status.Ignored)
	}
}

// TestStream_names takes names as they are written.
func TestStream_names(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		d := newDB(t, flavor)
		d.exec(t, "CREATE TABLE `out``.box'ü` (`i\"d` int PRIMARY KEY)", "CREATE TABLE x (id int)")
		s := d.source(t, sourcetest.Options{Name: "shop 'ü`", Tables: []string{"`out``.box'ü`"}}, asItIs)
		pos, err := s.Init(ctxOf(t))
		must(t, err)
		st, err := s.Open(ctxOf(t), pos)
		must(t, err)
		defer st.Close()
		d.exec(t, "INSERT INTO x VALUES (1)", "INSERT INTO `out``.box'ü` VALUES (7)", "TRUNCATE `out``.box'ü`")
		txn := nextEvents(t, st)
		if e := txn.Events[0]; e.Schema.Table != "`out``.box'ü`" || e.Schema.Columns[0] != `i"d` || string(e.Values[0]) != "7" {
			t.Errorf("%+v", e)
		}
		d.exec(t, "INSERT INTO `out``.box'ü` VALUES (8)")
		nextEvents(t, st)
		status, err := s.Status(ctxOf(t), pos)
		must(t, err)
		if status.Ignored["TRUNCATE `out``.box'ü`"] != 1 {
			t.Errorf("ignored %v", status.Ignored)
		}
	})
}

// TestStream_encrypted connects by TLS, with a password.
func TestStream_encrypted(t *testing.T) {
	t.Parallel()
	if !testenv.MySQLInstalled() {
		t.Skip("no MySQL here, which makes a certificate of its own: scripts/install-deps mysql")
	}
	d := newDB(t, testenv.MySQLServer)
	d.exec(t, "CREATE USER secure_"+d.name+" IDENTIFIED BY 'p@ss' REQUIRE SSL", "GRANT ALL ON *.* TO secure_"+d.name)
	mode := "REQUIRED"
	s, pos := d.outbox(t, func(o *mysql.Options) {
		o.ConnString = func(context.Context) (string, error) {
			dsn := d.my.DSNAs(d.name, "secure_"+d.name, "p@ss")
			return strings.Replace(dsn, "ssl-mode=DISABLED", "ssl-mode="+mode, 1), nil
		}
	})
	mode = "VERIFY_IDENTITY"
	_, err := s.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrEnvironment, "tls", "ssl-ca=")
	mode = "DISABLED"
	_, err = s.Open(ctxOf(t), pos)
	wantError(t, err, outrelay.ErrEnvironment, "login-refused")
}

// TestMetrics counts what came and what was ignored.
func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	d := newDB(t, testenv.MariaDBServer)
	s, pos := d.outbox(t, func(o *mysql.Options) { o.Registerer = reg })
	st, err := s.Open(ctxOf(t), pos)
	must(t, err)
	defer st.Close()
	d.exec(t, "UPDATE outbox SET k = 'x'")
	d.publish(t, st, "second")
	families, err := reg.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"outrelay_source_events_total shop": 2, "outrelay_source_transactions_total shop": 2,
		"outrelay_source_ignored_total UPDATE shop " + d.name + ".outbox": 1,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v; all: %v", name, got[name], want, got)
		}
	}
}
