package replica_test

import (
	"context"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// aged is a partition on a clock that the test moves.
func aged(t *testing.T, cfg replica.TopicConfig) (*replica.Node, *replica.Partition, *clock.Fake, func(time.Duration)) {
	t.Helper()
	mem, clk := vfs.NewMem(), clock.NewFake(epoch)
	n, err := replica.Open(replica.Options{FS: mem, Dir: "data", NodeID: 1, Manual: true, Shards: 1, Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	p := replica.NewPartition(replica.PartitionOptions{FS: mem, Dir: "data/p", Topic: "t", Clock: clk, Config: func() replica.TopicConfig { return cfg }})
	add(t, n, 1, p)
	t.Cleanup(func() { _ = n.Close() })
	return n, p, clk, func(d time.Duration) {
		t.Helper()
		clk.Advance(d)
		for range 3 { // roll; move the start; remove the files
			if err := p.Maintain(clk.Now()); err != nil {
				t.Fatal(err)
			}
			n.Pump()
			if err := n.Checkpoint(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func produceAt(t *testing.T, n *replica.Node, p *replica.Partition, at time.Time, key string) {
	t.Helper()
	b := record.NewBuilder(record.NoProducer(record.CodecNone))
	b.Add(at.UnixMilli(), []byte(key), []byte("v"), nil)
	err := error(nil)
	p.Produce(b.Build(), replica.ProduceOptions{}, func(r replica.ProduceResult) { err = r.Err })
	n.Pump()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMaintain_theLastRecordsExpire: an idle partition keeps nothing for longer than retention.ms, whatever segment.ms says, as in Kafka.
func TestMaintain_theLastRecordsExpire(t *testing.T) {
	t.Parallel()
	n, p, clk, wait := aged(t, replica.TopicConfig{Delete: true, RetentionMs: 3_600_000, RetentionBytes: -1, SegmentMs: 7 * 86_400_000})
	produceAt(t, n, p, clk.Now(), "a")
	wait(time.Hour)
	if p.LogStart() != 0 {
		t.Fatalf("log start %d while the record is as old as it may be", p.LogStart())
	}
	wait(time.Millisecond)
	if p.LogStart() != 1 || p.HighWatermark() != 1 || p.Size() != 0 {
		t.Fatalf("log [%d, %d) of %d bytes an hour later", p.LogStart(), p.HighWatermark(), p.Size())
	}
	produceAt(t, n, p, clk.Now(), "b")
	if p.HighWatermark() != 2 {
		t.Fatal("offsets begin again")
	}
}

// TestMaintain_maxCompactionLag: a compacted topic closes a segment in time, so that no record waits longer for compaction than the topic says.
func TestMaintain_maxCompactionLag(t *testing.T) {
	t.Parallel()
	n, p, clk, wait := aged(t, replica.TopicConfig{
		Compact: true, RetentionMs: -1, RetentionBytes: -1, SegmentMs: 7 * 86_400_000, MinCleanableRatio: 1, MaxCompactionLag: time.Hour,
	})
	produceAt(t, n, p, clk.Now(), "a")
	produceAt(t, n, p, clk.Now(), "a")
	size := p.Size()
	wait(time.Hour)
	if p.Size() != size {
		t.Fatalf("%d bytes before it is time, were %d", p.Size(), size)
	}
	wait(time.Minute)
	if p.Size() >= size {
		t.Fatalf("%d bytes: nothing was compacted", p.Size())
	}
}
