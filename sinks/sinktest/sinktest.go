// Package sinktest is the conformance suite of sinks: what a sink must keep for the guarantee it declares. It tests no particular sink by
// itself.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// Target is what the suite needs to know of a sink under test. Its handler leaves one effect per record, which carries the record's id.
type Target interface {
	// Open returns another owner's sink on the same target. The suite closes it.
	Open(tb testing.TB) sinks.Sink
	// Record fills a record that the handler takes; the id is unique per call of the suite.
	Record(id string) sinks.Record
	// Poison fills a record that fails by itself, whatever the time.
	Poison(id string) sinks.Record
	// Effects returns how often each id took effect, over all partitions.
	Effects(tb testing.TB) map[string]int
}

// Run runs the suite. newTarget returns an empty target of its own for each test.
func Run(t *testing.T, newTarget func(tb testing.TB) Target) {
	for name, test := range map[string]func(*testing.T, *bench){
		"apply makes all effects":                            testApply,
		"a failing record is named and nothing takes effect": testPoison,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, newBench(t, newTarget(t))) })
	}
	for name, test := range map[string]func(*testing.T, *bench){
		"a first claim starts at -1 with epoch 1":       testFirstClaim,
		"the offset moves with the effects":             testMoves,
		"an empty batch moves the offset":               testEmpty,
		"a newer claim fences":                          testFence,
		"a wrong expected offset fences":                testWrongFrom,
		"partitions, groups and topics do not mix":      testApart,
		"another log under the same name halts":         testOtherLog,
		"a recreated topic halts":                       testOtherTopic,
		"reset sets the offset and fences":              testReset,
		"reset to -1 removes the row":                   testResetRemoves,
		"rows move to another log, all or none":         testRelocate,
		"two owners at random: effects once, no holes":  testTwoOwners,
		"a batch that ends with its context is decided": testCancelled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, newTarget(t))
			if b.sink.Guarantee() != sinks.Transactional {
				t.Skipf("the sink declares %s", b.sink.Guarantee())
			}
			test(t, b)
		})
	}
	for name, test := range map[string]func(*testing.T, *bench, sinks.MultiApplier){
		"batches of several partitions share a transaction": testTogether,
		"one fenced batch undoes all":                       testTogetherFenced,
		"one failing record undoes all":                     testTogetherPoison,
		"a late owner's batches undo all, at random":        testTogetherRandom,
		"batches that end with their context are decided":   testTogetherCancelled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, newTarget(t))
			m, ok := b.sink.(sinks.MultiApplier)
			if !ok {
				t.Skip("the sink takes one batch at a time")
			}
			test(t, b, m)
		})
	}
}

// bench is one target with one open sink.
type bench struct {
	target Target
	sink   sinks.Sink
	store  sinks.OffsetStore // nil when the sink keeps no offsets
	ids    int
}

func newBench(t testing.TB, target Target) *bench {
	s := target.Open(t)
	t.Cleanup(func() { _ = s.Close() })
	b := &bench{target: target, sink: s}
	b.store, _ = s.(sinks.OffsetStore)
	if s.Guarantee() == sinks.Transactional && b.store == nil {
		t.Fatal("the sink declares exactly-once but keeps no offsets")
	}
	return b
}

const group = "sinktest"

func partition(n int32) sinks.Partition {
	return sinks.Partition{LogID: "log-a", TopicID: [16]byte{1}, Topic: "t", Partition: n}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (b *bench) claim(t testing.TB, p sinks.Partition) sinks.Claim {
	t.Helper()
	if b.store == nil {
		return sinks.Claim{Group: group, Partition: p, Next: 0}
	}
	return must[sinks.Claim](t)(b.store.Claim(t.Context(), group, p))
}

// batch is n records from the claim's next offset (0 for a new one), the last of them poison when so asked.
func (b *bench) batch(c sinks.Claim, n int, poison bool) sinks.Batch {
	from := max(c.Next, 0)
	out := sinks.Batch{Claim: c, From: c.Next, Next: from + int64(n)}
	for i := range n {
		b.ids++
		id := fmt.Sprintf("e%d", b.ids)
		r := b.target.Record(id)
		if poison && i == n-1 {
			r = b.target.Poison(id)
		}
		r.Topic, r.TopicID, r.Partition, r.Offset = c.Partition.Topic, c.Partition.TopicID, c.Partition.Partition, from+int64(i)
		out.Records = append(out.Records, r)
	}
	return out
}

func (b *bench) wantEffects(t testing.TB, n int) {
	t.Helper()
	total := 0
	for id, k := range b.target.Effects(t) {
		if k != 1 {
			t.Errorf("%s took effect %d times", id, k)
		}
		total += k
	}
	if total != n {
		t.Errorf("%d effects, want %d", total, n)
	}
}

func testApply(t *testing.T, b *bench) {
	batch := b.batch(b.claim(t, partition(0)), 10, false)
	if err := b.sink.Apply(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	b.wantEffects(t, 10)
}

func testPoison(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	batch := b.batch(c, 5, true)
	err := b.sink.Apply(t.Context(), batch)
	var re *sinks.RecordError
	if !errors.As(err, &re) || !errors.Is(err, outrelay.ErrRecord) {
		t.Fatalf("error %v, want a RecordError", err)
	}
	if re.Record.Offset != batch.Records[4].Offset {
		t.Fatalf("blames offset %d, want %d", re.Record.Offset, batch.Records[4].Offset)
	}
	if b.sink.Guarantee() != sinks.Transactional {
		return
	}
	b.wantEffects(t, 0)
	if err := b.sink.Apply(t.Context(), b.batch(c, 3, false)); err != nil {
		t.Fatalf("the claim holds after a failed batch: %v", err)
	}
	b.wantEffects(t, 3)
}

func testFirstClaim(t *testing.T, b *bench) {
	if c := b.claim(t, partition(3)); c.Next != -1 || c.Epoch != 1 {
		t.Fatalf("first claim %+v", c)
	}
	if c := b.claim(t, partition(3)); c.Next != -1 || c.Epoch != 2 {
		t.Fatalf("second claim %+v", c)
	}
}

func testMoves(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	for i := range 3 {
		batch := b.batch(c, 4, false)
		if err := b.sink.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		c.Next = batch.Next
		b.wantEffects(t, 4*(i+1))
	}
	if again := b.claim(t, partition(0)); again.Next != 12 || again.Epoch != c.Epoch+1 {
		t.Fatalf("claim %+v, want next 12 and epoch %d", again, c.Epoch+1)
	}
	rows := must[[]sinks.OffsetRow](t)(b.store.Offsets(t.Context(), group))
	if len(rows) != 1 || rows[0].Next != 12 || rows[0].Partition != partition(0) || rows[0].UpdatedAt.IsZero() {
		t.Fatalf("rows %+v", rows)
	}
}

func testEmpty(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	if err := b.sink.Apply(t.Context(), sinks.Batch{Claim: c, From: -1, Next: 42}); err != nil {
		t.Fatal(err)
	}
	if c := b.claim(t, partition(0)); c.Next != 42 {
		t.Fatalf("claim %+v, want next 42", c)
	}
	b.wantEffects(t, 0)
}

func testFence(t *testing.T, b *bench) {
	old := b.claim(t, partition(0))
	other := newBench(t, b.target)
	now := other.claim(t, partition(0))
	if err := b.sink.Apply(t.Context(), b.batch(old, 5, false)); !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("the older owner: %v, want ErrFenced", err)
	}
	b.wantEffects(t, 0)
	if err := other.sink.Apply(t.Context(), b.batch(now, 2, false)); err != nil {
		t.Fatal(err)
	}
	b.wantEffects(t, 2)
}

func testWrongFrom(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	batch := b.batch(c, 2, false)
	batch.From, batch.Next = 7, 9
	if err := b.sink.Apply(t.Context(), batch); !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("error %v, want ErrFenced", err)
	}
	b.wantEffects(t, 0)
}

func testApart(t *testing.T, b *bench) {
	a := b.claim(t, partition(0))
	b.claim(t, partition(1))
	if _, err := b.store.Claim(t.Context(), "another group", partition(0)); err != nil {
		t.Fatal(err)
	}
	p := partition(0)
	p.Topic, p.TopicID = "another topic", [16]byte{2}
	b.claim(t, p)
	if err := b.sink.Apply(t.Context(), b.batch(a, 1, false)); err != nil {
		t.Fatalf("claims of others fence: %v", err)
	}
	if rows := must[[]sinks.OffsetRow](t)(b.store.Offsets(t.Context(), group)); len(rows) != 3 {
		t.Fatalf("rows %+v, want 3", rows)
	}
}

func testForeign(t *testing.T, b *bench, p sinks.Partition) {
	c := b.claim(t, partition(0))
	if err := b.sink.Apply(t.Context(), b.batch(c, 1, false)); err != nil {
		t.Fatal(err)
	}
	for n := range int32(2) { // a partition that the old topic had, and one that it had not
		p.Partition = n
		if _, err := b.store.Claim(t.Context(), group, p); !errors.Is(err, outrelay.ErrDataHalt) {
			t.Fatalf("partition %d: %v, want a data halt", n, err)
		}
	}
	if again := b.claim(t, partition(0)); again.Next != 1 {
		t.Fatalf("the refused claim changed the row: %+v", again)
	}
	if err := b.store.Reset(t.Context(), group, partition(0), -1); err != nil {
		t.Fatal(err)
	}
	if c := b.claim(t, p); c.Next != -1 {
		t.Fatalf("after the reset: %+v", c)
	}
}

func testOtherLog(t *testing.T, b *bench) {
	p := partition(0)
	p.LogID = "log-b"
	testForeign(t, b, p)
}

func testOtherTopic(t *testing.T, b *bench) {
	p := partition(0)
	p.TopicID = [16]byte{9}
	testForeign(t, b, p)
}

func testReset(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	if err := b.store.Reset(t.Context(), group, partition(0), 100); err != nil {
		t.Fatal(err)
	}
	if err := b.sink.Apply(t.Context(), b.batch(c, 1, false)); !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("the owner before the reset: %v, want ErrFenced", err)
	}
	if c := b.claim(t, partition(0)); c.Next != 100 {
		t.Fatalf("claim %+v, want next 100", c)
	}
	if err := b.store.Reset(t.Context(), group, partition(5), 7); err != nil { // a row that is not there yet
		t.Fatal(err)
	}
	if c := b.claim(t, partition(5)); c.Next != 7 {
		t.Fatalf("claim %+v, want next 7", c)
	}
}

func testResetRemoves(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	if err := b.sink.Apply(t.Context(), b.batch(c, 1, false)); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Reset(t.Context(), group, partition(0), -1); err != nil {
		t.Fatal(err)
	}
	if rows := must[[]sinks.OffsetRow](t)(b.store.Offsets(t.Context(), group)); len(rows) != 0 {
		t.Fatalf("rows %+v, want none", rows)
	}
}

// testTwoOwners lets two owners of the same partition work at random, each believing what it last heard. Whatever they do, the effects
// are those of the records below next_offset, once each.
func testTwoOwners(t *testing.T, b *bench) {
	other := newBench(t, b.target)
	part := int32(0)
	sum := 0
	rapid.Check(t, func(rt *rapid.T) {
		part++
		p := partition(part)
		owners := [2]*bench{b, other}
		var claims [2]sinks.Claim
		for i, o := range owners {
			claims[i] = o.claim(t, p)
		}
		live, next := 1, int64(-1)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			i := rapid.IntRange(0, 1).Draw(rt, "owner")
			switch rapid.SampledFrom([]string{"apply", "apply", "poison", "claim"}).Draw(rt, "op") {
			case "claim":
				claims[i] = owners[i].claim(t, p)
				live = i
				if claims[i].Next != next {
					rt.Fatalf("claim says next %d, the model %d", claims[i].Next, next)
				}
			case "poison":
				if err := owners[i].sink.Apply(t.Context(), b.batch(claims[i], 3, true)); err == nil {
					rt.Fatal("a poisoned batch was applied")
				}
			case "apply":
				batch := b.batch(claims[i], rapid.IntRange(0, 5).Draw(rt, "records"), false)
				err := owners[i].sink.Apply(t.Context(), batch)
				if wantOK := i == live; (err == nil) != wantOK || err != nil && !errors.Is(err, outrelay.ErrFenced) {
					rt.Fatalf("owner %d, live %d: %v", i, live, err)
				}
				if err == nil {
					sum += len(batch.Records)
					next, claims[i].Next = batch.Next, batch.Next
				}
			}
		}
	})
	b.wantEffects(t, sum)
}

// testCancelled ends the context at once: the sink may say what it likes, but a new claim knows, and it is all or nothing.
func testCancelled(t *testing.T, b *bench) {
	c := b.claim(t, partition(0))
	batch := b.batch(c, 50, false)
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	err := b.sink.Apply(ctx, batch)
	after := b.claim(t, partition(0))
	switch {
	case after.Next == batch.Next:
		b.wantEffects(t, 50)
	case after.Next == batch.From && err != nil:
		b.wantEffects(t, 0)
	default:
		t.Fatalf("Apply said %v, then a claim %+v", err, after)
	}
}
