package gtid_test

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/sources/mysql/gtid"
)

const (
	a = "0a000000-0000-0000-0000-000000000001"
	b = "0b000000-0000-0000-0000-000000000002"
)

func TestParseSet(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "",
		a + ":1":                        a + ":1",
		a + ":1-5:6-9":                  a + ":1-9",
		a + ":7:1-5:3-6":                a + ":1-7",
		a + ":1-3:5":                    a + ":1-3:5",
		b + ":2,\n" + a + ":1-2":        a + ":1-2," + b + ":2",
		a + ":x:1:2:y:4:1-2":            a + ":x:1-2:y:1-2:4",
		a + ":1:tag:3, " + a + ":TAG:4": a + ":1:tag:3-4",
		strings.ToUpper(strings.ReplaceAll(a, "-", "")) + ":1": a + ":1",
	} {
		s, err := gtid.ParseSet(in)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q %v, want %q", in, s, err, want)
		}
	}
	for _, in := range []string{"x", a, a + ":", a + ":0", a + ":5-4", a + ":tag", a + ":1:tag", a + ":tag:tag2:1", a + ":1-", a + ":9223372036854775807",
		a + ":1x", "0a:1", a + ":1,,x"} {
		if s, err := gtid.ParseSet(in); !errors.Is(err, gtid.ErrMalformed) {
			t.Errorf("%q: %v %v", in, s, err)
		}
	}
}

// TestSet_model adds ids in a random order and compares with a map.
func TestSet_model(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	ua, _ := gtid.ParseUUID(a)
	ub, _ := gtid.ParseUUID(b)
	model := map[gtid.ID]bool{}
	all := func() (ids []gtid.ID) {
		for _, u := range []gtid.UUID{ua, ub} {
			for _, tag := range []string{"", "t"} {
				for n := range uint64(30) {
					ids = append(ids, gtid.ID{Server: u, Tag: tag, N: n + 1})
				}
			}
		}
		return ids
	}()
	s := &gtid.Set{}
	for range 300 {
		id := all[rnd.IntN(len(all))]
		if rnd.IntN(3) == 0 {
			s = s.Without(id)
			delete(model, id)
		} else {
			s.Add(id)
			model[id] = true
		}
		again, err := gtid.ParseSet(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("seed %d: %q reads as %q: %v", seed, s, again, err)
		}
		for _, x := range all {
			if s.Contains(x) != model[x] {
				t.Fatalf("seed %d: %s in %s: %v", seed, x, s, !model[x])
			}
		}
	}
}

// TestSet_Encode compares with what servers are sent: a count, then server, runs as [from, limit).
func TestSet_Encode(t *testing.T) {
	t.Parallel()
	uuid := strings.ReplaceAll(a, "-", "")
	for in, want := range map[string]string{
		"":          "0000000000000000",
		a + ":1-3":  "0100000000000000" + uuid + "0100000000000000" + "01000000000000000400000000000000",
		a + ":t1:2": "0101000000000001" + uuid + "047431" + "0100000000000000" + "02000000000000000300000000000000",
	} {
		s, err := gtid.ParseSet(in)
		if got := hex.EncodeToString(s.Encode()); err != nil || got != want {
			t.Errorf("%q: %s %v, want %s", in, got, err, want)
		}
	}
}

func TestParseID(t *testing.T) {
	t.Parallel()
	for _, in := range []string{a + ":7", a + ":tag:7"} {
		if id, err := gtid.ParseID(in); err != nil || id.String() != in || id.N != 7 {
			t.Errorf("%s: %v %v", in, id, err)
		}
	}
	for _, in := range []string{"", a + ":1-2", a + ":1," + b + ":1", "x:1"} {
		if _, err := gtid.ParseID(in); !errors.Is(err, gtid.ErrMalformed) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestPosition(t *testing.T) {
	t.Parallel()
	p, err := gtid.ParsePosition("7-2-5, 0-1-100")
	if err != nil || p.String() != "0-1-100,7-2-5" {
		t.Fatalf("%v %v", p, err)
	}
	was := p.Clone()
	p.Advance(gtid.Maria{Domain: 0, Server: 3, Seq: 101})
	p.Advance(gtid.Maria{Domain: 3, Server: 3, Seq: 1})
	if p.String() != "0-3-101,3-3-1,7-2-5" || was.String() != "0-1-100,7-2-5" || p.Of(7).Server != 2 || !p.Of(9).IsZero() {
		t.Errorf("%v, was %v", p, was)
	}
	for _, in := range []string{"1", "0-1", "0-1-0", "0-1-2,0-1-3", "-1-1-1", "4294967296-1-1", "0-1-x"} {
		if p, err := gtid.ParsePosition(in); !errors.Is(err, gtid.ErrMalformed) {
			t.Errorf("%q: %v %v", in, p, err)
		}
	}
}

// FuzzParseSet reads any text; what it accepts is the same after a second reading.
func FuzzParseSet(f *testing.F) {
	for _, s := range []string{a + ":1-5:7:tag:1", "x", a + ":1," + b + ":2-9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := gtid.ParseSet(in)
		if err != nil {
			return
		}
		again, err := gtid.ParseSet(s.String())
		if err != nil || again.String() != s.String() || string(again.Encode()) != string(s.Encode()) {
			t.Errorf("%q is %q, then %q: %v", in, s, again, err)
		}
	})
}
