package replica

import (
	"errors"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// GroupID names a raft group. 0 is the cluster's metadata; group 0 allocates the others and never uses one again.
type GroupID uint64

// MetadataGroup is the group of the cluster's metadata.
const MetadataGroup GroupID = 0

var (
	// ErrNotLeader: this node does not lead the group, or lost the lead before the proposal was applied. The proposal may
	// still be applied later; who retries must be able to bear that.
	ErrNotLeader = errors.New("not the leader of the group")
	// ErrTooManyInFlight: the limits on proposals in flight are reached; nothing was proposed. Retry later.
	ErrTooManyInFlight = errors.New("too many proposals in flight")
	// ErrTooLarge: the proposal is larger than Options.EntryBytesMax; nothing was proposed.
	ErrTooLarge = errors.New("proposal too large")
	// ErrClosed: the node is closed, or failed. A proposal that was in flight may or may not be found after a restart.
	ErrClosed = errors.New("node closed")
	// ErrUnknownGroup: the group was not added to this node.
	ErrUnknownGroup = errors.New("unknown raft group")
	// ErrIdentity: the data directory belongs to another node id.
	ErrIdentity = errors.New("data directory of another node")
	// ErrCorrupt: a checkpoint, identity file or entry is not what was written. Nothing is deleted because of it.
	ErrCorrupt = errors.New("corrupt replica state")
	// ErrVersion: a file or entry was written by a newer version.
	ErrVersion = errors.New("written by a newer version")
)

// Entry is a committed entry of a group's log. Payload is shared with raft and the cache: it must not be changed or kept.
type Entry struct {
	Index, Term uint64
	Payload     []byte
}

// StateMachine is what a group's entries are applied to. All methods are called from one goroutine at a time.
type StateMachine interface {
	// Apply applies the next entry; its result goes to the proposer. A result of type Fatal stops the node. Entries that
	// raft writes for itself are not seen here, so indexes may jump.
	Apply(e Entry) any
	// Checkpoint freezes what was applied so far. It is called between two applies and must be quick; the function it returns
	// runs on another goroutine, beside later applies, makes that state durable and returns the blob from which Restore
	// brings it back. The next Checkpoint comes only after that function returned.
	Checkpoint() func() ([]byte, error)
	// Restore sets the state to what a blob says; it is called once, before the first Apply, with nil for a new group.
	Restore(blob []byte) error
}

// Fatal is an Apply result that means the state machine can no longer follow the log (a disk failed). It stops the node.
type Fatal struct{ Err error }

// GroupConf says which replica of a group this is.
type GroupConf struct {
	ReplicaID uint64   // this node's raft id in the group; allocated by group 0 and never used again
	Voters    []uint64 // replica ids that bootstrap the group; ignored when the group is on disk already
}

// Options configure a Node. FS and Dir are required.
type Options struct {
	FS     vfs.FS
	Dir    string // holds node.json, checkpoint, lock and wal/
	NodeID int32
	WAL    wal.Options
	Clock  clock.Clock // nil: the machine's

	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics

	CheckpointEvery time.Duration // default 10 s; also whenever the write-ahead log starts a new file
	MaintainEvery   time.Duration // how often partitions look at retention and compaction; default 30 s
	ScrubAfter      time.Duration // how often to look for partitions whose segments were not checked for a day; default 10 s
	ScrubBytes      int64         // how many of their bytes are read a second; default 8 MiB, negative: no scrub
	Shards          int           // goroutines that own groups; default GOMAXPROCS, at most 8
	InFlightBytes   int64         // proposals in flight over all groups; default 256 MiB. Who accepts requests should stop before
	EntryBytesMax   int           // largest payload of one entry; default 32 MiB

	// Manual starts no goroutine: proposals wait until Pump or Step runs them, on the caller's goroutine. For simulations and
	// crash tests, which must be able to repeat a run; not for concurrent use.
	Manual bool

	send func(GroupID, *pb.Message) // to other nodes; tests only until there is a transport
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CheckpointEvery <= 0 {
		o.CheckpointEvery = 10 * time.Second
	}
	if o.MaintainEvery <= 0 {
		o.MaintainEvery = 30 * time.Second
	}
	if o.ScrubAfter <= 0 {
		o.ScrubAfter = 10 * time.Second
	}
	if o.ScrubBytes == 0 {
		o.ScrubBytes = 8 << 20
	}
	if o.Shards <= 0 {
		o.Shards = min(runtime.GOMAXPROCS(0), 8)
	}
	if o.InFlightBytes <= 0 {
		o.InFlightBytes = 256 << 20
	}
	if o.EntryBytesMax <= 0 {
		o.EntryBytesMax = 32 << 20
	}
	if o.WAL.Logger == nil {
		o.WAL.Logger = o.Logger
	}
	return o
}
