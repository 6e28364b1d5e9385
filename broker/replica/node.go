package replica

import (
	"fmt"
	"io"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/bytepool"
)

// Node is this process's raft groups over one write-ahead log. All methods may be called concurrently unless Options.Manual is set.
type Node struct {
	payloads bytepool.Pool // of proposals; see group.recycle

	o      Options
	id     identity
	lock   io.Closer
	log    *wal.WAL
	commit *wal.Committer // nil when Manual
	shards []*shard

	inFlight  atomic.Int64 // bytes proposed and not answered
	proposals atomic.Int64
	closing   atomic.Bool
	drained   chan struct{} // closed when closing and nothing is in flight
	drainOnce sync.Once

	mu      sync.Mutex // guards what follows; taken before a shard's mu, never the other way round
	groups  map[GroupID]*handle
	disk    map[GroupID]*diskGroup // on disk, not added yet
	onFatal func(error)
	err     error
	started bool
	closed  bool

	upkeep   sync.Mutex           // held while a partition looks at retention and compaction; taken before ckMu
	ckMu     sync.Mutex           // one checkpoint at a time; taken before mu
	sections map[GroupID]*section // as of the last durable checkpoint
	needed   uint64               // the first write-ahead log file it needs

	dead     chan struct{} // closed by fail
	deadFlag atomic.Bool
	doneFile atomic.Uint64 // the write-ahead log file of the last durable record whose shard was told
	kick     chan struct{} // a file was filled: checkpoint
	stop     chan struct{}
	wg       sync.WaitGroup
	pending  []wal.Batch // Manual: submitted, not yet written
	held     []wal.Batch // planted bug wal-not-synced
	metrics  metrics
}

// handle is what others than the shard may know of a group.
type handle struct {
	sm     StateMachine
	g      *group
	shard  *shard
	leader atomic.Uint64 // term<<1 | leads
}

// diskGroup is a group as the checkpoint and the write-ahead log have it.
type diskGroup struct {
	sec *section // nil: never checkpointed
	log *raftLog
	err error // its records do not fit together; said when the group is added
	// The oldest write-ahead log file with an entry beyond the section; log itself belongs to the shard once the group is added.
	file    uint64
	hasFile bool
}

// Open takes the node's directory, loads the checkpoint and scans the write-ahead log. It starts nothing: add group 0 and the others
// after Start. It blocks on the disk. Errors: vfs.ErrLocked, ErrIdentity, ErrCorrupt, ErrVersion, and those of package wal.
func Open(o Options) (*Node, error) {
	o = o.withDefaults()
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	lock, err := o.FS.Lock(path.Join(o.Dir, fileLock))
	if err != nil {
		return nil, err
	}
	n := &Node{
		o: o, lock: lock, groups: map[GroupID]*handle{}, disk: map[GroupID]*diskGroup{}, sections: map[GroupID]*section{},
		drained: make(chan struct{}), dead: make(chan struct{}), kick: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if err := n.load(); err != nil {
		_ = lock.Close() // the error to report is the one above
		return nil, err
	}
	for range o.Shards {
		n.shards = append(n.shards, newShard(n))
	}
	n.metrics = newMetrics(o.Registerer)
	return n, nil
}

func (n *Node) load() error {
	id, err := openIdentity(n.o.FS, n.o.Dir, n.o.NodeID, n.o.Clock.Now())
	if err != nil {
		return err
	}
	n.id = id
	ck, err := openCheckpoint(n.o.FS, n.o.Dir, id)
	if err != nil {
		return err
	}
	for i := range ck.groups {
		s := &ck.groups[i]
		n.sections[s.group] = s
		n.disk[s.group] = &diskGroup{sec: s, log: &raftLog{truncIndex: s.applied, truncTerm: s.term, hs: s.hs, cs: s.cs}}
	}
	o := n.o.WAL
	o.NodeID, o.Incarnation, o.Expect = id.NodeID, id.incarnation, ck.wal
	n.needed = ck.wal.First
	n.log, err = wal.Open(n.o.FS, path.Join(n.o.Dir, dirWAL), o, n.replay)
	if err != nil {
		return err
	}
	for _, d := range n.disk {
		d.log.read = n.log.Read
		d.file, d.hasFile = d.log.firstFile(d.log.truncIndex)
	}
	n.doneFile.Store(n.log.Tail().File)
	return nil
}

// replay takes one record of the write-ahead log. A record whose group is broken is not an error yet: it may be the rest of a group that
// was deleted, whose older records are gone.
func (n *Node) replay(r wal.Record, p wal.Pos) error {
	g := GroupID(r.Group)
	d := n.disk[g]
	if d == nil {
		d = &diskGroup{log: newRaftLog(nil)}
		n.disk[g] = d
	}
	switch r.Kind {
	case kindHardState:
		hs, err := hardStateOf(r)
		if err != nil {
			return err
		}
		d.log.hs.supersede(hs)
	case kindEntry, kindConfChange, kindConfChangeV2:
		if err := d.log.put(r.Index, slot{term: r.Term, pos: p, kind: r.Kind}); err != nil && d.err == nil {
			d.err = fmt.Errorf("group %d: %w", g, err)
		}
	default:
		return fmt.Errorf("group %d: record kind %d: %w", g, r.Kind, ErrVersion)
	}
	return nil
}

func newRaftLog(voters []uint64) *raftLog {
	return &raftLog{
		truncIndex: bootIndex, truncTerm: bootTerm, hs: hardState{term: bootTerm, commit: bootIndex},
		cs: &pb.ConfState{Voters: slices.Clone(voters)},
	}
}

// Incarnation identifies the data directory: random, made with it. A wiped directory has another one.
func (n *Node) Incarnation() [16]byte { return n.id.incarnation }

// Orphans returns the groups that are on disk and were not added. They hold the write-ahead log back until RemoveGroup is called for them,
// which must happen only when their deletion is known to be committed.
func (n *Node) Orphans() []GroupID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var gs []GroupID
	for g := range n.disk {
		gs = append(gs, g)
	}
	slices.Sort(gs)
	return gs
}

// OnFatal sets what is called, once and on another goroutine, when the node cannot go on: a write or sync failed, or an entry cannot be
// applied. Nothing is acknowledged after that; the process must exit, and never retry the sync.
func (n *Node) OnFatal(fn func(error)) {
	n.mu.Lock()
	n.onFatal = fn
	err := n.err
	n.mu.Unlock()
	if err != nil && fn != nil {
		go fn(err)
	}
}

func (n *Node) failed() bool { return n.deadFlag.Load() }

// Err returns why the node failed, or nil.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *Node) fail(err error) {
	if n.deadFlag.Swap(true) {
		return
	}
	n.o.Logger.Error("the node stops: what it holds in memory can no longer be made durable", "err", err)
	n.mu.Lock()
	n.err = err
	fn := n.onFatal
	n.mu.Unlock()
	close(n.dead)
	if fn != nil {
		go fn(err)
	}
}

// submit gives a batch to the committer, which may block while too much waits for the disk.
func (n *Node) submit(b wal.Batch) {
	if n.o.Manual {
		n.pending = append(n.pending, b)
		return
	}
	n.commit.Submit(b)
}

// hold keeps batches back, as a log that syncs only now and then would: the planted bug wal-not-synced.
func (n *Node) hold(b wal.Batch) {
	n.mu.Lock()
	n.held = append(n.held, b)
	var out []wal.Batch
	if len(n.held) >= 20 {
		out, n.held = n.held, nil
	}
	n.mu.Unlock()
	for _, b := range out {
		n.submit(b)
	}
}

// synced notes, on the committer's goroutine, how far the log is durable and known to its shard.
func (n *Node) synced(p wal.Pos) {
	if n.doneFile.Swap(p.File) == p.File {
		return
	}
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *Node) shardOf(g GroupID) *shard { return n.shards[uint64(g)%uint64(len(n.shards))] }

// Propose proposes payload to the group and returns; done is called once, after the entry was applied here or it is known that it will not be
// in time. It never blocks on the disk, except for backpressure of the write-ahead log. payload belongs to the node
// from then on. done runs on a goroutine that other groups need: it must not block, but may call Propose.
// Errors: ErrNotLeader, ErrTooManyInFlight, ErrTooLarge, ErrUnknownGroup, ErrClosed. An entry is durable at a majority when done
// gets no error.
func (n *Node) Propose(g GroupID, payload []byte, done func(result any, err error)) {
	n.ProposePlaced(g, payload, nil, done)
}

// ProposePlaced is Propose that says when the entry has its place in the write-ahead log: no crash loses it and keeps an entry of
// any group that was proposed to this node afterwards (N7). What depends on it may be proposed then, long before it is durable, and shares its
// sync. placed is called at most once, before done, on the same kind of goroutine; not at all for an entry that was refused, and not for a
// group with other voters, where a new leader may supersede the entry: there only done says that it stays.
func (n *Node) ProposePlaced(g GroupID, payload []byte, placed func(), done func(result any, err error)) {
	switch {
	case len(payload) == 0 || len(payload) > n.o.EntryBytesMax:
		done(nil, fmt.Errorf("%d bytes, want 1 to %d: %w", len(payload), n.o.EntryBytesMax, ErrTooLarge))
		return
	case n.closing.Load() || n.failed():
		done(nil, ErrClosed)
		return
	}
	if n.inFlight.Add(int64(len(payload))) > n.o.InFlightBytes && n.proposals.Load() > 0 {
		n.inFlight.Add(-int64(len(payload)))
		done(nil, ErrTooManyInFlight)
		return
	}
	n.proposals.Add(1)
	n.shardOf(g).push(event{g: g, p: proposal{data: payload, placed: placed, done: done}}, true)
}

// InFlight returns the bytes that were proposed and are not answered yet.
func (n *Node) InFlight() int64 { return n.inFlight.Load() }

// Together calls fn, which proposes several things without waiting for any, and lets them share a sync.
func (n *Node) Together(fn func()) {
	if n.commit == nil { // Manual: a step syncs what there is
		fn()
		return
	}
	n.commit.Plug()
	defer n.commit.Unplug()
	fn()
}

func (n *Node) finished(bytes int) {
	n.inFlight.Add(-int64(bytes))
	n.metrics.proposals.Inc()
	if n.proposals.Add(-1) == 0 && n.closing.Load() {
		n.drainOnce.Do(func() { close(n.drained) })
	}
}

// Leader returns the group's leader epoch as this node knows it, and whether this node leads and has applied all that was ever
// acknowledged: only then may it answer for the group.
func (n *Node) Leader(g GroupID) (epoch int32, ok bool) {
	n.mu.Lock()
	h := n.groups[g]
	n.mu.Unlock()
	if h == nil {
		return 0, false
	}
	v := h.leader.Load()
	return int32(v >> 1), v&1 == 1
}

// GroupStatus describes a group as this node sees it.
type GroupStatus struct {
	Term         uint64
	Leader       uint64 // replica id; 0: unknown
	Commit, Last uint64 // raft indexes
	Replicas     []ReplicaStatus
}

// ReplicaStatus is one replica of a group. Match is how much of the log it is known to hold: of others only the leader knows.
type ReplicaStatus struct {
	ReplicaID uint64
	Match     uint64
	Learner   bool
}

// Status describes a group of this node. It asks the goroutine that owns the group, and waits for it. Errors: ErrUnknownGroup, ErrClosed.
func (n *Node) Status(id GroupID) (st GroupStatus, err error) {
	n.mu.Lock()
	h := n.groups[id]
	n.mu.Unlock()
	if h == nil || h.g == nil {
		return st, ErrUnknownGroup
	}
	err = n.onGroup(id, h, func() bool { st = h.g.status(); return false })
	return st, err
}

// step gives a group a message from another node.
func (n *Node) step(g GroupID, m *pb.Message) { n.shardOf(g).push(event{g: g, msg: m}, false) }
