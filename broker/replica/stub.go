package replica

import (
	"context"
	"time"
)

// Node is this process's raft groups.
type Node struct{}

// Open opens the node's directory.
func Open(o Options) (*Node, error) { return nil, ErrClosed }

// Start starts the shards and the committer.
func (n *Node) Start() error { return ErrClosed }

// AddGroup adds a group.
func (n *Node) AddGroup(g GroupID, sm StateMachine, conf GroupConf) error { return ErrClosed }

// RemoveGroup forgets a group.
func (n *Node) RemoveGroup(g GroupID) error { return ErrClosed }

// Propose proposes.
func (n *Node) Propose(g GroupID, payload []byte, done func(result any, err error)) {
	done(nil, ErrClosed)
}

// Incarnation is the data directory's id.
func (n *Node) Incarnation() [16]byte { return [16]byte{} }

// Leader returns the leader epoch and whether this node leads.
func (n *Node) Leader(g GroupID) (epoch int32, ok bool) { return 0, false }

// Checkpoint writes a checkpoint now.
func (n *Node) Checkpoint(ctx context.Context) error { return ErrClosed }

// OnFatal sets what is called once when the node cannot go on.
func (n *Node) OnFatal(func(error)) {}

// Close checkpoints and closes.
func (n *Node) Close() error { return nil }

// Partition is a partition.
type Partition struct{}

// PartitionDir is the directory of one replica under base.
func PartitionDir(base string, topicID [16]byte, index int32, replicaID uint64) string { return "" }

// NewPartition returns a partition; add it to a Node with AddGroup.
func NewPartition(o PartitionOptions) *Partition { return &Partition{} }

// Apply implements StateMachine.
func (p *Partition) Apply(e Entry) any { return nil }

// Checkpoint implements StateMachine.
func (p *Partition) Checkpoint() func() ([]byte, error) { return nil }

// Restore implements StateMachine.
func (p *Partition) Restore(blob []byte) error { return nil }

// Produce appends a batch.
func (p *Partition) Produce(batch []byte, o ProduceOptions, done func(ProduceResult)) {
	done(ProduceResult{Err: ErrClosed})
}

// WriteMarker ends a transaction.
func (p *Partition) WriteMarker(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, done func(ProduceResult)) {
	done(ProduceResult{Err: ErrClosed})
}

// DeleteRecords moves the log start offset; -1 means the high watermark.
func (p *Partition) DeleteRecords(before int64, done func(logStart int64, err error)) { done(0, ErrClosed) }

// Read reads.
func (p *Partition) Read(from int64, maxBytes int, readCommitted, minOne bool) (FetchResult, error) {
	return FetchResult{}, ErrClosed
}

// Watch returns a channel that is closed when the high watermark or the last stable offset moves next.
func (p *Partition) Watch() <-chan struct{} { return nil }

// HighWatermark is the first offset not committed.
func (p *Partition) HighWatermark() int64 { return 0 }

// LastStable is the last stable offset.
func (p *Partition) LastStable() int64 { return 0 }

// LogStart is the log start offset.
func (p *Partition) LogStart() int64 { return 0 }

// LeaderEpoch is the leader epoch.
func (p *Partition) LeaderEpoch() int32 { return 0 }

// Size is the size on disk.
func (p *Partition) Size() int64 { return 0 }

// OffsetForTime finds the first record at or after ts (ms).
func (p *Partition) OffsetForTime(ts int64) (offset, foundTs int64, ok bool, err error) {
	return 0, 0, false, ErrClosed
}

// MaxTimestamp returns the record with the largest timestamp.
func (p *Partition) MaxTimestamp() (offset, ts int64) { return -1, -1 }

// OffsetForEpoch answers OffsetForLeaderEpoch.
func (p *Partition) OffsetForEpoch(epoch int32) (endEpoch int32, endOffset int64) { return -1, -1 }

// HasOpenTxn reports whether the producer has an open transaction here in this epoch (KIP-890 verification).
func (p *Partition) HasOpenTxn(producerID int64, epoch int16) bool { return false }

// Producers lists producers.
func (p *Partition) Producers() []ProducerState { return nil }

// OpenTxns lists open transactions.
func (p *Partition) OpenTxns() []OpenTxn { return nil }

// Maintain looks at retention and compaction.
func (p *Partition) Maintain(now time.Time) error { return nil }

// Destroy deletes the replica's directory. Call it only for a topic whose deletion is committed, after RemoveGroup.
func (p *Partition) Destroy() error { return nil }
