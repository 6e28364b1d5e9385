package system_test

import (
	"testing"
	"time"
)

// TestCrash_relayAfterPartOfLarge: a source transaction comes in parts, and outrelay dies when some of them are produced. Readers never see a
// part of it, and it comes again as a whole.
func TestCrash_relayAfterPartOfLarge(t *testing.T) {
	w := newWorld(t, worldOptions{failpoints: true})
	w.start()
	if err := w.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	const rows = 30_000 // three parts
	w.pg.Exec(t, w.db, `insert into outbox (id, aggregatetype, aggregateid, type, payload)
		select md5('large' || n)::uuid, 'order', 'large' || n % 500, 'OrderPlaced', jsonb_build_object('customer', 'large' || n % 500, 'amount', 1, 'pad', repeat('x', 100)) from generate_series(1, 30000) n;
		insert into ledger (id, key, seq, amount) select md5('large' || n)::uuid, 'large' || n % 500, n, 1 from generate_series(1, 30000) n`)
	for range 2 {
		w.dieAt("relay.afterPartOfLarge")
		if _, applied, err := w.Counts(t.Context()); err != nil || applied != 0 {
			t.Fatalf("%d events of a transaction that is not complete were applied (%v)", applied, err)
		}
	}
	w.start()
	l := w.load(rate)
	w.appliedMore(rows, 60*time.Second)
	w.stopLoad(l)
	w.verify()
}
