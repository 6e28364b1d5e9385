package offline_test

import (
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/internal/vfs"
)

// TestScrub_findsWhatNobodyReads: damage in an old segment is marked in the background, with the place that verify names.
func TestScrub_findsWhatNobodyReads(t *testing.T) {
	t.Parallel()
	n := node(t, func(o *broker.Options) { o.ScrubAfter, o.ScrubBytes = time.Millisecond, 1<<30 })
	fill(t, n)
	var place string
	n.RestartAfter(func(mem *vfs.Mem) {
		flip(t, mem, file(t, mem, 0, ".log", 1), 9000, 2)
		r := verify(t, mem)
		if len(r.Damages) != 1 {
			t.Fatalf("%+v", r.Damages)
		}
		place = r.Damages[0].Text
	})
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for deadline := time.After(20 * time.Second); len(n.Damaged()) == 0; {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal("the scrub finds nothing")
		}
	}
	if ds := n.Damaged(); len(ds) != 1 || ds[0].Partition != 0 || ds[0].Damage != place {
		t.Fatalf("%+v\nverify said %s", ds, place)
	}
	if err := readToEnd(t, n, 1); err != nil {
		t.Fatalf("the other partition: %v", err)
	}
}
