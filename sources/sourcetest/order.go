package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

func testCommitOrder(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a, b := db.Session(t), db.Session(t)
	a.Exec(t, "BEGIN")
	a.Exec(t, insert(table, "a1", "k", 1))
	b.Exec(t, "BEGIN")
	b.Exec(t, insert(table, "b1", "k", 2))
	b.Exec(t, insert(table, "b2", "k", 3))
	b.Exec(t, "COMMIT")
	a.Exec(t, insert(table, "a2", "k", 4))
	a.Exec(t, "COMMIT")
	first, second := next(t, st), next(t, st)
	wantIDs(t, ids(first), "b1", "b2")
	wantIDs(t, ids(second), "a1", "a2")
	for i, txn := range []outrelay.Txn{first, second} {
		if txn.Part != 0 || !txn.Last || txn.Position.IsZero() || txn.Place == "" || txn.CommittedAt.IsZero() || txn.Position.Source != "s" {
			t.Errorf("transaction %d: %+v", i, txn)
		}
		for n, e := range txn.Events {
			if e.Ordinal != n || e.Schema.Table != table {
				t.Errorf("transaction %d, event %d: ordinal %d of %s", i, n, e.Ordinal, e.Schema.Table)
			}
		}
	}
	if second.CommittedAt.Before(first.CommittedAt) {
		t.Errorf("commit times %v, then %v", first.CommittedAt, second.CommittedAt)
	}
}

func testRollbacks(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a := db.Session(t)
	for _, sql := range []string{
		"BEGIN", insert(table, "x1", "k", 1), "ROLLBACK",
		"BEGIN", insert(table, "a", "k", 1),
		"SAVEPOINT s1", insert(table, "x2", "k", 2), "ROLLBACK TO SAVEPOINT s1",
		"SAVEPOINT s2", insert(table, "b", "k", 3), "SAVEPOINT s3", insert(table, "x3", "k", 4), "ROLLBACK TO SAVEPOINT s3",
		"RELEASE SAVEPOINT s2", insert(table, "c", "k", 5), "COMMIT",
		"BEGIN", "SAVEPOINT s4", insert(table, "x4", "k", 6), "ROLLBACK TO SAVEPOINT s4", "COMMIT",
	} {
		a.Exec(t, sql)
	}
	txn := next(t, st)
	wantIDs(t, ids(txn), "a", "b", "c")
	if txn.Events[2].Ordinal != 2 {
		t.Errorf("ordinal %d counts rows that were rolled back", txn.Events[2].Ordinal)
	}
	nothingMore(t, db, st, table)
}

func testInsertThenDelete(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a := db.Session(t)
	for _, sql := range []string{
		"BEGIN", insert(table, "a", "k", 1), "DELETE FROM " + table + " WHERE id = 'a'", "COMMIT",
		insert(table, "b", "k", 2), "DELETE FROM " + table + " WHERE id = 'b'",
	} {
		a.Exec(t, sql)
	}
	wantIDs(t, ids(next(t, st)), "a")
	wantIDs(t, ids(next(t, st)), "b")
	nothingMore(t, db, st, table)
}

func testSeveralTables(t *testing.T, db Database) {
	one, two, other := db.CreateOutbox(t, "outbox_one"), db.CreateOutbox(t, "outbox_two"), db.CreateOutbox(t, "no_outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{one, two}})
	a := db.Session(t)
	for _, sql := range []string{
		insert(other, "x0", "k", 0),
		"BEGIN", insert(one, "a", "k", 1), insert(other, "x1", "k", 2), insert(two, "b", "k", 3), insert(one, "c", "k", 4), "COMMIT",
	} {
		a.Exec(t, sql)
	}
	txn := next(t, st)
	wantIDs(t, ids(txn), "a", "b", "c")
	var got []string
	for _, e := range txn.Events {
		got = append(got, fmt.Sprintf("%s/%d", e.Schema.Table, e.Ordinal))
	}
	wantIDs(t, got, one+"/0", two+"/1", one+"/2")
}

func testIgnored(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, pos, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a := db.Session(t)
	for _, sql := range []string{
		insert(table, "a", "k", 1), "UPDATE " + table + " SET payload = 'other'", "UPDATE " + table + " SET payload = 'third'",
		"TRUNCATE TABLE " + table,
	} {
		a.Exec(t, sql)
	}
	wantIDs(t, ids(next(t, st)), "a")
	nothingMore(t, db, st, table)
	status, err := s.Status(deadline(t), pos)
	if err != nil {
		t.Fatal(err)
	}
	if status.Ignored["UPDATE "+table] != 2 || status.Ignored["TRUNCATE "+table] != 1 {
		t.Errorf("ignored: %v", status.Ignored)
	}
	if !status.Active || status.BehindBytes <= 0 || status.Head == "" {
		t.Errorf("status: %+v", status)
	}
}

func testConcurrentWriters(t *testing.T, db Database) {
	const writers, each = 4, 100
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	var wg sync.WaitGroup
	committed := 0
	for w := range writers {
		session := db.Session(t)
		for i := range each {
			if i%7 != 3 {
				committed += 1 + i%3
			}
		}
		wg.Go(func() {
			seq := 0
			for i := range each {
				rollback := i%7 == 3
				session.Exec(t, "BEGIN")
				for range 1 + i%3 {
					if !rollback {
						seq++
					}
					id := fmt.Sprintf("%d-%d", w, seq)
					if rollback {
						id = fmt.Sprintf("x-%d-%d", w, i)
					}
					session.Exec(t, insert(table, id, fmt.Sprint(w), seq))
					if rollback {
						break
					}
				}
				if rollback {
					session.Exec(t, "ROLLBACK")
				} else {
					session.Exec(t, "COMMIT")
				}
			}
		})
	}
	txns := collect(t, st, committed)
	wg.Wait()
	lastSeq := map[string]string{}
	count := map[string]int{}
	for _, txn := range txns {
		for i := range txn.Events {
			e := &txn.Events[i]
			k, id := column(e, "k"), column(e, "id")
			count[k]++
			if want := fmt.Sprintf("%s-%d", k, count[k]); id != want {
				t.Fatalf("key %s: %s after %s, want %s", k, id, lastSeq[k], want)
			}
			lastSeq[k] = id
		}
	}
	nothingMore(t, db, st, table)
}

func testTypes(t *testing.T, db Database) {
	create, insertRow, table, want := db.Types(t)
	a := db.Session(t)
	a.Exec(t, create)
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a.Exec(t, insertRow)
	e := next(t, st).Events[0]
	if len(e.Values) != len(want) {
		t.Fatalf("%d columns, want %d", len(e.Values), len(want))
	}
	for i, w := range want {
		v, ok := e.Get(w.Column)
		switch {
		case !ok:
			t.Errorf("no column %s", w.Column)
		case e.Schema.Columns[i] != w.Column || e.Schema.Types[i] != w.Type:
			t.Errorf("column %d is %s %s, want %s %s", i, e.Schema.Columns[i], e.Schema.Types[i], w.Column, w.Type)
		case (v == nil) != w.Null:
			t.Errorf("%s: nil %v, want NULL %v", w.Column, v == nil, w.Null)
		case string(v) != w.Text:
			t.Errorf("%s = %q, want %q", w.Column, v, w.Text)
		}
	}
}

func testAlter(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	_, _, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	a := db.Session(t)
	for _, sql := range []string{
		insert(table, "a", "k", 1),
		"ALTER TABLE " + table + " ADD COLUMN extra int",
		insert(table, "b", "k", 2),
		"ALTER TABLE " + table + " DROP COLUMN payload",
		fmt.Sprintf("INSERT INTO %s (id, k, seq, extra) VALUES ('c', 'k', 3, 7)", table),
	} {
		a.Exec(t, sql)
	}
	one, two, three := next(t, st).Events[0], next(t, st).Events[0], next(t, st).Events[0]
	for i, w := range []struct {
		e       outrelay.Event
		columns string
		values  string
	}{
		{one, "[id k seq payload]", "[a k 1 p]"},
		{two, "[id k seq payload extra]", "[b k 2 p ]"},
		{three, "[id k seq extra]", "[c k 3 7]"},
	} {
		if got := fmt.Sprint(w.e.Schema.Columns); got != w.columns {
			t.Errorf("row %d has columns %s, want %s", i, got, w.columns)
		}
		if got := fmt.Sprintf("%s", w.e.Values); got != w.values {
			t.Errorf("row %d is %s, want %s", i, got, w.values)
		}
	}
	if one.Schema == two.Schema || two.Schema == three.Schema {
		t.Error("a changed table keeps its schema")
	}
}

func testConfirmUnknown(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, pos, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	confirm(t, st, pos) // the one given to Open
	a := db.Session(t)
	a.Exec(t, insert(table, "a", "k", 1))
	a.Exec(t, insert(table, "b", "k", 2))
	first := next(t, st)
	second := next(t, st)
	_ = st.Close()
	st = open(t, s, pos)
	wantIDs(t, ids(next(t, st)), "a")
	if err := st.Confirm(context.Background(), second.Position); !errors.Is(err, outrelay.ErrDataHalt) {
		t.Fatalf("confirm of a position that was not yielded yet: %v", err)
	}
	foreign := first.Position
	foreign.Source = "other"
	if err := st.Confirm(context.Background(), foreign); !errors.Is(err, outrelay.ErrDataHalt) {
		t.Fatalf("confirm of another source's position: %v", err)
	}
	if err := st.Confirm(context.Background(), outrelay.Position{Source: "s", Token: "garbage"}); !errors.Is(err, outrelay.ErrDataHalt) {
		t.Fatalf("confirm of garbage: %v", err)
	}
}

func testClose(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, pos, st := start(t, db, Options{Name: "s", Tables: []string{table}})
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := st.Next(context.Background()); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 2 {
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err == nil {
		t.Fatal("next returned nothing after close")
	}
	// The place is free again at once.
	st = open(t, s, pos)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		if _, err := st.Next(ctx); err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("next with an ended context: %v", err)
			}
			break
		}
	}
}

func testInitTwice(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	s, _, _ := start(t, db, Options{Name: "s", Tables: []string{table}})
	_, initErr := s.Init(deadline(t))
	_, prepareErr := s.PrepareInit(deadline(t))
	for what, err := range map[string]error{"second init": initErr, "preparing for it": prepareErr} {
		var e *outrelay.Error
		if !errors.As(err, &e) || e.Code != "slot-without-position" || !errors.Is(err, outrelay.ErrDataHalt) || e.Fix == "" {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// testInitInterrupted loses the first position, as a process does that dies before it has written it (R7).
func testInitInterrupted(t *testing.T, db Database) {
	table := db.CreateOutbox(t, "outbox")
	o := Options{Name: "s", Tables: []string{table}}
	s := db.Source(t, o)
	intent, err := s.PrepareInit(deadline(t))
	if err != nil || !json.Valid([]byte(intent)) {
		t.Fatalf("prepare: %q %v", intent, err)
	}
	if _, err := s.ResumeInit(deadline(t), intent); !errors.Is(err, sources.ErrNotBegun) {
		t.Fatalf("resume before init: %v, want ErrNotBegun", err)
	}
	if _, err := s.PrepareInit(deadline(t)); err != nil {
		t.Fatalf("prepare again: %v", err)
	}
	if _, err := s.Init(deadline(t)); err != nil {
		t.Fatalf("init: %v", err)
	}
	db.Session(t).Exec(t, insert(table, "a", "k", 1))
	s = db.Source(t, o)
	pos, err := s.ResumeInit(deadline(t), intent)
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	if again, err := s.ResumeInit(deadline(t), intent); err != nil || again != pos {
		t.Fatalf("resume again: %v %v, want %v", again, err, pos)
	}
	wantIDs(t, ids(next(t, open(t, s, pos))), "a")
}
