package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// AnyPartition in Record.Partition leaves the choice to the partitioner: the key's hash, or any partition for a null key.
const AnyPartition = -1

// Partitioner partitions as the Java client does: murmur2 of the key; a null key goes anywhere, staying with one partition
// for a batch. A record whose Partition is not AnyPartition goes exactly there, so every record must have Partition set.
func Partitioner() kgo.Partitioner { return partitioner{kgo.StickyKeyPartitioner(nil)} }

type partitioner struct{ keyed kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	inner := p.keyed.ForTopic(topic)
	onNew, _ := inner.(kgo.TopicPartitionerOnNewBatch)
	return &topicPartitioner{TopicPartitioner: inner, onNew: onNew}
}

type topicPartitioner struct {
	kgo.TopicPartitioner
	onNew kgo.TopicPartitionerOnNewBatch
}

func (p *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition != AnyPartition || p.TopicPartitioner.RequiresConsistency(r)
}

func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition != AnyPartition {
		return int(r.Partition) // out of range fails the record
	}
	return p.TopicPartitioner.Partition(r, n)
}

func (p *topicPartitioner) OnNewBatch() {
	if p.onNew != nil {
		p.onNew.OnNewBatch()
	}
}

// PartitionOf returns the partition among n that the Java client picks for a key.
func PartitionOf(key []byte, n int32) int32 {
	return int32(murmur2(key)&0x7fffffff) % n
}

// murmur2 is the hash of the Java client (org.apache.kafka.common.utils.Utils.murmur2).
func murmur2(b []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(b))
	for len(b) >= 4 {
		k := uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
		b = b[4:]
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
