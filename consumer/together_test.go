package consumer_test

import (
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks/postgres"
)

// Partitions whose batches share a transaction of the sink, and what fails in it.

// round commits one record to each of 4 partitions in one transaction, so that they arrive together; the record of partition poison fails by itself.
func (e *env) round(tx *kgo.Client, poison int) {
	e.t.Helper()
	e.produceBodies(tx, 4, 4, true, func(i int) string {
		if i == poison {
			return "poison"
		}
		return "ok"
	})
}

// transactions is how many transactions of the sink the effects came in.
func (e *env) transactions() int {
	e.t.Helper()
	n, _ := strconv.Atoi(e.value("select count(distinct xmin::text) from effects"))
	return n
}

func TestGroup_sharesTransactions(t *testing.T) {
	e := newEnv(t, 4)
	g, _ := e.start(e.options())
	tx := e.txnClient()
	const rounds = 20
	for range rounds {
		e.round(tx, -1)
		e.drained(g)
	}
	if n := e.transactions(); n > 2*rounds {
		t.Fatalf("%d transactions for %d times 4 partitions", n, rounds)
	}
}

func TestGroup_poisonAmongOthers(t *testing.T) {
	e := newEnv(t, 4)
	g, _ := e.start(e.options())
	tx := e.txnClient()
	e.round(tx, -1)
	e.drained(g)
	e.round(tx, 2)
	for range 5 {
		e.round(tx, -1)
	}
	e.eventually("all but what is behind the poison", func() bool { return e.effects() == 4+6*3 })
	e.eventually("blocked", func() bool { return g.Status()[2].State == consumer.StateBlocked })
	for p, s := range g.Status() {
		if p != 2 && (s.State != consumer.StateRunning || s.LastError != "") {
			t.Fatalf("another partition's record is partition %d's failure: %+v", p, s)
		}
	}
	e.pg.Exec(t, e.db, "alter table effects drop constraint effects_body_check") // somebody mends it
	e.drained(g)
}

// Another owner has claimed one of four partitions: the others' batches are applied, and it gets the partition back, being a member.
func TestGroup_fencedAmongOthers(t *testing.T) {
	e := newEnv(t, 4)
	g, _ := e.start(e.options())
	tx := e.txnClient()
	e.round(tx, -1)
	e.drained(g)
	other, err := postgres.Open(t.Context(), e.sinkOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for i := range int32(8) {
		if _, err := other.Claim(t.Context(), "g", partitionOf(e, i%4)); err != nil {
			t.Fatal(err)
		}
		e.round(tx, -1)
		e.drained(g)
	}
}

// C13 where the COMMIT is of several partitions: it is in for all of them, or for none.
func TestGroup_ambiguousCommitsOfMany(t *testing.T) {
	e := newEnv(t, 4)
	proxy := testenv.StartProxy(t, e.pg.Addr())
	e.dsn = testenv.DSN(proxy.Addr(), e.db, "postgres", "")
	g, _ := e.start(e.options())
	tx := e.txnClient()
	e.round(tx, -1)
	e.drained(g)
	bind := []byte("\x00outrelay_commit\x00")
	rules := []testenv.Rule{
		{Dir: testenv.ToServer, Pattern: bind, Action: testenv.CutBefore},
		{Dir: testenv.ToServer, Pattern: bind, Action: testenv.CutAfter},
		{Dir: testenv.ToClient, Pattern: []byte("COMMIT\x00"), Action: testenv.CutBefore},
	}
	for i := range 12 {
		proxy.CutOn(rules[i%3])
		e.round(tx, -1)
		<-proxy.Hits()
		proxy.Clear()
		e.drained(g)
	}
}
