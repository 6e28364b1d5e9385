package mysql_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql"
)

const feedServer = "0a000000-0000-0000-0000-000000000001"

// feedAt is the place at which fed events begin.
func feedAt(t testing.TB, f mysql.Flavor) mysql.Place {
	t.Helper()
	at := mysql.Place{Server: feedServer, File: "binlog.000001", Pos: 4}
	history := feedServer + ":1-9"
	if f == mysql.MariaDB {
		at.Server, history = "1", "0-1-9"
	}
	var err error
	if at.Executed, err = mysql.ParseHistory(f, history); err != nil {
		t.Fatal(err)
	}
	return at
}

func feedSource(t testing.TB, f mysql.Flavor) *mysql.Source {
	t.Helper()
	s, err := mysql.New(mysql.Options{Name: "shop", Flavor: f, Tables: []string{"db.outbox"}, MaxRowBytes: 1 << 20,
		ConnString: func(context.Context) (string, error) { return "", outrelay.ErrTransient }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// events builds a binlog.
type events struct {
	all  [][]byte
	crc  bool
	pos  uint32
	bare bool // no header lengths of a format: events of a compressed transaction
}

func (e *events) add(typ byte, body ...byte) *events { return e.flagged(typ, 0, body...) }

func (e *events) flagged(typ byte, flags uint16, body ...byte) *events {
	size := 19 + len(body)
	if e.crc {
		size += 4
	}
	e.pos += uint32(size)
	b := binary.LittleEndian.AppendUint32(nil, 1_700_000_000)
	b = append(b, typ)
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = binary.LittleEndian.AppendUint32(b, e.pos)
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = append(b, body...)
	if e.crc {
		b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	}
	e.all = append(e.all, b)
	return e
}

// begin returns a binlog with its format.
func begin(crc bool) *events {
	e := &events{crc: true, pos: 4}
	body := binary.LittleEndian.AppendUint16(nil, 4)
	version := make([]byte, 50)
	copy(version, "8.4.0")
	body = append(append(body, version...), 0, 0, 0, 0, 19)
	lengths := bytes.Repeat([]byte{0}, 41)
	lengths[18], lengths[29], lengths[30], lengths[31] = 8, 10, 10, 10
	alg := byte(0)
	if crc {
		alg = 1
	}
	e.add(15, append(append(body, lengths...), alg)...) // a format has a checksum even where it says that none follow
	e.crc = crc
	return e
}

func (e *events) gtid(n uint64) *events {
	b := append([]byte{0, 0x0a}, make([]byte, 14)...)
	b = binary.LittleEndian.AppendUint64(append(b, 1), n)
	b = append(b, 2)
	b = append(b, make([]byte, 16)...)
	return e.add(33, append(b, 0, 0, 0, 0, 0, 6, 0)...)
}

func (e *events) query(db, sql string) *events {
	b := append(make([]byte, 8), byte(len(db)), 0, 0, 0, 0)
	return e.add(2, append(append(append(b, db...), 0), sql...)...)
}

// tableMap maps number 7 to a table of an int and a varchar(20).
func (e *events) tableMap(name string) *events {
	b := []byte{7, 0, 0, 0, 0, 0, 1, 0, 2, 'd', 'b', 0, byte(len(name))}
	b = append(append(b, name...), 0, 2, 3, 15, 2, 20, 0, 2)
	return e.add(19, append(b, 1, 1, 0, 2, 1, 45, 4, 5, 2, 'i', 'd', 1, 'p')...)
}

func (e *events) insert(id byte, p string) *events {
	b := []byte{7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 3, 0, id, 0, 0, 0, byte(len(p))}
	return e.add(30, append(b, p...)...)
}

func (e *events) xid() *events { return e.add(16, make([]byte, 8)...) }

// txn is a whole transaction with one row.
func (e *events) txn(n uint64, id byte) *events {
	return e.gtid(n).query("db", "BEGIN").tableMap("outbox").insert(id, "p").xid()
}

func (e *events) payload(kind []byte, data []byte, size uint64) *events {
	b := append([]byte{2, byte(len(kind))}, kind...)
	b = append(b, 3, 9, 0xfe)
	b = binary.LittleEndian.AppendUint64(b, size)
	b = append(b, 1, 9, 0xfe)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	return e.add(40, append(append(b, 0), data...)...)
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// inner returns the events of a transaction as a compressed one holds them.
func inner() []byte {
	e := new(events).query("db", "BEGIN").tableMap("outbox").insert(1, "p").xid()
	return bytes.Join(e.all, nil)
}

func TestFeed_yields(t *testing.T) {
	t.Parallel()
	in := inner()
	for name, e := range map[string]*events{
		"with checksums":         begin(true).txn(10, 1),
		"without":                begin(false).txn(10, 1),
		"what came before":       begin(true).txn(5, 9).txn(10, 1),
		"other tables":           begin(true).gtid(10).query("db", "BEGIN").tableMap("other").insert(9, "p").tableMap("outbox").insert(1, "p").xid(),
		"an ignorable event":     begin(true).flagged(99, 0x80, 1).txn(10, 1),
		"a heartbeat":            begin(true).flagged(27, 0x20).txn(10, 1),
		"compressed":             begin(true).gtid(10).payload([]byte{0}, zstdOf(t, in), uint64(len(in))),
		"not compressed, inside": begin(true).gtid(10).payload([]byte{0xfc, 255, 0}, in, uint64(len(in))),
		"rolled back before":     begin(true).gtid(10).query("db", "BEGIN").tableMap("outbox").insert(9, "p").query("db", "ROLLBACK").txn(11, 1),
		"ended by COMMIT":        begin(true).gtid(10).query("db", "BEGIN").tableMap("outbox").insert(1, "p").query("db", "COMMIT"),
		"DDL before":             begin(true).gtid(10).query("db", "CREATE TABLE x (id int)").txn(11, 1),
	} {
		txns, err := mysql.Feed(feedSource(t, mysql.MySQL), feedAt(t, mysql.MySQL), e.all)
		if err != nil || len(txns) != 1 || len(txns[0].Events) != 1 {
			t.Errorf("%s: %v %v", name, txns, err)
			continue
		}
		if v := txns[0].Events[0]; fmt.Sprintf("%s %s %s", v.Schema.Columns, v.Schema.Types, v.Values) != "[id p] [int varchar] [1 p]" {
			t.Errorf("%s: %s %s %s", name, v.Schema.Columns, v.Schema.Types, v.Values)
		}
	}
}

// TestFeed_halts (B47 to B67): what a server should not send halts by name, and what is before it is yielded.
func TestFeed_halts(t *testing.T) {
	t.Parallel()
	in := inner()
	damaged := begin(true).txn(10, 1).txn(11, 2)
	damaged.all[8][21] ^= 1
	short := begin(true).txn(10, 1)
	short.all = append(short.all, []byte{1, 2, 3})
	wrongSize := begin(true).txn(10, 1).xid()
	wrongSize.all[6][9]++
	bomb := bytes.Repeat([]byte{0}, 8<<20)
	binary.LittleEndian.PutUint32(bomb[9:], uint32(len(bomb)))
	for name, tt := range map[string]struct {
		e    *events
		code string
		says string
	}{
		"a checksum that does not fit":        {damaged, "stream-malformed", "checksum"},
		"an event of three bytes":             {short, "stream-malformed", "3 bytes"},
		"an event that says another size":     {wrongSize, "stream-malformed", "says it has"},
		"a checksum of an unknown kind":       {unknownChecksum(begin(true).txn(10, 1)), "stream-malformed", "checksums of kind 7"},
		"rows that nothing maps":              {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").insert(2, "p"), "stream-malformed", "nothing maps"},
		"rows of the table map before":        {begin(true).txn(10, 1).gtid(11).insert(2, "p"), "stream-malformed", "nothing maps"},
		"rows outside of a transaction":       {begin(true).txn(10, 1).insert(2, "p"), "stream-malformed", "outside of a transaction"},
		"more columns than the table has":     {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").tableMap("outbox").add(30, 7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3, 7, 0, 1, 0, 0, 0), "stream-malformed", "row of 3 columns"},
		"a string longer than the event":      {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").tableMap("outbox").add(30, 7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 3, 0, 1, 0, 0, 0, 200, 'x'), "stream-malformed", "value of 200 bytes"},
		"a row that lacks a column":           {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").tableMap("outbox").add(30, 7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 1, 0, 1, 0, 0, 0), "row-image", "binlog_row_image"},
		"a packed number that is none":        {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").tableMap("outbox").add(30, 7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0xff), "stream-malformed", "0xff"},
		"a table map cut off":                 {begin(true).txn(10, 1).gtid(11).add(19, 7, 0, 0, 0, 0, 0, 1, 0, 2, 'd', 'b', 0, 6, 'o', 'u', 't', 'b', 'o', 'x', 0, 200), "stream-malformed", "type 19"},
		"a table map without names":           {begin(true).txn(10, 1).gtid(11).add(19, 7, 0, 0, 0, 0, 0, 1, 0, 2, 'd', 'b', 0, 6, 'o', 'u', 't', 'b', 'o', 'x', 0, 1, 3, 0, 1), "row-metadata", "binlog_row_metadata"},
		"a type that nobody knows":            {begin(true).txn(10, 1).gtid(11).add(19, 7, 0, 0, 0, 0, 0, 1, 0, 2, 'd', 'b', 0, 6, 'o', 'u', 't', 'b', 'o', 'x', 0, 1, 77, 0, 1, 4, 2, 1, 'x'), "column-unsupported", "type 77"},
		"a transaction within another":        {begin(true).txn(10, 1).gtid(11).gtid(12), "stream-malformed", ":12 within"},
		"a commit without a beginning":        {begin(true).txn(10, 1).xid(), "stream-malformed", "outside of a transaction"},
		"GTID number 0":                       {begin(true).txn(10, 1).gtid(0), "stream-malformed", "GTID number 0"},
		"a transaction without an id":         {begin(true).txn(10, 1).add(34, make([]byte, 25)...), "gtid-mode", "without an id"},
		"an event of an unknown type":         {begin(true).txn(10, 1).add(99, 0xca, 0xfe), "stream-malformed", "type 99, which begins cafe"},
		"an incident":                         {begin(true).txn(10, 1).add(26, append([]byte{1, 0, 4}, "lost"...)...), "incident", `"lost"`},
		"a rotate to a path":                  {begin(true).txn(10, 1).add(4, append(make([]byte, 8), "../../etc/passwd"...)...), "stream-malformed", "rotate to"},
		"a statement with rows":               {begin(true).txn(10, 1).gtid(11).query("db", "BEGIN").query("db", "insert into `outbox` values (1)"), "statement-format", "binlog_format"},
		"an XA transaction":                   {begin(true).txn(10, 1).gtid(11).query("db", "XA START X'78',X'',1").tableMap("outbox").insert(1, "p"), "xa", "XA transaction"},
		"a compressed bomb":                   {begin(true).txn(10, 1).gtid(11).payload([]byte{0}, zstdOf(t, bomb), uint64(len(bomb))), "row-too-large", "exceeds"},
		"compressed more than it says":        {begin(true).txn(10, 1).gtid(11).payload([]byte{0}, zstdOf(t, in), uint64(len(in)-9)), "stream-malformed", "cut off"},
		"compressed by a method nobody knows": {begin(true).txn(10, 1).gtid(11).payload([]byte{9}, in, uint64(len(in))), "stream-malformed", "method 9"},
		"compressed without compression":      {begin(true).txn(10, 1).gtid(11).payload([]byte{0}, in, uint64(len(in))), "stream-malformed", "compressed transaction"},
		"a rollback of what was yielded":      {largeRollback(begin(true).txn(10, 1)), "rolled-back-in-part", "not transactional"},
	} {
		s := feedSource(t, mysql.MySQL)
		txns, err := mysql.Feed(s, feedAt(t, mysql.MySQL), tt.e.all)
		class := outrelay.ErrDataHalt
		if tt.code == "incident" {
			class = outrelay.ErrPositionLost
		}
		t.Run(name, func(t *testing.T) { wantError(t, err, class, tt.code, tt.says) })
		if tt.code == "rolled-back-in-part" || name == "a checksum of an unknown kind" {
			continue
		}
		if len(txns) != 1 || txns[0].Place != feedServer+":10" || !txns[0].Last {
			t.Errorf("%s: yielded before: %+v", name, txns)
		}
	}
}

// TestFeed_goesOnWithin opens within a transaction: only the rest comes; a transaction that is not the one that was published halts.
func TestFeed_goesOnWithin(t *testing.T) {
	t.Parallel()
	within := func(at int64, done int) mysql.Place {
		p, err := mysql.ParsePlace(mysql.MySQL, outrelay.Position{Token: fmt.Sprintf(`{"v":1,"flavor":"mysql","server":"%[1]s","gtid":"%[1]s:1-9","file":"binlog.000001","pos":4,"txn":{"gtid":"%[1]s:10","at":%[2]d,"done":%[3]d},"events":%[3]d}`,
			feedServer, at, done)})
		must(t, err)
		return p
	}
	at := int64(6) << 40 // what gtid writes
	three := func(e *events, n uint64) *events {
		return e.gtid(n).query("db", "BEGIN").tableMap("outbox").insert(1, "p").insert(2, "p").insert(3, "p").xid()
	}
	txns, err := mysql.Feed(feedSource(t, mysql.MySQL), within(at, 2), three(begin(true), 10).all)
	must(t, err)
	if len(txns) != 1 || fmt.Sprintf("%s %d", txns[0].Events[0].Values, txns[0].Events[0].Ordinal) != "[3 p] 2" || len(txns[0].Events) != 1 || !txns[0].Last {
		t.Errorf("the rest: %+v", txns)
	}
	txns, err = mysql.Feed(feedSource(t, mysql.MySQL), within(at, 3), three(begin(true), 10).txn(11, 4).all)
	must(t, err)
	if len(txns) != 1 || txns[0].Place != feedServer+":11" {
		t.Errorf("behind a part that was all of it: %+v", txns)
	}
	for name, tt := range map[string]struct {
		at   mysql.Place
		n    uint64
		code string
	}{
		"fewer rows than were published": {within(at, 4), 10, "transaction-vanished"},
		"another transaction":            {within(at, 2), 11, "transaction-vanished"},
		"another one of that id":         {within(at+1, 2), 10, "history-rewritten"},
	} {
		_, err := mysql.Feed(feedSource(t, mysql.MySQL), tt.at, three(begin(true), tt.n).all)
		t.Run(name, func(t *testing.T) {
			wantError(t, err, outrelay.ErrPositionLost, tt.code, feedServer+":10", "source repair shop")
		})
	}
}

func unknownChecksum(e *events) *events {
	format := e.all[0]
	format[len(format)-5] = 7
	return e
}

// largeRollback rolls back more than a part.
func largeRollback(e *events) *events {
	e.gtid(11).query("db", "BEGIN").tableMap("outbox")
	for range 15_000 {
		e.insert(2, "pppppppppp")
	}
	return e.query("db", "ROLLBACK")
}

// FuzzFeed sends any bytes as an event of any type, within a transaction and outside: nothing panics, and what is yielded before stays.
func FuzzFeed(f *testing.F) {
	for _, e := range begin(true).txn(10, 1).all {
		f.Add(e[4], e[19:], false)
		f.Add(e[4], e[19:], true)
	}
	in := inner()
	p := begin(false).payload([]byte{0}, zstdOf(f, in), uint64(len(in)))
	f.Add(byte(40), p.all[1][19:], true)
	f.Add(byte(42), []byte{2, 0, 0}, false)
	f.Add(byte(162), []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, false)
	f.Fuzz(func(t *testing.T, typ byte, body []byte, within bool) {
		for _, flavor := range []mysql.Flavor{mysql.MySQL, mysql.MariaDB} {
			e := begin(false)
			if flavor == mysql.MySQL {
				e.txn(10, 1)
				if within {
					e.gtid(11).query("db", "BEGIN").tableMap("outbox")
				}
			}
			txns, _ := mysql.Feed(feedSource(t, flavor), feedAt(t, flavor), e.add(typ, body...).all)
			if flavor == mysql.MySQL && (len(txns) == 0 || len(txns[0].Events) != 1) {
				t.Errorf("yielded %+v", txns)
			}
		}
	})
}
