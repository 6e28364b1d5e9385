package sinktest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// Tests of sinks.MultiApplier: batches of several partitions in one transaction.

// claims claims partitions [0, n).
func (b *bench) claims(t testing.TB, n int) []sinks.Claim {
	t.Helper()
	cs := make([]sinks.Claim, n)
	for i := range cs {
		cs[i] = b.claim(t, partition(int32(i)))
	}
	return cs
}

// batches is a batch of size records for each claim; poison is the index of the one whose last record is poison, -1 for none.
func (b *bench) batches(cs []sinks.Claim, size, poison int) []sinks.Batch {
	var out []sinks.Batch
	for i, c := range cs {
		out = append(out, b.batch(c, size, i == poison))
	}
	return out
}

// wantNext checks what the sink holds for partitions [0, len(next)).
func (b *bench) wantNext(t testing.TB, next ...int64) {
	t.Helper()
	rows := must[[]sinks.OffsetRow](t)(b.store.Offsets(t.Context(), group))
	for p, want := range next {
		i := slices.IndexFunc(rows, func(r sinks.OffsetRow) bool { return r.Partition == partition(int32(p)) })
		if i < 0 || rows[i].Next != want {
			t.Errorf("partition %d: rows %+v, want next %d", p, rows, want)
		}
	}
}

func testTogether(t *testing.T, b *bench, m sinks.MultiApplier) {
	cs := b.claims(t, 3)
	bs := b.batches([]sinks.Claim{cs[2], cs[0], cs[1]}, 4, -1)
	bs[1].Records, bs[1].Next = nil, 9 // one that moves its offset and does nothing else
	given := slices.Clone(bs)
	if err := m.ApplyAll(t.Context(), bs); err != nil {
		t.Fatal(err)
	}
	b.wantEffects(t, 8)
	b.wantNext(t, 9, 4, 4)
	for i := range bs {
		if bs[i].Claim != given[i].Claim || bs[i].Next != given[i].Next {
			t.Fatalf("the caller's batches were changed: %+v, were %+v", bs, given)
		}
		cs[i] = given[i].Claim
		cs[i].Next = given[i].Next
	}
	if err := m.ApplyAll(t.Context(), b.batches(cs, 1, -1)); err != nil {
		t.Fatalf("the claims hold: %v", err)
	}
	b.wantEffects(t, 11)
}

func testTogetherFenced(t *testing.T, b *bench, m sinks.MultiApplier) {
	for late := range 3 {
		cs := b.claims(t, 3)
		other := newBench(t, b.target)
		now := other.claim(t, partition(int32(late)))
		effects := len(b.target.Effects(t))
		bs := b.batches(cs, 2, -1)
		err := m.ApplyAll(t.Context(), bs)
		var of *sinks.BatchError
		if !errors.Is(err, outrelay.ErrFenced) || !errors.As(err, &of) || of.Index != late {
			t.Fatalf("error %v (%+v), want ErrFenced of batch %d", err, of, late)
		}
		b.wantEffects(t, effects)
		b.wantNext(t, cs[0].Next, cs[1].Next, cs[2].Next)
		// The others go on without it, and so does the new owner.
		if err := m.ApplyAll(t.Context(), slices.Delete(bs, late, late+1)); err != nil {
			t.Fatal(err)
		}
		if err := other.sink.Apply(t.Context(), b.batch(now, 2, false)); err != nil {
			t.Fatal(err)
		}
		b.wantEffects(t, effects+6)
	}
}

func testTogetherPoison(t *testing.T, b *bench, m sinks.MultiApplier) {
	for poison := range 3 {
		cs := b.claims(t, 3)
		effects := len(b.target.Effects(t))
		bs := b.batches(cs, 2, poison)
		err := m.ApplyAll(t.Context(), bs)
		var of *sinks.BatchError
		if !errors.As(err, &of) || of.Index != poison {
			t.Fatalf("error %v, want one of batch %d", err, poison)
		}
		var re *sinks.RecordError
		if !errors.As(err, &re) || !errors.Is(err, outrelay.ErrRecord) || re.Record.Partition != int32(poison) || re.Record.Offset != bs[poison].Records[1].Offset {
			t.Fatalf("error %v blames %+v, want the last record of partition %d", err, re, poison)
		}
		b.wantEffects(t, effects)
		b.wantNext(t, cs[0].Next, cs[1].Next, cs[2].Next)
		if err := m.ApplyAll(t.Context(), slices.Delete(bs, poison, poison+1)); err != nil {
			t.Fatalf("the others' claims hold: %v", err)
		}
		b.wantEffects(t, effects+4)
	}
}

// testTogetherRandom lets two owners apply any of four partitions together, each believing what it last heard of its claims. A transaction
// takes effect exactly when every claim in it is the latest.
func testTogetherRandom(t *testing.T, b *bench, m sinks.MultiApplier) {
	const partitions = 4
	other := newBench(t, b.target)
	first, sum := int32(0), 0
	rapid.Check(t, func(rt *rapid.T) {
		first += partitions
		owners := [2]*bench{b, other}
		var claims [2][partitions]sinks.Claim
		var live [partitions]int
		for p := range partitions {
			for i, o := range owners {
				claims[i][p], live[p] = o.claim(t, partition(first+int32(p))), i
			}
		}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			i := rapid.IntRange(0, 1).Draw(rt, "owner")
			if rapid.IntRange(0, 3).Draw(rt, "claim") == 0 {
				p := rapid.IntRange(0, partitions-1).Draw(rt, "partition")
				claims[i][p], live[p] = owners[i].claim(t, partition(first+int32(p))), i
				continue
			}
			of := rapid.SliceOfNDistinct(rapid.IntRange(0, partitions-1), 1, partitions, rapid.ID[int]).Draw(rt, "partitions")
			var bs []sinks.Batch
			fenced := -1
			for n, p := range of {
				bs = append(bs, b.batch(claims[i][p], rapid.IntRange(0, 3).Draw(rt, "records"), false))
				if live[p] != i {
					fenced = n
				}
			}
			err := owners[i].sink.(sinks.MultiApplier).ApplyAll(t.Context(), bs)
			var at *sinks.BatchError
			switch {
			case fenced < 0 && err != nil:
				rt.Fatalf("all claims are the latest: %v", err)
			case fenced >= 0 && (!errors.As(err, &at) || !errors.Is(err, outrelay.ErrFenced) || live[of[at.Index]] == i):
				rt.Fatalf("batch %d is of a late owner: %v", fenced, err)
			case fenced >= 0:
				continue
			}
			for n, p := range of {
				claims[i][p].Next = bs[n].Next
				claims[1-i][p].Next = bs[n].Next // so that only the epoch tells the owners apart
				sum += len(bs[n].Records)
			}
		}
	})
	b.wantEffects(t, sum)
}

// testTogetherCancelled ends the context at once: all of it, or nothing.
func testTogetherCancelled(t *testing.T, b *bench, m sinks.MultiApplier) {
	cs := b.claims(t, 3)
	bs := b.batches(cs, 20, -1)
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	err := m.ApplyAll(ctx, bs)
	applied := 0
	for i, c := range b.claims(t, 3) { // each claim is final
		switch c.Next {
		case bs[i].Next:
			applied++
		case bs[i].From:
		default:
			t.Fatalf("ApplyAll said %v, then a claim %+v", err, c)
		}
	}
	if applied != 0 && applied != 3 || applied == 0 && err == nil {
		t.Fatalf("%d of 3 batches are in; ApplyAll said %v", applied, err)
	}
	b.wantEffects(t, 20*applied)
}
