package replica

import (
	"log/slog"
	"math"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// TopicConfig is what of a topic's configuration its partitions act on. Negative limits mean none.
type TopicConfig struct {
	Compact, Delete   bool // cleanup.policy
	RetentionMs       int64
	RetentionBytes    int64
	SegmentBytes      int64
	SegmentMs         int64
	LogAppendTime     bool // message.timestamp.type
	DeleteRetentionMs int64
	MinCompactionLag  time.Duration
	MaxCompactionLag  time.Duration
	MinCleanableRatio float64
}

// segmentAge is how old a segment may grow; 0 stands for the default. In a compacted topic a segment is closed in time for max.compaction.lag.ms.
func (c TopicConfig) segmentAge() time.Duration {
	age := time.Duration(math.MaxInt64)
	if c.SegmentMs < int64(age/time.Millisecond) {
		age = time.Duration(c.SegmentMs) * time.Millisecond
	}
	if c.Compact && c.MaxCompactionLag > 0 && age > 0 {
		age = min(age, c.MaxCompactionLag)
	}
	return age
}

// Observer follows what a partition holds (group offsets, transaction state). Its methods are called at apply, in log order,
// from one goroutine at a time, on every replica and again after a restart for what the checkpoint lacks; they must not block
// and must not keep the batch. Its snapshot is part of the checkpoint.
type Observer interface {
	// ApplyBatch is called for every batch that enters the log, apart from control batches and duplicates.
	ApplyBatch(base int64, b record.Batch) error
	// ApplyMarker is called for every end-of-transaction marker that enters the log.
	ApplyMarker(producerID int64, epoch int16, commit bool)
	Snapshot() []byte
	// Restore is called once, before anything else, with nil when there is no snapshot.
	Restore(blob []byte) error
}

// PartitionOptions configure a Partition. FS, Dir and TopicID are required.
type PartitionOptions struct {
	FS      vfs.FS
	Dir     string // this replica's own directory; see PartitionDir
	TopicID [16]byte
	Topic   string
	Index   int32
	// Config returns the topic's current configuration; nil means defaults. It is called often and must not block.
	Config   func() TopicConfig
	Clock    clock.Clock
	Observer Observer // nil: none
	Logger   *slog.Logger
	// ProducerExpiry is how long a producer that writes nothing is remembered (producer.id.expiration.ms); default 24 h. It is
	// measured by the times leaders wrote into entries, so that every replica forgets at the same entry.
	ProducerExpiry time.Duration
}

// ProduceOptions say how a batch may enter the log.
type ProduceOptions struct {
	// InternalControl allows control batches; never set for what a client sent.
	InternalControl bool
	// Guard, from Partition.TxnGuard, is for transactional batches whose transaction shares its epoch with others; 0 for all else.
	Guard TxnGuard
	// OwnEpoch says of a transactional batch that its transaction has an epoch of its own (KIP-890, transaction version 2).
	OwnEpoch bool
	// Placed, when it is set, is called as by Node.ProposePlaced.
	Placed func()
}

// TxnGuard is the raft index of the last end of a transaction that a producer had in a partition, plus 1; 0 is no guard.
type TxnGuard uint64

// ProduceResult is the outcome of Produce. Err is nil or a *kerr.Error.
type ProduceResult struct {
	Base          int64 // offset of the batch's first record; for a duplicate, the original's
	LogAppendTime int64 // ms; -1 unless message.timestamp.type is LogAppendTime
	LogStart      int64
	Duplicate     bool
	Err           error
}

// FetchResult is what Read or Lend found: whole batches, beginning with the one that contains the offset asked for; they
// may be sent as they are. Those of Read belong to the caller, those of Lend until Release.
type FetchResult struct {
	segment.Chunk
	HighWatermark int64
	LastStable    int64
	LogStart      int64
	Aborted       []segment.AbortedTxn // only with readCommitted
}

// Len returns how many bytes the batches have.
func (r *FetchResult) Len() int {
	if r.Extent != nil {
		return int(r.Extent.Bytes())
	}
	return len(r.Bytes)
}

// ProducerState describes a producer that the partition remembers (DescribeProducers).
type ProducerState struct {
	ProducerID       int64
	Epoch            int16
	LastSequence     int32 // -1: none
	LastTimestamp    int64 // ms, the leader's clock
	CoordinatorEpoch int32 // of the last marker; -1: none
	TxnFirstOffset   int64 // of the open transaction; -1: none
}

// OpenTxn is a transaction that holds the last stable offset.
type OpenTxn struct {
	ProducerID  int64
	Epoch       int16
	FirstOffset int64
	Since       int64 // ms, the leader's clock when its first batch was proposed
}
