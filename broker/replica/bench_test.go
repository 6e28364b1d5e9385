package replica_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/vfs"
)

// BenchmarkPartition_Produce measures acknowledged batches on the real file system: each producer waits for its answer.
func BenchmarkPartition_Produce(b *testing.B) {
	for _, c := range []struct{ producers, partitions, bytes int }{{1, 1, 1 << 10}, {64, 16, 1 << 10}, {512, 64, 1 << 10}, {64, 16, 64 << 10}} {
		b.Run(fmt.Sprintf("producers=%d/partitions=%d/bytes=%d", c.producers, c.partitions, c.bytes), func(b *testing.B) {
			benchProduce(b, c.producers, c.partitions, c.bytes)
		})
	}
}

func benchProduce(b *testing.B, producers, partitions, size int) {
	dir := b.TempDir()
	n, err := replica.Open(replica.Options{FS: vfs.OS{}, Dir: dir, NodeID: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	parts := make([]*replica.Partition, partitions)
	var opening sync.WaitGroup
	for i := range parts {
		parts[i] = replica.NewPartition(replica.PartitionOptions{FS: vfs.OS{}, Dir: replica.PartitionDir(dir+"/partitions", [16]byte{1}, int32(i), 1)})
		opening.Go(func() {
			if err := n.AddGroup(replica.GroupID(i+1), parts[i], replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}); err != nil {
				b.Error(err)
			}
		})
	}
	opening.Wait()
	bld := record.NewBuilder(record.BuilderOptions{ProducerID: -1, Epoch: -1, Sequence: -1})
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rand.IntN(256))
	}
	bld.Add(1, nil, value, nil)
	batch := bld.Build()
	var mu sync.Mutex
	var took []time.Duration
	b.SetBytes(int64(size))
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range producers {
		p, count := parts[i%partitions], b.N/producers
		all.Go(func() {
			ch := make(chan replica.ProduceResult, 1)
			mine := make([]time.Duration, 0, count)
			for range count {
				began := time.Now()
				p.Produce(batch, replica.ProduceOptions{}, func(r replica.ProduceResult) { ch <- r })
				if r := <-ch; r.Err != nil {
					b.Error(r.Err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	all.Wait()
	b.StopTimer()
	slices.Sort(took)
	if len(took) > 0 {
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	}
}
