package mysql_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/mysql"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

// The servers that the tests of this package share.
var shared = map[testenv.MySQLFlavor]*testenv.SharedMySQL{
	testenv.MariaDBServer: {Options: testenv.MySQLOptions{Flavor: testenv.MariaDBServer, NoFsync: true}},
	testenv.MySQLServer:   {Options: testenv.MySQLOptions{Flavor: testenv.MySQLServer, NoFsync: true}},
}

// onServers runs a test on MariaDB, and on MySQL where one is installed.
func onServers(t *testing.T, run func(t *testing.T, flavor testenv.MySQLFlavor)) {
	t.Helper()
	for _, f := range []testenv.MySQLFlavor{testenv.MariaDBServer, testenv.MySQLServer} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			if f == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			run(t, f)
		})
	}
}

// longForm leaves a test that starts servers of its own, and treats both families alike, to the long form on MySQL, which is slow to start.
func longForm(t *testing.T, flavor testenv.MySQLFlavor) {
	t.Helper()
	if testing.Short() && flavor == testenv.MySQLServer {
		t.Skip("the short form runs it on MariaDB")
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		sourcetest.Run(t, func(t *testing.T, alone bool) sourcetest.Database {
			t.Helper()
			if alone {
				return newDBOn(t, testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor}))
			}
			return newDB(t, flavor)
		})
	})
}

// database is a fresh database on the shared server; the one that crashes has a server of its own.
type database struct {
	my   *testenv.MySQL
	name string
}

func newDB(t *testing.T, flavor testenv.MySQLFlavor) *database {
	t.Helper()
	return newDBOn(t, shared[flavor].Get(t))
}

func newDBOn(t *testing.T, my *testenv.MySQL) *database {
	t.Helper()
	return &database{my: my, name: my.NewDatabase(t)}
}

func (d *database) CreateOutbox(t *testing.T, name string) string {
	t.Helper()
	d.exec(t, "CREATE TABLE "+name+" (id varchar(255) PRIMARY KEY, k varchar(255), seq bigint, payload mediumtext)")
	return d.name + "." + name
}

func (d *database) exec(t *testing.T, sql ...string) {
	t.Helper()
	d.my.Exec(t, d.name, sql...)
}

func (d *database) value(t *testing.T, sql string) string {
	t.Helper()
	return d.my.Value(t, d.name, sql)
}

type session struct{ *sql.Conn }

func (s session) Exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.ExecContext(context.Background(), sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func (d *database) Session(t *testing.T) sourcetest.Session {
	t.Helper()
	return session{d.my.Connect(t, d.name)}
}

// numbers is a query of n, from 1 to a million at most.
func numbers(n int) string {
	const digit = "(SELECT 0 i UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	from, sum, places := digit+" d0", "d0.i", 1
	for p := 10; p < n; p *= 10 {
		from += fmt.Sprintf(", %s d%d", digit, places)
		sum += fmt.Sprintf(" + d%d.i * %d", places, p)
		places++
	}
	return fmt.Sprintf("(SELECT 1 + %s AS n FROM %s) numbers WHERE n <= %d", sum, from, n)
}

func (d *database) Fill(t *testing.T, table string, n, payloadBytes int) {
	t.Helper()
	d.exec(t, fmt.Sprintf("INSERT INTO %s (id, k, seq, payload) SELECT n, n, n, repeat('x', %d) FROM %s ORDER BY n", table, payloadBytes, numbers(n)))
}

func (d *database) Noise(t *testing.T, bytes int) {
	t.Helper()
	d.exec(t, "CREATE TABLE IF NOT EXISTS noise (b text)",
		fmt.Sprintf("INSERT INTO noise SELECT repeat('x', 1000) FROM %s", numbers(bytes/1000+1)))
}

func (d *database) Source(t *testing.T, o sourcetest.Options) sources.Source {
	t.Helper()
	return d.source(t, o, func(*mysql.Options) {})
}

// serverIDs gives each source of each test a number of its own: the tests share servers, and call their sources alike.
var serverIDs = struct {
	sync.Mutex
	ids map[string]uint32
}{ids: map[string]uint32{}}

func serverID(key string) uint32 {
	serverIDs.Lock()
	defer serverIDs.Unlock()
	if serverIDs.ids[key] == 0 {
		serverIDs.ids[key] = uint32(1000 + len(serverIDs.ids))
	}
	return serverIDs.ids[key]
}

func (d *database) source(t *testing.T, o sourcetest.Options, change func(*mysql.Options)) *mysql.Source {
	t.Helper()
	mo := mysql.Options{
		Name: outrelay.SourceID(o.Name), Flavor: mysql.Flavor(d.my.Flavor()), Tables: o.Tables, ServerID: serverID(d.my.Addr() + d.name + o.Name),
		ConnString:   func(context.Context) (string, error) { return d.my.DSN(d.name), nil },
		MaxPartBytes: o.MaxPartBytes, IdleInterval: o.Idle, PrefetchBytes: o.Prefetch,
	}
	change(&mo)
	s, err := mysql.New(mo)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Crash kills a server that the test has for itself: the shared one is others' too.
func (d *database) Crash(t *testing.T) {
	t.Helper()
	if err := d.my.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := d.my.Start(); err != nil {
		t.Fatal(err)
	}
}

// typeCase is a column, a value, and what it must be.
type typeCase struct {
	definition, value string
	want              sourcetest.Value
}

// commonTypes are columns, values and what they must be on both families of servers.
var commonTypes = []typeCase{
	{"id int PRIMARY KEY", "1", sourcetest.Value{Type: "int", Text: "1"}},
	{"tiny tinyint", "-128", sourcetest.Value{Type: "tinyint", Text: "-128"}},
	{"utiny tinyint unsigned", "255", sourcetest.Value{Type: "tinyint unsigned", Text: "255"}},
	{"small smallint", "-32768", sourcetest.Value{Type: "smallint", Text: "-32768"}},
	{"medium mediumint", "-8388608", sourcetest.Value{Type: "mediumint", Text: "-8388608"}},
	{"umedium mediumint unsigned", "16777215", sourcetest.Value{Type: "mediumint unsigned", Text: "16777215"}},
	{"big bigint", "-9223372036854775808", sourcetest.Value{Type: "bigint", Text: "-9223372036854775808"}},
	{"ubig bigint unsigned", "18446744073709551615", sourcetest.Value{Type: "bigint unsigned", Text: "18446744073709551615"}},
	{"dec1 decimal(65,30)", "-12345678901234567890123456789012345.123456789012345678901234567890",
		sourcetest.Value{Type: "decimal", Text: "-12345678901234567890123456789012345.123456789012345678901234567890"}},
	{"dec2 decimal(10,2)", "0.5", sourcetest.Value{Type: "decimal", Text: "0.50"}},
	{"dec3 decimal(9,0)", "-7", sourcetest.Value{Type: "decimal", Text: "-7"}},
	{"dec4 decimal(20,10)", "1000000001.0000000001", sourcetest.Value{Type: "decimal", Text: "1000000001.0000000001"}},
	{"dec5 decimal(4,4)", "-0.0001", sourcetest.Value{Type: "decimal", Text: "-0.0001"}},
	{"dec6 decimal(30,5)", "0", sourcetest.Value{Type: "decimal", Text: "0.00000"}},
	{"fl float", "0.1", sourcetest.Value{Type: "float", Text: "0.1"}},
	{"db double", "0.1", sourcetest.Value{Type: "double", Text: "0.1"}},
	{"db2 double", "1e20", sourcetest.Value{Type: "double", Text: "1e20"}},
	{"db3 double", "-1.5e-20", sourcetest.Value{Type: "double", Text: "-1.5e-20"}},
	{"db4 double", "123456789012345", sourcetest.Value{Type: "double", Text: "123456789012345"}},
	{"bits bit(12)", "b'100000000001'", sourcetest.Value{Type: "bit", Text: "2049"}},
	{"y year", "1999", sourcetest.Value{Type: "year", Text: "1999"}},
	{"d date", "'9999-12-31'", sourcetest.Value{Type: "date", Text: "9999-12-31"}},
	{"d0 date", "'0000-00-00'", sourcetest.Value{Type: "date", Text: "0000-00-00"}},
	{"dt datetime", "'1000-01-01 23:59:59'", sourcetest.Value{Type: "datetime", Text: "1000-01-01 23:59:59"}},
	{"dt6 datetime(6)", "'2024-02-29 12:00:00.000001'", sourcetest.Value{Type: "datetime", Text: "2024-02-29 12:00:00.000001"}},
	{"dt1 datetime(1)", "'2024-02-29 12:00:00.9'", sourcetest.Value{Type: "datetime", Text: "2024-02-29 12:00:00.9"}},
	{"dt0 datetime(3)", "'0000-00-00 00:00:00'", sourcetest.Value{Type: "datetime", Text: "0000-00-00 00:00:00.000"}},
	{"ts timestamp(3) NULL", "'2024-02-29 12:00:00.25'", sourcetest.Value{Type: "timestamp", Text: "2024-02-29 12:00:00.250"}},
	{"ts0 timestamp NULL", "'0000-00-00 00:00:00'", sourcetest.Value{Type: "timestamp", Text: "0000-00-00 00:00:00"}},
	{"ti time", "'-838:59:59'", sourcetest.Value{Type: "time", Text: "-838:59:59"}},
	{"ti2 time(2)", "'-00:00:01.10'", sourcetest.Value{Type: "time", Text: "-00:00:01.10"}},
	{"ti6 time(6)", "'12:00:00'", sourcetest.Value{Type: "time", Text: "12:00:00.000000"}},
	{"ti3 time(3)", "'-00:00:00.001'", sourcetest.Value{Type: "time", Text: "-00:00:00.001"}},
	{"c char(10)", "'a '", sourcetest.Value{Type: "char", Text: "a"}},
	{"vc varchar(300)", "'🜁 מ\"''\\\\ '", sourcetest.Value{Type: "varchar", Text: "🜁 מ\"'\\ "}},
	{"la varchar(10) CHARACTER SET latin1", "'é€'", sourcetest.Value{Type: "varchar", Text: "é€"}},
	{"u16 varchar(10) CHARACTER SET utf16", "'é🜁'", sourcetest.Value{Type: "varchar", Text: "é🜁"}},
	{"bin binary(16)", "x'00112233445566778899aabbccdd0000'", sourcetest.Value{Type: "binary", Text: "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\x00\x00"}},
	{"wide binary(255)", "x'20'", sourcetest.Value{Type: "binary", Text: " " + strings.Repeat("\x00", 254)}},
	{"wc char(255)", "'é '", sourcetest.Value{Type: "char", Text: "é"}},
	{"vb varbinary(10)", "x'00ff00'", sourcetest.Value{Type: "varbinary", Text: "\x00\xff\x00"}},
	{"bl blob", "x'fffe00'", sourcetest.Value{Type: "blob", Text: "\xff\xfe\x00"}},
	{"tt tinytext", "''", sourcetest.Value{Type: "tinytext", Text: ""}},
	{"lt longtext", "'long'", sourcetest.Value{Type: "longtext", Text: "long"}},
	{"nothing text", "NULL", sourcetest.Value{Type: "text", Null: true}},
	{"en enum('a','b,c','é')", "'é'", sourcetest.Value{Type: "enum", Text: "é"}},
	{"en0 enum('a')", "''", sourcetest.Value{Type: "enum", Text: ""}},
	{"se set('x','y','z')", "'z,x'", sourcetest.Value{Type: "set", Text: "x,z"}},
}

// Types is a row of values that a source could get wrong.
func (d *database) Types(*testing.T) (create, insert, table string, want []sourcetest.Value) {
	types := commonTypes
	if d.my.Flavor() == testenv.MariaDBServer {
		types = append(types[:len(types):len(types)], mariadbTypes...)
	} else {
		types = append(types[:len(types):len(types)], mysqlTypes...)
	}
	var columns, values []string
	for _, c := range types {
		columns, values = append(columns, c.definition), append(values, c.value)
		c.want.Column, _, _ = strings.Cut(c.definition, " ")
		want = append(want, c.want)
	}
	return "CREATE TABLE kinds (" + strings.Join(columns, ", ") + ") CHARACTER SET utf8mb4",
		"SET SESSION sql_mode = ''; SET SESSION time_zone = '+00:00'; INSERT INTO kinds VALUES (" + strings.Join(values, ", ") + ")", d.name + ".kinds", want
}

var mariadbTypes = []typeCase{
	{"js json", `'{"a":  1, "a": 2, "u": "\\u0000"}'`, sourcetest.Value{Type: "longtext", Text: `{"a":  1, "a": 2, "u": "\u0000"}`}},
	{"u1 uuid", "'123e4567-e89b-12d3-a456-426655440000'", sourcetest.Value{Type: "uuid", Text: "123e4567-e89b-12d3-a456-426655440000"}},
	{"u4 uuid", "'00000000-0000-4000-8000-00000000000a'", sourcetest.Value{Type: "uuid", Text: "00000000-0000-4000-8000-00000000000a"}},
	{"u7 uuid", "'0190a0a0-1234-7abc-8def-0123456789ab'", sourcetest.Value{Type: "uuid", Text: "0190a0a0-1234-7abc-8def-0123456789ab"}},
	{"u0 uuid", "'00000000-0000-0000-0000-000000000000'", sourcetest.Value{Type: "uuid", Text: "00000000-0000-0000-0000-000000000000"}},
	{"ux uuid", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", sourcetest.Value{Type: "uuid", Text: "ffffffff-ffff-ffff-ffff-ffffffffffff"}},
	{"ip6 inet6", "'2001:db8::ff00:42:8329'", sourcetest.Value{Type: "inet6", Text: "2001:db8::ff00:42:8329"}},
	{"ip4 inet4", "'10.0.0.0'", sourcetest.Value{Type: "inet4", Text: "10.0.0.0"}},
}

var mysqlTypes = []typeCase{
	{"js json", `'{"bb": [1, -1, 65536, 4294967296, 18446744073709551615, 1.0, 1e20, 0.1, true, false, null], "a": {"k\\"": "q\\u0001\\n é"}}'`,
		sourcetest.Value{Type: "json", Text: `{"a": {"k\"": "q\u0001\n é"}, "bb": [1, -1, 65536, 4294967296, 18446744073709551615, 1.0, 1e20, 0.1, true, false, null]}`}},
	{"js2 json", `json_object('d', cast('2024-02-29' as date), 't', cast('-01:02:03.5' as time(6)), 'dt', cast('2024-02-29 01:02:03' as datetime), 'n', cast(1.50 as decimal(10,2)), 'b', cast('x' as binary))`,
		sourcetest.Value{Type: "json", Text: `{"b": "base64:type15:eA==", "d": "2024-02-29", "n": 1.50, "t": "-01:02:03.500000", "dt": "2024-02-29 01:02:03.000000"}`}},
	{"js3 json", `'"text"'`, sourcetest.Value{Type: "json", Text: `"text"`}},
}
