package postgres_test

import (
	"errors"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

func TestRelocate(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	s := open(t, tg.options("relocate"))
	old := func(n int32) sinks.Partition {
		return sinks.Partition{LogID: "old", TopicID: [16]byte{1}, Topic: "t", Partition: n}
	}
	then := func(n int32) sinks.Partition {
		return sinks.Partition{LogID: "new", TopicID: [16]byte{2}, Topic: "t", Partition: n}
	}
	ctx := t.Context()
	var claims []sinks.Claim
	for n := range int32(2) {
		if err := s.Reset(ctx, "g", old(n), int64(10+n)); err != nil {
			t.Fatal(err)
		}
		c, err := s.Claim(ctx, "g", old(n))
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, c)
	}
	moves := []sinks.Relocation{{From: old(0), To: then(0), Next: 10, NextThen: 7}, {From: old(1), To: then(1), Next: 12, NextThen: 8}}
	if err := s.Relocate(ctx, "g", moves); !errors.Is(err, sinks.ErrConflict) || !errors.Is(err, outrelay.ErrTransient) {
		t.Fatalf("a row that is not as it is said to be: %v", err)
	}
	rows := func() map[int32]sinks.OffsetRow {
		list, err := s.Offsets(ctx, "g")
		if err != nil || len(list) != 2 {
			t.Fatalf("%d rows, %v", len(list), err)
		}
		return map[int32]sinks.OffsetRow{list[0].Partition.Partition: list[0], list[1].Partition.Partition: list[1]}
	}
	for n, r := range rows() {
		if r.Partition != old(n) || r.Next != int64(10+n) {
			t.Errorf("after a refused move: %+v", r)
		}
	}
	moves[1].Next = 11
	if err := s.Relocate(ctx, "g", moves); err != nil {
		t.Fatal(err)
	}
	for n, r := range rows() {
		if r.Partition != then(n) || r.Next != int64(7+n) || r.Epoch != claims[n].Epoch+1 || r.Owner != "moved by relocate" {
			t.Errorf("after the move: %+v", r)
		}
	}
	// The owner in the old log is fenced, and whoever claims there is told where the row is.
	err := s.Apply(ctx, sinks.Batch{Claim: claims[0], From: 10, Next: 11})
	if !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the old owner's batch: %v", err)
	}
	var halt *outrelay.Error
	if _, err := s.Claim(ctx, "g", old(0)); !errors.As(err, &halt) || halt.Code != "other-log" || !errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("a claim in the old log: %v", err)
	}
	if c, err := s.Claim(ctx, "g", then(0)); err != nil || c.Next != 7 || c.Epoch != claims[0].Epoch+2 {
		t.Errorf("a claim in the new log: %+v, %v", c, err)
	}
}
