package mysql_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
)

func TestApply_bindsEveryKindOfValue(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		tg.my.Exec(t, tg.db, "create table v (i int, u bigint unsigned, num decimal(50,20), txt text, bin blob, j json, ts datetime(6), b boolean, whole json, raw longblob, k blob, topic text, part int, ofs bigint, h text, typ text, nul text, missing text, obj text, ex text, sum decimal(60,20))")
		o := tg.options("o")
		o.Handlers = map[string][]handler.Statement{handler.AnyType: {{SQL: `insert into v values (:payload.i, :payload.u, :payload.num, :payload.txt, :payload.txt, :payload.obj, :committed_at,
		:payload.b, :payload, :payload, :key, :topic, :partition, :offset, :headers.x.y, :type, :payload.nul, :payload.no.such, :payload.obj, :payload.ex, :payload.num + :payload.i-:payload.neg) -- done`}}}
		s := open(t, o)
		const text = `O'Neil "é" $1 ;-- \ %s ? /* 😀` + "\x00\x1a"
		r := record("Odd", "id", `{"i": 7, "u": 18446744073709551615, "num": 12345678901234567890.12345678901234567890, "txt": "O'Neil \"é\" $1 ;-- \\ %s ? /* 😀\u0000\u001a", "obj": {"a": [1, 2.50]}, "b": true, "nul": null, "ex": -1E+40, "neg": -3}`)
		r.Key = []byte{0, 1, 255, '\'', '\\'}
		r.Headers = append(r.Headers, outrelay.Header{Key: "x.y", Value: []byte("first")}, outrelay.Header{Key: "x.y", Value: []byte("last")},
			outrelay.Header{Key: sinks.HeaderCommittedAt, Value: []byte("2026-01-02T05:04:05.678901+02:00")})
		if err := s.Apply(t.Context(), batch(claim(t, s, 3), r)); err != nil {
			t.Fatal(err)
		}
		for col, want := range map[string]string{
			"i": "7", "u": "18446744073709551615", "num": "12345678901234567890.12345678901234567890", "txt": text, "bin": text, "json_extract(j, '$.a[1]')": "2.50",
			"date_format(ts, '%Y-%m-%d %T.%f')": "2026-01-02 03:04:05.678901", "b": "1", "json_extract(whole, '$.i')": "7", "octet_length(raw)": fmt.Sprint(len(r.Value)),
			"hex(k)": "0001FF275C", "topic": "t", "part": "3", "ofs": "0", "h": "last", "typ": "Odd", "nul is null and missing is null": "1", "obj": `{"a": [1, 2.50]}`, "ex": "-1E+40",
			"sum": "12345678901234567900.12345678901234567890",
		} {
			got := tg.my.Value(t, tg.db, "select "+col+" from v")
			if tg.my.Flavor() == testenv.MySQLServer && strings.HasPrefix(col, "json_extract(j") {
				want = "2.5" // MySQL keeps JSON as values
			}
			if got != want {
				t.Errorf("%s: %q, want %q", col, got, want)
			}
		}
		// A tombstone: every field is NULL.
		c := claim(t, s, 3)
		tomb := record("Odd", "id", "")
		tomb.Value, tomb.Key = nil, nil
		if err := s.Apply(t.Context(), batch(c, tomb)); err != nil {
			t.Fatal(err)
		}
		if n := tg.my.Value(t, tg.db, "select count(*) from v where i is null and whole is null and raw is null and k is null"); n != "1" {
			t.Fatalf("%s rows of the tombstone", n)
		}
	})
}

// Whatever the bytes of keys and payloads are, they arrive as they are, and nothing of them is run.
func TestApply_anyBytes(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		tg.my.Exec(t, tg.db, "create table kept (ofs bigint primary key, k blob, v longblob, twice longblob)")
		o := tg.options("o")
		o.Handlers = map[string][]handler.Statement{handler.AnyType: {{SQL: "insert into kept values (:offset, :key, :payload, concat(:payload,:payload))# the end"}}}
		s := open(t, o)
		c := claim(t, s, 0)
		conn := tg.my.Connect(t, tg.db)
		piece := rapid.OneOf(rapid.SampledFrom([]string{"'", `\`, `"`, "`", ";", "--", "-- ", "#", "/*", "*/", "\x00", "\n", "\x1a", "\xff", "\xbf'", "\xe4'", ":id", "?", "'; drop table kept; --", "😀"}),
			rapid.StringN(0, 5, -1))
		data := rapid.Custom(func(t *rapid.T) []byte {
			return []byte(strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pieces"), ""))
		})
		rapid.Check(t, func(rt *rapid.T) {
			r := record("x", "id", "")
			r.Key, r.Value = data.Draw(rt, "key"), data.Draw(rt, "value")
			b := batch(c, r)
			if err := s.Apply(t.Context(), b); err != nil {
				rt.Fatal(err)
			}
			c.Next = b.Next
			var k, v, twice []byte
			if err := conn.QueryRowContext(t.Context(), "select k, v, twice from kept where ofs = ?", b.Records[0].Offset).Scan(&k, &v, &twice); err != nil {
				rt.Fatal(err)
			}
			if !bytes.Equal(k, r.Key) || !bytes.Equal(v, r.Value) || !bytes.Equal(twice, append(bytes.Clone(r.Value), r.Value...)) {
				rt.Fatalf("key %q became %q, value %q became %q", r.Key, k, r.Value, v)
			}
		})
	})
}

func TestApply_recordErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		tg.my.Exec(t, tg.db, "create table narrow (id varchar(3) primary key, n int)")
		o := tg.options("o")
		o.PacketBytesMax = 1 << 20
		o.Handlers = map[string][]handler.Statement{
			"Added":  handlers["Added"],
			"Two":    {{SQL: "insert into effects (id) values (:id)", Place: "f:1"}, {SQL: "insert into narrow values (:id, 1 / :payload.num)", Place: "f:2"}},
			"Range":  {{SQL: "insert into narrow values ('a', 18446744073709551615 + :payload.num)"}},
			"Silent": nil,
		}
		s := open(t, o)
		c := claim(t, s, 0)
		ok := tg.Record("a")
		for _, tc := range []struct {
			name string
			bad  sinks.Record
			want string
		}{
			{"no JSON", record("Added", "x", "hello"), "handler Added (outrelay.yaml:11): the payload is not JSON"},
			{"empty payload", record("Added", "x", ""), "the payload is empty"},
			{"a cast", record("Added", "x", `{"num": "many"}`), "Incorrect decimal value: 'many'"},
			{"a constraint", record("Added", "poison", `{}`), "no_poison"},
			{"text that is none", record("Added", "a\xffb", `{}`), "character set utf8mb4"},
			{"too long", record("Two", "four", `{"num": 1}`), "Data too long for column 'id'"},
			{"second statement", record("Two", "x", `{"num": 0}`), "Division by 0"},
			{"out of range, as the move's", record("Range", "x", `{"num": 1}`), "error 1690"},
			{"lone surrogate", record("Added", "x", `{"num": "\ud800"}`), ":payload.num: a string holds half of a surrogate pair"},
			{"too large", record("Added", strings.Repeat("x", 2<<20), `{}`), "raise max_allowed_packet"},
		} {
			for _, alone := range []bool{false, true} {
				records := []sinks.Record{ok, tc.bad, ok}
				if alone {
					records = records[1:2]
				}
				err := s.Apply(t.Context(), batch(c, records...))
				var re *sinks.RecordError
				if !errors.Is(err, outrelay.ErrRecord) || !strings.Contains(err.Error(), tc.want) || !errors.As(err, &re) {
					t.Errorf("%s: %.300v, want ErrRecord with %q", tc.name, err, tc.want)
				} else if !alone && re.Record.Offset != 1 {
					t.Errorf("%s: blamed offset %d", tc.name, re.Record.Offset)
				}
			}
		}
		if n := tg.my.Value(t, tg.db, "select count(*) from effects"); n != "0" {
			t.Fatalf("%s effects of failed batches", n)
		}
		// The claim still holds.
		silent := record("Silent", "x", "no JSON needed")
		unknown := record("Unknown", "x", "no handler")
		if err := s.Apply(t.Context(), batch(c, ok, silent, unknown)); err != nil {
			t.Fatal(err)
		}
	})
}
