package pgoutput_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// unhex turns hexadecimal with spaces into bytes.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var compact []byte
	for i := range len(s) {
		if s[i] != ' ' {
			compact = append(compact, s[i])
		}
	}
	b, err := hex.DecodeString(string(compact))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Messages as PostgreSQL sent them.
const (
	begin    = "42 0000000001949A20 0002A1B2C3D4E5F6 000002E1"
	commit   = "43 00 0000000001949A20 0000000001949A50 0002A1B2C3D4E5F6"
	relation = "52 00004001 7075626c696300 6f7574626f7800 64 0002 01 696400 00000b86 ffffffff 00 7061796c6f616400 00000eda ffffffff"
	custom   = "59 00004009 7075626c696300 6d6f6f6400"
	insert   = "49 00004001 4e 0002 74 00000003 616263 6e"
	truncate = "54 00000002 00 00004001 00004002"
	origin   = "4f 0000000000000001 6f00"
	update   = "55 00004001 4e 0002 74 00000003 616263 75"
	remove   = "44 00004001 4b 0002 74 00000003 616263 6e"
	message  = "4d 00 0000000000000001 7000 00000001 78"
	abort    = "41 00000001 00000002"
)

func TestDecoder_Decode(t *testing.T) {
	t.Parallel()
	d := pgoutput.NewDecoder()
	var m pgoutput.Message
	decode := func(s string) {
		t.Helper()
		if err := d.Decode(unhex(t, s), &m); err != nil {
			t.Fatal(err)
		}
	}
	decode(begin)
	if m.Kind != pgoutput.KindBegin || m.FinalLSN.String() != "0/1949A20" || m.Xid != 0x2e1 || m.CommitTime.Year() != 2023 {
		t.Errorf("%+v", m)
	}
	decode(relation)
	if r := m.Relation; r.Namespace != "public" || r.Name != "outbox" || fmt.Sprint(r.Columns) != "[{id 2950 -1 true} {payload 3802 -1 false}]" {
		t.Errorf("%+v", m.Relation)
	}
	decode(custom)
	if ty, ok := d.Type(0x4009); !ok || ty.Name != "mood" {
		t.Errorf("%+v", ty)
	}
	decode(insert)
	values, err := pgoutput.SplitTuple(m.Tuple, nil)
	if err != nil || len(values) != 2 || string(values[0]) != "abc" || values[1] != nil || m.Relation.Name != "outbox" {
		t.Errorf("%q, %v", values, err)
	}
	decode(truncate)
	if fmt.Sprint(m.Relations) != "[16385 16386]" {
		t.Errorf("%v", m.Relations)
	}
	decode(commit)
	if m.EndLSN != 0x1949A50 || m.FinalLSN != 0x1949A20 {
		t.Errorf("%+v", m)
	}
	for _, s := range []string{origin, update, remove, message, abort} {
		decode(s)
	}
}

func TestDecoder_Decode_refusesWhatIsCut(t *testing.T) {
	t.Parallel()
	for _, s := range []string{begin, commit, relation, custom, insert, truncate, origin} {
		whole := unhex(t, s)
		for n := range len(whole) {
			d := pgoutput.NewDecoder()
			var m pgoutput.Message
			_ = d.Decode(unhex(t, relation), &m)
			err := d.Decode(whole[:n], &m)
			if err == nil && m.Kind == pgoutput.KindInsert {
				_, err = pgoutput.SplitTuple(m.Tuple, nil)
			}
			if !errors.Is(err, pgoutput.ErrMalformed) {
				t.Errorf("%c cut to %d bytes: %v", whole[0], n, err)
			}
		}
	}
}

func TestDecoder_Decode_allocatesNothingForARow(t *testing.T) {
	d := pgoutput.NewDecoder()
	var m pgoutput.Message
	row := unhex(t, insert)
	values := make([][]byte, 0, 10)
	if err := d.Decode(unhex(t, relation), &m); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := d.Decode(row, &m); err != nil {
			t.Fatal(err)
		}
		if _, err := pgoutput.SplitTuple(m.Tuple, values[:0]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLSN_text(t *testing.T) {
	t.Parallel()
	for l, want := range map[pgoutput.LSN]string{0: "0/0", 1: "0/1", 0x10: "0/10", 0x123456789abcdef0: "12345678/9ABCDEF0", 0xf_00000000: "F/0"} {
		if l.String() != want {
			t.Errorf("%d prints as %s, want %s", uint64(l), l, want)
		}
		if got, err := pgoutput.ParseLSN(want); err != nil || got != l {
			t.Errorf("%s reads as %v, %v", want, got, err)
		}
	}
	for _, s := range []string{"", "/", "0", "0/", "0/G", "0/123456789", "-1/0", "1/2/3", "0x1/0"} {
		if l, err := pgoutput.ParseLSN(s); err == nil {
			t.Errorf("%q reads as %s", s, l)
		}
	}
	if got, err := pgoutput.ParseLSN("0/01949A20"); err != nil || got != 0x1949A20 {
		t.Errorf("PostgreSQL 19's form: %v, %v", got, err)
	}
}

func TestTime_isTheProtocolsEpoch(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	if got := pgoutput.Time(pgoutput.Micros(at)); !got.Equal(at) {
		t.Errorf("%v", got)
	}
	if got := pgoutput.Time(0); !got.Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%v", got)
	}
}

// FuzzDecode feeds a stream of messages, each behind a 2-byte length: no panic, no memory out of proportion, and what was
// decoded stays within the message.
func FuzzDecode(f *testing.F) {
	join := func(messages ...string) []byte {
		var b []byte
		for _, s := range messages {
			m := unhex(f, s)
			b = append(b, byte(len(m)>>8), byte(len(m)))
			b = append(b, m...)
		}
		return b
	}
	f.Add(join(begin, relation, insert, commit))
	f.Add(join(custom, relation, insert, update, remove, truncate, origin, message, abort))
	for _, s := range []string{begin, commit, relation, custom, insert, truncate, origin, update, remove, message, abort} {
		f.Add(join(relation, s))
	}
	f.Add(join("52 00000001 0000 64 ffff"))
	f.Add(join(relation, "49 00004001 4e 0002 74 ffffffff 61"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := pgoutput.NewDecoder()
		var m pgoutput.Message
		var values [][]byte
		for len(b) >= 2 {
			n := int(b[0])<<8 | int(b[1])
			b = b[2:]
			n = min(n, len(b))
			err := d.Decode(b[:n], &m)
			if err != nil && !errors.Is(err, pgoutput.ErrMalformed) {
				t.Fatalf("error without a class: %v", err)
			}
			if err == nil && m.Kind == pgoutput.KindInsert {
				if m.Relation == nil {
					t.Fatal("insert without a relation")
				}
				values, err = pgoutput.SplitTuple(m.Tuple, values[:0])
				if err == nil && len(values) != len(m.Relation.Columns) {
					t.Fatalf("%d values for %d columns", len(values), len(m.Relation.Columns))
				}
				total := 0
				for _, v := range values {
					total += len(v)
				}
				if total > n {
					t.Fatalf("%d bytes of values in a message of %d", total, n)
				}
			}
			b = b[n:]
		}
	})
}
