package offline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

func repair(t testing.TB, mem *vfs.Mem, apply bool) *offline.RepairReport {
	t.Helper()
	r, err := offline.Repair(context.WithoutCancel(t.Context()), offline.RepairOptions{
		Options: offline.Options{FS: mem, Dir: dataDir}, Apply: apply, Now: time.Unix(1_700_000_000, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// batches returns what can be read of a partition: base offset → the batch's bytes behind the stamped ones.
func batches(t testing.TB, n *brokertest.Node, partition int32) map[int64]string {
	t.Helper()
	cl, got := client(t, n), map[int64]string{}
	for next := int64(0); ; {
		p := fetchFrom(t, cl, partition, next)
		if p.ErrorCode != 0 {
			t.Fatalf("fetch at %d: error %d", next, p.ErrorCode)
		}
		if next == p.HighWatermark {
			return got
		}
		before := next
		for b, err := range record.Split(p.RecordBatches) {
			if err != nil {
				t.Fatal(err)
			}
			got[b.BaseOffset()] = string(b[record.PrefixBytes:])
			next = b.LastOffset() + 1
		}
		if next == before {
			next++ // a gap up to the log's end
		}
	}
}

// TestRepair_onePartition: the dry run changes nothing; the repair keeps every whole batch at its offset, and the original; offsets go on where they were.
func TestRepair_onePartition(t *testing.T) {
	t.Parallel()
	for _, tc := range damages() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := node(t)
			fill(t, n)
			want := batches(t, n, 1)
			var lost func(int64) bool
			n.RestartAfter(func(mem *vfs.Mem) {
				tc.damage(t, mem)
				before := snapshot(t, mem, dataDir)
				plan := repair(t, mem, false)
				if snapshot(t, mem, dataDir) != before {
					t.Fatal("the dry run has changed something")
				}
				r := repair(t, mem, true)
				if len(plan.Steps) != 1 || len(r.Steps) != 1 || !r.Applied || len(r.Unrepairable) != 0 || fmt.Sprint(plan.Steps[0].Lost) != fmt.Sprint(r.Steps[0].Lost) {
					t.Fatalf("plan %+v\ndone %+v", plan, r)
				}
				s := r.Steps[0]
				if s.Topic != "plain" || s.Partition != 1 || len(s.Lost) == 0 {
					t.Fatalf("%+v", s)
				}
				var kept offline.RepairReport
				if err := json.Unmarshal(content(t, mem, path.Join(r.Originals, "report.json")), &kept); err != nil || len(kept.Steps) != 1 {
					t.Fatal(kept, err)
				}
				size(t, mem, path.Join(r.Originals, "checkpoint"))
				if s.Original != "" {
					size(t, mem, s.Original)
				}
				if v := verify(t, mem); !v.Clean {
					t.Fatalf("after the repair: %+v", v.Damages)
				}
				if again := repair(t, mem, true); len(again.Steps) != 0 {
					t.Fatalf("a second repair: %+v", again.Steps)
				}
				lost = func(o int64) bool {
					for _, g := range s.Lost {
						if o >= g.From && o < g.To {
							return true
						}
					}
					return false
				}
			})
			got := batches(t, n, 1)
			gone := 0
			for o, b := range want {
				switch {
				case lost(o):
					gone++
				case got[o] != b:
					t.Fatalf("the batch at %d, which was not reported as lost, is %d bytes, was %d", o, len(got[o]), len(b))
				}
				delete(got, o)
			}
			if len(got) != 0 || gone > 11 {
				t.Fatalf("%d batches more than before, %d lost", len(got), gone)
			}
			if base := produceBase(t, n, 1); base != int64(len(want)) {
				t.Fatalf("the next offset is %d, was %d", base, len(want))
			}
			n.Restart()
			if ds := n.Damaged(); len(ds) != 0 {
				t.Fatal(ds)
			}
			if b := batches(t, n, 1); b[int64(len(want))] == "" {
				t.Fatal("what was written after the repair is gone")
			}
		})
	}
}

func produceBase(t testing.TB, n *brokertest.Node, partition int32) int64 {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = "plain"
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, oneRecord()
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	r, err := req.RequestWith(t.Context(), client(t, n))
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Fatalf("produce: %d", p.ErrorCode)
	}
	return r.Topics[0].Partitions[0].BaseOffset
}

// TestRepair_leavesTheNodesFilesAlone: what holds for all partitions is mended by a backup only.
func TestRepair_leavesTheNodesFilesAlone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"checkpoint", "node.json"} {
		n := node(t)
		fill(t, n)
		n.RestartAfter(func(mem *vfs.Mem) {
			flip(t, mem, dataDir+"/"+name, 40, 0x80)
			before := snapshot(t, mem, dataDir)
			r := repair(t, mem, true)
			if len(r.Steps) != 0 || !slices.ContainsFunc(r.Unrepairable, func(d offline.Damage) bool { return d.File == dataDir+"/"+name }) {
				t.Fatalf("%s: %+v", name, r)
			}
			if snapshot(t, mem, dataDir) != before {
				t.Fatal("something was changed")
			}
			flip(t, mem, dataDir+"/"+name, 40, 0x80)
		})
	}
}
