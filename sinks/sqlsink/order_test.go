package sqlsink

import (
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/sinks"
)

func TestMoveOrder(t *testing.T) {
	t.Parallel()
	of := func(topic byte, partition int32) sinks.Batch {
		return sinks.Batch{Claim: sinks.Claim{Group: "g", Partition: sinks.Partition{LogID: "l", TopicID: [16]byte{topic}, Topic: "t", Partition: partition}}}
	}
	want := []sinks.Batch{of(1, 2), of(1, 10), of(2, 0), of(2, 1)}
	for _, given := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}} {
		var bs []sinks.Batch
		for _, i := range given {
			bs = append(bs, want[i])
		}
		order, err := MoveOrder(bs)
		if err != nil {
			t.Fatal(err)
		}
		for n, i := range order {
			if bs[i].Claim != want[n].Claim {
				t.Fatalf("given %v: order %v", given, order)
			}
		}
	}
	bs := slices.Concat(want, want[1:2])
	if _, err := MoveOrder(bs); err == nil || !strings.Contains(err.Error(), "two batches of t/10") {
		t.Fatalf("twice the same partition: %v", err)
	}
	bs = []sinks.Batch{of(1, 1)}
	bs[0].From, bs[0].Next = 2, 1
	if _, err := MoveOrder(bs); err == nil {
		t.Fatal("a batch that ends before it begins")
	}
}
