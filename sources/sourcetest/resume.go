package sourcetest

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
)

// testParts reads one transaction in parts and checks their numbers.
func testParts(t *testing.T, db Database) {
	const rows = 1000
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}, MaxPartBytes: 50_000})
	db.Fill(t, table, rows, 500)
	parts := collect(t, st, rows)
	if len(parts) < 10 {
		t.Fatalf("%d parts", len(parts))
	}
	n := 0
	for i, p := range parts {
		if p.Part != i || p.Last != (i == len(parts)-1) || len(p.Events) == 0 {
			t.Errorf("part %d: number %d, last %v, %d events", i, p.Part, p.Last, len(p.Events))
		}
		for j := range p.Events {
			if e := &p.Events[j]; e.Ordinal != n || column(e, "seq") != fmt.Sprint(n+1) {
				t.Fatalf("part %d event %d: ordinal %d, seq %s, want %d", i, j, e.Ordinal, column(e, "seq"), n)
			}
			n++
		}
		confirm(t, st, p.Position)
	}
	nothingMore(t, db, st, table)
}

// testBoundedMemory reads 300,000 rows of one transaction and watches the heap.
func testBoundedMemory(t *testing.T, db Database) {
	rows, payload := 300_000, 200
	if testing.Short() {
		rows = 30_000
	}
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}, MaxPartBytes: 1 << 20, Prefetch: 4 << 20})
	db.Fill(t, table, rows, payload)
	var m runtime.MemStats
	base, peak := uint64(0), uint64(0)
	ctx := deadline(t)
	for n, part := 0, 0; n < rows; {
		txn, err := st.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range txn.Events {
			if txn.Events[i].Ordinal != n {
				t.Fatalf("event %d has ordinal %d", n, txn.Events[i].Ordinal)
			}
			n++
		}
		if txn.Last != (n == rows || len(txn.Events) == 0) {
			t.Fatalf("part %d: last %v at %d rows", txn.Part, txn.Last, n)
		}
		if part++; part%16 == 1 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			if base == 0 {
				base = m.HeapAlloc
			}
			peak = max(peak, m.HeapAlloc)
		}
	}
	// The whole transaction is 150 MB and more in events; what is alive at once is the prefetch, a part, and what other tests hold.
	if grown := int64(peak) - int64(base); grown > 64<<20 {
		t.Errorf("heap grew by %d MiB over the transaction", grown>>20)
	}
}

// testResumeEverywhere opens the stream again at every position that was yielded, within a large transaction too, and expects
// exactly the rest.
func testResumeEverywhere(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	o := Options{Name: "s", Tables: []string{table}, MaxPartBytes: 20_000}
	s, first, st := start(t, db, o)
	a := db.Session(t)
	a.Exec(t, insert(table, "a", "k", 0))
	db.Fill(t, table, 300, 200)
	a.Exec(t, insert(table, "b", "k", 0))
	a.Exec(t, "BEGIN")
	a.Exec(t, insert(table, "c", "k", 0))
	a.Exec(t, insert(table, "d", "k", 0))
	a.Exec(t, "COMMIT")
	all := collect(t, st, 304)
	want := ids(all...)
	_ = st.Close()

	positions := []outrelay.Position{first}
	after := []int{0}
	n := 0
	for _, txn := range all {
		n += len(txn.Events)
		positions, after = append(positions, txn.Position), append(after, n)
	}
	if len(positions) < 7 {
		t.Fatalf("%d positions", len(positions))
	}
	for i, p := range positions {
		st := open(t, s, p)
		if after[i] < len(want) {
			rest := collect(t, st, len(want)-after[i])
			wantIDs(t, ids(rest...), want[after[i]:]...)
			if rest[len(rest)-1].Position != all[len(all)-1].Position {
				t.Fatalf("resumed at %s: the last position is %s, was %s", p.Token, rest[len(rest)-1].Position.Token, all[len(all)-1].Position.Token)
			}
			if i > 0 && !all[i-1].Last {
				// Within a transaction: ordinals go on, parts begin again.
				if got, w := rest[0].Events[0].Ordinal, all[i].Events[0].Ordinal; got != w || rest[0].Part != 0 {
					t.Fatalf("resumed inside at %s: ordinal %d, want %d; part %d", p.Token, got, w, rest[0].Part)
				}
			}
		}
		_ = st.Close()
	}
}

// testResumeConfirmed confirms every position, those inside a transaction too, and opens there.
func testResumeConfirmed(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, pos, st := start(t, db, Options{Name: "s", Tables: []string{table}, MaxPartBytes: 20_000})
	a := db.Session(t)
	a.Exec(t, insert(table, "a", "k", 0))
	db.Fill(t, table, 300, 200)
	a.Exec(t, insert(table, "b", "k", 0))
	var got []string
	for len(got) < 302 {
		txn := next(t, st)
		got = append(got, ids(txn)...)
		pos = txn.Position
		confirm(t, st, pos)
		_ = st.Close() // tells the server
		st = open(t, s, pos)
	}
	want := []string{"a"}
	for i := range 300 {
		want = append(want, fmt.Sprint(i+1))
	}
	wantIDs(t, got, append(want, "b")...)
	nothingMore(t, db, st, table)
}

// testIdle lets only other tables change: the source must yield bare positions, so that the server may discard its log.
func testIdle(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, first, st := start(t, db, Options{Name: "s", Tables: []string{table}, Idle: 100 * time.Millisecond})
	db.Noise(t, 8<<20)
	ctx := deadline(t)
	pos := first
	for {
		status, err := s.Status(ctx, pos)
		if err != nil {
			t.Fatal(err)
		}
		if status.BehindBytes < 1<<20 && status.RetainedBytes < 4<<20 {
			break
		}
		txn, err := st.Next(ctx)
		if err != nil {
			t.Fatalf("position %s, %d bytes behind, %d retained: %v", pos.Token, status.BehindBytes, status.RetainedBytes, err)
		}
		if len(txn.Events) != 0 || !txn.Last || txn.Position == pos {
			t.Fatalf("an idle source yielded %+v after %s", txn, pos.Token)
		}
		pos = txn.Position
		confirm(t, st, pos)
		db.Noise(t, 1000) // servers free their log when they write it
	}
	a := db.Session(t)
	a.Exec(t, insert(table, "a", "k", 1))
	wantIDs(t, ids(next(t, st)), "a")
	_ = st.Close()
	st = open(t, s, pos)
	wantIDs(t, ids(next(t, st)), "a")
}

// testCrash kills the server: the stream ends with an error, and a new one goes on where the log stands, whatever the server had
// remembered of confirmations.
func testCrash(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, pos, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a := db.Session(t)
	for i := range 10 {
		a.Exec(t, insert(table, fmt.Sprintf("a%d", i), "k", i))
		txn := next(t, st)
		pos = txn.Position
		confirm(t, st, pos)
	}
	db.Crash(t)
	if _, err := drain(deadline(t), st); !isTransient(err) {
		t.Fatalf("after the crash: %v", err)
	}
	_ = st.Close()
	st = open(t, s, pos)
	db.Session(t).Exec(t, insert(table, "b", "k", 11))
	wantIDs(t, ids(next(t, st)), "b")
}

// testTwoStreams reads the same table by two sources that know nothing of each other.
func testTwoStreams(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	_, _, one := start(t, db, Options{Name: "one", Tables: []string{table}})
	_, _, two := start(t, db, Options{Name: "two", Tables: []string{table}})
	a := db.Session(t)
	for i := range 20 {
		a.Exec(t, insert(table, fmt.Sprint(i), "k", i))
	}
	x, y := collect(t, one, 20), collect(t, two, 20)
	wantIDs(t, ids(x...), ids(y...)...)
	confirm(t, one, x[19].Position)
	nothingMore(t, db, two, table)
}

// drain takes until the stream ends.
func drain(ctx context.Context, st interface {
	Next(context.Context) (outrelay.Txn, error)
}) (n int, err error) {
	for {
		txn, err := st.Next(ctx)
		if err != nil {
			return n, err
		}
		n += len(txn.Events)
	}
}
