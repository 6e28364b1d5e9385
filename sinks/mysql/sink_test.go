package mysql_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/mysql"
	"github.com/outrelay/outrelay/sinks/sinktest"
)

// Nothing here outlives a machine that crashes, so nothing waits for the disk.
var servers = map[testenv.MySQLFlavor]*testenv.SharedMySQL{
	testenv.MariaDBServer: {Options: testenv.MySQLOptions{Flavor: testenv.MariaDBServer, NoFsync: true}},
	testenv.MySQLServer:   {Options: testenv.MySQLOptions{Flavor: testenv.MySQLServer, NoFsync: true}},
}

// onBoth runs a test on MariaDB, and on MySQL where one is installed.
func onBoth(t *testing.T, run func(t *testing.T, server *testenv.SharedMySQL)) {
	t.Helper()
	t.Parallel()
	for flavor, server := range servers {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			run(t, server)
		})
	}
}

// target is a database of its own whose handler inserts the record's id.
type target struct {
	my *testenv.MySQL
	db string
}

func newTarget(tb testing.TB, server *testenv.SharedMySQL) *target {
	my := server.Get(tb)
	t := &target{my: my, db: my.NewDatabase(tb)}
	my.Exec(tb, t.db, "create table effects (n bigint auto_increment primary key, id varchar(200), k varbinary(200), num decimal(30,2), at bigint, constraint no_poison check (id <> 'poison'))")
	return t
}

var handlers = map[string][]handler.Statement{
	"Added":  {{SQL: "insert into effects (id, k, num, at) values (:id, :key, :payload.num, :offset)", Place: "outrelay.yaml:11"}},
	"Poison": {{SQL: "insert into effects (id, num) values (:id, :payload.num)", Place: "outrelay.yaml:14"}},
}

func (t *target) options(owner string) mysql.Options {
	return mysql.Options{
		ConnString: func(context.Context) (string, error) { return t.my.DSN(t.db), nil },
		Owner:      owner, Handlers: handlers,
	}
}

func (t *target) Open(tb testing.TB) sinks.Sink { return open(tb, t.options("sinktest")) }

func open(tb testing.TB, o mysql.Options) *mysql.Sink {
	tb.Helper()
	s, err := mysql.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func record(typ, id, payload string) sinks.Record {
	return sinks.Record{
		Topic: "t", TopicID: [16]byte{1}, Timestamp: time.UnixMilli(1_700_000_000_123), Key: []byte("k"), Value: []byte(payload),
		Headers: []outrelay.Header{{Key: sinks.HeaderID, Value: []byte(id)}, {Key: sinks.HeaderType, Value: []byte(typ)}},
	}
}

func (t *target) Record(id string) sinks.Record { return record("Added", id, `{"num": 1}`) }
func (t *target) Poison(id string) sinks.Record { return record("Poison", id, `{"num": "x"}`) }

func (t *target) Effects(tb testing.TB) map[string]int {
	out := map[string]int{}
	rows, err := t.my.Connect(tb, t.db).QueryContext(tb.Context(), "select id from effects")
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			tb.Fatal(err)
		}
		out[id]++
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestConformance(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		sinktest.Run(t, func(tb testing.TB) sinktest.Target { return newTarget(tb, server) })
	})
}

// TestConformance_inManyPackets is the same with transactions that take several packets each.
func TestConformance_inManyPackets(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, func(tb testing.TB) sinktest.Target {
		return &manyPackets{newTarget(tb, servers[testenv.MariaDBServer])}
	})
}

type manyPackets struct{ *target }

func (m *manyPackets) Open(tb testing.TB) sinks.Sink {
	o := m.options("sinktest")
	o.PacketBytesMax = 1500
	return open(tb, o)
}

func part(n int32) sinks.Partition {
	return sinks.Partition{LogID: "log", TopicID: [16]byte{1}, Topic: "t", Partition: n}
}

func claim(tb testing.TB, s sinks.OffsetStore, n int32) sinks.Claim {
	tb.Helper()
	c, err := s.Claim(tb.Context(), "g", part(n))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func batch(c sinks.Claim, records ...sinks.Record) sinks.Batch {
	from := max(c.Next, 0)
	for i := range records {
		records[i].Offset, records[i].Partition = from+int64(i), c.Partition.Partition
	}
	return sinks.Batch{Claim: c, From: c.Next, Next: from + int64(len(records)), Records: records}
}

func TestOpen_createsTablesOnceAndKnowsNewerOnes(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		var wg sync.WaitGroup
		for range 4 { // at the same time
			wg.Go(func() {
				s, err := mysql.Open(t.Context(), tg.options("o"))
				if err != nil {
					t.Error(err)
					return
				}
				_ = s.Close()
			})
		}
		wg.Wait()
		if v := tg.my.Value(t, tg.db, "select value from outrelay_meta where name = 'schema_version'"); v != "1" {
			t.Fatalf("schema_version %q", v)
		}
		tg.my.Exec(t, tg.db, "update outrelay_meta set value = '99'")
		if _, err := mysql.Open(t.Context(), tg.options("o")); !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "version 99") {
			t.Fatalf("newer tables: %v", err)
		}
	})
}

func TestOpen_inAnotherDatabase(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		o := tg.options("o")
		o.Schema = tg.my.NewDatabase(t)
		s := open(t, o)
		if err := s.Apply(t.Context(), batch(claim(t, s, 0), tg.Record("a"))); err != nil {
			t.Fatal(err)
		}
		if n := tg.my.Value(t, o.Schema, "select next_offset from outrelay_offsets"); n != "1" {
			t.Fatalf("next_offset %q in the other database", n)
		}
	})
}

func TestOpen_asAccountWithoutCreate(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		account := "weak_" + tg.db
		tg.my.Exec(t, tg.db, fmt.Sprintf("create user %s identified by 'pw'", account), fmt.Sprintf("grant insert on %s.effects to %s", tg.db, account))
		t.Cleanup(func() { tg.my.Exec(t, "", "drop user "+account) })
		o := tg.options("o")
		o.ConnString = func(context.Context) (string, error) { return tg.my.DSNAs(tg.db, account, "pw"), nil }
		_, err := mysql.Open(t.Context(), o)
		if !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "create table if not exists") {
			t.Fatalf("without CREATE: %v, want the SQL to run", err)
		}
		tg.my.Exec(t, tg.db, mysql.SchemaSQL(tg.db), fmt.Sprintf("grant select, insert, update, delete on %s.outrelay_offsets to %s", tg.db, account), fmt.Sprintf("grant select on %s.outrelay_meta to %s", tg.db, account))
		s := open(t, o)
		if err := s.Apply(t.Context(), batch(claim(t, s, 0), tg.Record("a"))); err != nil {
			t.Fatal(err)
		}
		o.ConnString = func(context.Context) (string, error) { return tg.my.DSNAs(tg.db, account, "CANARY"), nil }
		if _, err := mysql.Open(t.Context(), o); !errors.Is(err, outrelay.ErrEnvironment) || strings.Contains(err.Error(), "CANARY") || !strings.Contains(err.Error(), "check user and password") {
			t.Fatalf("with a wrong password: %v", err)
		}
	})
}

// The session is what the sink needs, whatever the server's defaults are.
func TestOpen_pinsTheSession(t *testing.T) {
	t.Parallel()
	for _, flavor := range []testenv.MySQLFlavor{testenv.MariaDBServer, testenv.MySQLServer} {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			my := testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, NoFsync: true, Config: map[string]string{
				"sql-mode": "NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT", "default-time-zone": "+05:30", "character-set-server": "latin1", "transaction-isolation": "SERIALIZABLE",
				"completion-type": "CHAIN", "default-storage-engine": "MyISAM", "autocommit": "0",
			}})
			tg := &target{my: my, db: my.NewDatabase(t)}
			my.Exec(t, tg.db, "create table Odd (a varchar(20) character set utf8mb4, b varchar(20) character set utf8mb4, c varchar(20) character set utf8mb4, d timestamp(6) null, e varchar(40)) engine = InnoDB")
			o := tg.options("o")
			o.Handlers = map[string][]handler.Statement{"*": {{SQL: `insert into Odd values (:payload.a, 'b\'s', "c", :committed_at, @@transaction_isolation)`}}}
			if flavor == testenv.MariaDBServer {
				o.Handlers["*"][0].SQL = strings.ReplaceAll(o.Handlers["*"][0].SQL, "@@transaction_isolation", "@@tx_isolation")
			}
			s := open(t, o)
			c := claim(t, s, 0)
			for range 2 { // the second would go on in the first one's chain
				b := batch(c, record("x", "id", `{"a": "é\\'\""}`))
				if err := s.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				c.Next = b.Next
			}
			want := `é\'"|b's|c|2023-11-14 22:13:20.123000|READ-COMMITTED`
			if got := my.Value(t, tg.db, "select concat_ws('|', a, b, c, date_format(convert_tz(d, @@session.time_zone, '+00:00'), '%Y-%m-%d %T.%f'), e) from Odd limit 1"); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
			if n := my.Value(t, tg.db, "select count(*) from Odd"); n != "2" {
				t.Fatalf("%s rows, want 2", n)
			}
		})
	}
}

func TestOpen_refusesReplica(t *testing.T) {
	t.Parallel()
	my := testenv.StartMariaDB(t, testenv.MySQLOptions{NoFsync: true, Config: map[string]string{"read-only": "1"}})
	o := mysql.Options{ConnString: func(context.Context) (string, error) { return my.DSN("mysql"), nil }}
	if _, err := mysql.Open(t.Context(), o); !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "sink-read-only") {
		t.Fatal(err)
	}
	o.ConnString = func(context.Context) (string, error) { return my.DSN(""), nil }
	if _, err := mysql.Open(t.Context(), o); !errors.Is(err, outrelay.ErrConfig) || !strings.Contains(err.Error(), "names no database") {
		t.Fatal(err)
	}
}

func TestOpen_namesEveryRefusedStatement(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		o := tg.options("o")
		o.Handlers = map[string][]handler.Statement{
			"A": {{SQL: "insert into effects (id) values (:id)", Place: "outrelay.yaml:5"}, {SQL: "insert into effects (totl) values (:payload.total)", Place: "outrelay.yaml:6"}},
			"B": {{SQL: "insert into nowhere values (:id)", Place: "outrelay.yaml:9"}},
			"C": {{SQL: "insert into effects (id) values ('a':id)", Place: "outrelay.yaml:12"}},
		}
		_, err := mysql.Open(t.Context(), o)
		if !errors.Is(err, outrelay.ErrConfig) {
			t.Fatalf("%v, want ErrConfig", err)
		}
		for _, want := range []string{`outrelay.yaml:6: handler A: Unknown column 'totl' in `, `outrelay.yaml:9: handler B: Table '` + tg.db + `.nowhere' doesn't exist (error 1146`, `outrelay.yaml:12: handler C: You have an error in your SQL syntax`} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error\n%v\nlacks %q", err, want)
			}
		}
	})
}

func TestOpen_refusesTablesWithoutTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		other := tg.my.NewDatabase(t)
		tg.my.Exec(t, tg.db, "create table old (id varchar(200)) engine = MyISAM", "create table "+other+".`ol``d` (id int, primary key (id)) engine = MyISAM", "create view seen as select * from effects")
		o := tg.options("o")
		o.Handlers = map[string][]handler.Statement{
			"A": {{SQL: "insert into effects (id) values (:id)", Place: "f:1"}, {SQL: "/* x */ insert ignore into old values (:id)", Place: "f:2"}},
			"B": {{SQL: "update seen set id = :id", Place: "f:3"}, {SQL: "delete from " + other + " . `ol``d` where id = 1", Place: "f:4"}},
			"C": {{SQL: "replace\nold values (:id)", Place: "f:5"}},
		}
		_, err := mysql.Open(t.Context(), o)
		if !errors.Is(err, outrelay.ErrConfig) {
			t.Fatalf("%v, want ErrConfig", err)
		}
		for _, want := range []string{"f:2: handler A: the storage engine MyISAM of table old takes no part", "f:4: handler B: the storage engine MyISAM", "alter table `" + other + "`.`ol``d` engine = InnoDB", "f:5: handler C: "} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error\n%v\nlacks %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "f:1") || strings.Contains(err.Error(), "f:3") {
			t.Errorf("refused what is right: %v", err)
		}
		o = tg.options("o")
		_ = open(t, o).Close()
		tg.my.Exec(t, tg.db, "drop table outrelay_offsets; create table outrelay_offsets (log_id varchar(9) primary key) engine = MyISAM")
		if _, err := mysql.Open(t.Context(), o); !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "alter table `"+tg.db+"`.outrelay_offsets engine = InnoDB") {
			t.Fatalf("offsets in MyISAM: %v", err)
		}
	})
}

func TestOpen_unreachableIsTransient(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	_, err = mysql.Open(t.Context(), mysql.Options{ConnString: func(context.Context) (string, error) {
		return testenv.MySQLDSN(testenv.MySQLServer, addr, "x", "u", "CANARY"), nil
	}})
	if !errors.Is(err, outrelay.ErrTransient) || strings.Contains(err.Error(), "CANARY") {
		t.Fatal(err)
	}
	_, err = mysql.Open(t.Context(), mysql.Options{ConnString: func(context.Context) (string, error) { return "postgres://u:CANARY@h/d", nil }})
	if !errors.Is(err, outrelay.ErrConfig) || strings.Contains(err.Error(), "CANARY") {
		t.Fatal(err)
	}
}
