package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/postgres"
)

var shared testenv.Shared

func TestSmoke(t *testing.T) {
	pg := shared.Get(t)
	db := pg.NewDatabase(t)
	pg.Exec(t, db, "CREATE TABLE outbox (id uuid primary key, payload jsonb)")
	s, err := postgres.New(postgres.Options{Name: "shop", Slot: "s1", Publication: "p1", Tables: []string{"public.outbox"},
		ConnString: func(context.Context) (string, error) { return pg.DSN(db), nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pos, err := s.Init(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(pos)
	pg.Exec(t, db, `INSERT INTO outbox VALUES (gen_random_uuid(), '{"a": 1}'), (gen_random_uuid(), null)`, `INSERT INTO outbox VALUES (gen_random_uuid(), '{"a": 2}')`)
	st, err := s.Open(ctx, pos)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		at := time.Now()
		txn, err := st.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v %+v %s", time.Since(at), txn, txn.Events[0].Values[1])
		if err := st.Confirm(ctx, txn.Position); err != nil {
			t.Fatal(err)
		}
	}
	stt, err := s.Status(ctx, pos)
	t.Log(stt, err)
	at := time.Now()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(at))
	t.Log(pg.Value(t, db, "select confirmed_flush_lsn from pg_replication_slots"))
}
