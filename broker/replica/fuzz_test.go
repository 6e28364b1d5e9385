package replica_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

func seedBatch() []byte {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: 7, Epoch: 1, Sequence: 0, Transactional: true})
	b.Add(1, []byte("k"), []byte("v"), nil)
	return b.Build()
}

// FuzzEntryDecode: whatever the bytes, decoding says an error or accepts, and applying what it accepts does not panic.
func FuzzEntryDecode(f *testing.F) {
	f.Add(replica.EncodeBatchEntry(1, seedBatch()))
	f.Add(replica.EncodeGuardedEntry(1, 3, seedBatch()))
	f.Add(replica.EncodeLogStartEntry(1, 5))
	f.Add([]byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if replica.DecodeEntry(b) != nil {
			return
		}
		p := replica.NewPartition(replica.PartitionOptions{FS: vfs.NewMem(), Dir: "p", Clock: clock.NewFake(epoch)})
		if err := p.Restore(nil); err != nil {
			t.Fatal(err)
		}
		p.Apply(replica.Entry{Index: 2, Term: 1, Payload: b})
		p.Apply(replica.Entry{Index: 3, Term: 1, Payload: b})
		if _, err := p.Checkpoint()(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzCheckpointDecode: no panic, no allocation beyond the input's size, and what is accepted encodes to the same bytes.
func FuzzCheckpointDecode(f *testing.F) {
	mem := vfs.NewMem()
	n, err := replica.Open(replica.Options{FS: mem, Dir: "data", NodeID: 1, Manual: true})
	if err != nil {
		f.Fatal(err)
	}
	p := replica.NewPartition(replica.PartitionOptions{FS: mem, Dir: "p", Clock: clock.NewFake(epoch)})
	if err := n.AddGroup(1, p, replica.GroupConf{ReplicaID: 3, Voters: []uint64{3}}); err != nil {
		f.Fatal(err)
	}
	p.Produce(seedBatch(), replica.ProduceOptions{}, func(replica.ProduceResult) {})
	n.Pump()
	if err := n.Checkpoint(context.Background()); err != nil {
		f.Fatal(err)
	}
	blob, err := p.Checkpoint()()
	if err != nil {
		f.Fatal(err)
	}
	h, err := mem.Open("data/checkpoint")
	if err != nil {
		f.Fatal(err)
	}
	size, _ := h.Size()
	file := make([]byte, size)
	if _, err := h.ReadAt(file, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(file[12 : len(file)-4])
	f.Add(blob)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, replica.SealCheckpoint(b)} {
			out, err := replica.ReencodeCheckpoint(in)
			if err != nil {
				continue
			}
			again, err := replica.ReencodeCheckpoint(out)
			if err != nil || !bytes.Equal(out, again) {
				t.Fatalf("not stable: %x, %x, %v", out, again, err)
			}
		}
		out, err := replica.ReencodePartition(b)
		if err != nil {
			return
		}
		if again, err := replica.ReencodePartition(out); err != nil || !bytes.Equal(out, again) {
			t.Fatalf("not stable: %x, %x, %v", out, again, err)
		}
	})
}
