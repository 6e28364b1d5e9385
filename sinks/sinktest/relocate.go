package sinktest

import (
	"errors"
	"strings"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// testRelocate moves rows to another log, all of them or none.
func testRelocate(t *testing.T, b *bench) {
	s, ok := b.store.(sinks.Relocator)
	if !ok {
		t.Skip("the sink's rows stay with their log")
	}
	old := func(n int32) sinks.Partition {
		return sinks.Partition{LogID: "old", TopicID: [16]byte{1}, Topic: "t", Partition: n}
	}
	then := func(n int32) sinks.Partition {
		return sinks.Partition{LogID: "new", TopicID: [16]byte{2}, Topic: "t", Partition: n}
	}
	ctx := t.Context()
	var claims []sinks.Claim
	for n := range int32(2) {
		if err := s.Reset(ctx, group, old(n), int64(10+n)); err != nil {
			t.Fatal(err)
		}
		c, err := s.Claim(ctx, group, old(n))
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, c)
	}
	if err := s.Relocate(ctx, group, nil); err != nil {
		t.Fatal(err)
	}
	moves := []sinks.Relocation{{From: old(0), To: then(0), Next: 10, NextThen: 7}, {From: old(1), To: then(1), Next: 12, NextThen: 8}}
	if err := s.Relocate(ctx, group, moves); !errors.Is(err, sinks.ErrConflict) || !errors.Is(err, outrelay.ErrTransient) {
		t.Fatalf("a row that is not as it is said to be: %v", err)
	}
	rows := func() map[int32]sinks.OffsetRow {
		list, err := s.Offsets(ctx, group)
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
	if err := s.Relocate(ctx, group, moves); err != nil {
		t.Fatal(err)
	}
	for n, r := range rows() {
		if r.Partition != then(n) || r.Next != int64(7+n) || r.Epoch != claims[n].Epoch+1 || !strings.HasPrefix(r.Owner, "moved by ") {
			t.Errorf("after the move: %+v", r)
		}
	}
	// The owner in the old log is fenced, and whoever claims there is told where the row is.
	err := s.Apply(ctx, sinks.Batch{Claim: claims[0], From: 10, Next: 11})
	if !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the old owner's batch: %v", err)
	}
	var halt *outrelay.Error
	if _, err := s.Claim(ctx, group, old(0)); !errors.As(err, &halt) || halt.Code != "other-log" || !errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("a claim in the old log: %v", err)
	}
	if c, err := s.Claim(ctx, group, then(0)); err != nil || c.Next != 7 || c.Epoch != claims[0].Epoch+2 {
		t.Errorf("a claim in the new log: %+v, %v", c, err)
	}
	// A place that is taken stays as it is.
	if err := s.Reset(ctx, group, old(1), 3); err != nil {
		t.Fatal(err)
	}
	back := []sinks.Relocation{{From: then(0), To: old(0), Next: 7, NextThen: 10}, {From: then(1), To: old(1), Next: 8, NextThen: 11}}
	if err := s.Relocate(ctx, group, back); !errors.Is(err, sinks.ErrConflict) {
		t.Errorf("a move to where a row is: %v", err)
	}
	if err := s.Relocate(ctx, group, back[:1]); err != nil {
		t.Errorf("the other row alone: %v", err)
	}
}
