package mysql_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql"
)

func TestPlace_roundTrip(t *testing.T) {
	t.Parallel()
	const my = `{"v":1,"flavor":"mysql","server":"0a000000-0000-0000-0000-000000000001","gtid":"0a000000-0000-0000-0000-000000000001:1-9:blue:1","file":"binlog.000001","pos":4294967300,"events":0}`
	const maria = `{"v":1,"flavor":"mariadb","server":"1","gtid":"0-1-9,3-2-1","last":{"gtid":"0-1-9","at":1700000000000000},"file":"m-bin.000010","pos":77,` +
		`"txn":{"gtid":"0-1-10","at":1700000000000001,"done":5},"committed_at":"2026-01-02T03:04:05.678901Z","events":12}`
	for token, want := range map[string]struct {
		flavor mysql.Flavor
		text   string
	}{
		my:    {mysql.MySQL, "0a000000-0000-0000-0000-000000000001:1-9:blue:1"},
		maria: {mysql.MariaDB, "0-1-10+5"},
		strings.Replace(maria, `"txn":{"gtid":"0-1-10","at":1700000000000001,"done":5},`, "", 1):        {mysql.MariaDB, "0-1-9"},
		strings.Replace(my, `"gtid":"0a000000-0000-0000-0000-000000000001:1-9:blue:1"`, `"gtid":""`, 1): {mysql.MySQL, "the beginning"},
	} {
		p, err := mysql.ParsePlace(want.flavor, outrelay.Position{Source: "shop", Token: token})
		if err != nil || p.Token() != token || p.String() != want.text {
			t.Errorf("%s\n%s: %q, want %q; %v", token, p.Token(), p.String(), want.text, err)
		}
	}
	p, err := mysql.ParsePlace(mysql.MariaDB, outrelay.Position{Token: maria})
	if err != nil || !p.CommittedAt.Equal(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)) || p.Events != 12 || p.Pos != 77 || p.Done != 5 {
		t.Errorf("%+v %v", p, err)
	}
	for _, bad := range []string{"", "x", "{}", strings.Replace(my, `"v":1`, `"v":2`, 1), strings.Replace(my, "1-9", "9-1", 1), strings.Replace(my, "binlog.000001", "../x", 1),
		strings.Replace(my, `"events":0`, `"events":-1`, 1), strings.Replace(my, `"server":"0a000000-0000-0000-0000-000000000001"`, `"server":""`, 1),
		strings.Replace(maria, `"done":5`, `"done":0`, 1), strings.Replace(maria, `"gtid":"0-1-10"`, `"gtid":"0-1"`, 1)} {
		flavor := mysql.MySQL
		if strings.Contains(bad, "mariadb") {
			flavor = mysql.MariaDB
		}
		_, err := mysql.ParsePlace(flavor, outrelay.Position{Source: "shop", Token: bad})
		if bad == "{}" { // it is of no flavor, and of no version
			wantError(t, err, outrelay.ErrDataHalt, "position-unreadable")
			continue
		}
		wantError(t, err, outrelay.ErrDataHalt, "position-unreadable", "position")
	}
	_, err = mysql.ParsePlace(mysql.MySQL, outrelay.Position{Source: "shop", Token: maria})
	wantError(t, err, outrelay.ErrDataHalt, "position-foreign", "`mariadb:`")
}

func TestParseTable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"outbox": ".outbox", "shop.outbox": "shop.outbox", "`a.b`.`c``d`": "a.b.c`d", "`shop`.outbox": "shop.outbox", "Shop.OutBox": "Shop.OutBox",
	} {
		database, name, err := mysql.ParseTable(in)
		if err != nil || database+"."+name != want {
			t.Errorf("%s: %s.%s %v", in, database, name, err)
		}
	}
	for _, in := range []string{"", ".", "a.", ".a", "a.b.c", "`a", "`a`b", "``", "a\x00", strings.Repeat("x", 300)} {
		if database, name, err := mysql.ParseTable(in); err == nil {
			t.Errorf("%q: %s.%s", in, database, name)
		}
	}
}

func TestParseStatement(t *testing.T) {
	t.Parallel()
	const (
		other = iota
		begin
		commit
		rollback
		savepoint
		rollbackTo
		xaStart
		xaEnd
		xaDone
		truncate
		insert
		change
	)
	for in, want := range map[string]struct {
		verb           int
		database, name string
	}{
		"BEGIN": {begin, "", ""}, "COMMIT": {commit, "", ""}, "commit": {commit, "", ""}, "ROLLBACK": {rollback, "", ""}, "ROLLBACK WORK": {rollback, "", ""},
		"SAVEPOINT `a``b`": {savepoint, "", "a`b"}, "ROLLBACK TO `s`": {rollbackTo, "", "s"}, "rollback work to savepoint s": {rollbackTo, "", "s"},
		"XA START X'78',X'',1": {xaStart, "", ""}, "XA END X'78',X'',1": {xaEnd, "", ""}, "XA COMMIT X'78',X'',1": {xaDone, "", ""}, "XA ROLLBACK X'78',X'',1": {xaDone, "", ""},
		"TRUNCATE TABLE shop.outbox": {truncate, "shop", "outbox"}, "/* a */ truncate `shop` . `out``box`": {truncate, "shop", "out`box"}, "TRUNCATE outbox /* generated */": {truncate, "", "outbox"},
		"-- hello\n insert into x": {insert, "", ""}, "/*!40000 REPLACE INTO x */": {insert, "", ""}, "LOAD DATA INFILE 'x'": {insert, "", ""}, "# c\nWITH x AS (SELECT 1) UPDATE y": {change, "", ""},
		"CREATE TABLE x": {other, "", ""}, "": {other, "", ""}, "/* not closed": {other, "", ""}, "--": {other, "", ""},
	} {
		verb, database, name := mysql.ParseStatement(in)
		if verb != want.verb || database != want.database || name != want.name {
			t.Errorf("%q: verb %d, want %d; %q.%q", in, verb, want.verb, database, name)
		}
	}
	for in, want := range map[string]bool{
		"insert into outbox values": true, "insert into `Outbox`": true, "insert into shop.outbox(a)": true, "insert into outbox_old": false, "insert into myoutbox": false, "outbox": true, "x": false,
		"outbox2 outbox": true,
	} {
		if got := mysql.Mentions(in, "outbox"); got != want {
			t.Errorf("%q mentions outbox: %v", in, got)
		}
	}
}
