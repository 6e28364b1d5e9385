package replica

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/outrelay/outrelay/broker/wal"
)

// frozen is what a checkpoint takes of one group between two of its applies.
type frozen struct {
	sec    section
	finish func() ([]byte, error) // nil: nothing changed since the last checkpoint
	file   uint64                 // oldest write-ahead log file that is still needed
}

// checkpointed is a state machine that wants to know when what Checkpoint froze last has become durable.
type checkpointed interface{ checkpointed() }

// Checkpoint makes everything applied so far durable outside the write-ahead log, and lets the log recycle the files below. It blocks on the
// disk, but groups go on: each is held only while it copies its state. An error is fatal for the node.
func (n *Node) Checkpoint(ctx context.Context) error {
	n.ckMu.Lock()
	defer n.ckMu.Unlock()
	return n.checkpoint(ctx)
}

// Hold makes a checkpoint and calls fn while nothing that a start from it needs goes away: no later checkpoint is written, no file of the write-ahead log is
// recycled, and neither retention nor compaction touches a segment. Proposals, applies and reads go on. parts are the files of the write-ahead log, with all that was
// acknowledged before Hold was called.
func (n *Node) Hold(ctx context.Context, fn func(parts []wal.FilePart) error) error {
	n.upkeep.Lock()
	defer n.upkeep.Unlock()
	n.ckMu.Lock()
	defer n.ckMu.Unlock()
	if err := n.checkpoint(ctx); err != nil {
		return err
	}
	return fn(n.log.Parts())
}

// checkpoint is Checkpoint with ckMu held.
func (n *Node) checkpoint(ctx context.Context) error {
	if n.failed() {
		return ErrClosed
	}
	began := n.o.Clock.Now()
	// Before any group is looked at: a record that is not known to its group by then stands in this file or a later one.
	need := n.doneFile.Load()
	tail := n.log.Durable()
	sections, done, err := n.freezeAll(ctx, &need)
	if err != nil {
		return err
	}
	ck := checkpoint{nodeID: n.id.NodeID, incarnation: n.id.incarnation, createdMs: began.UnixMilli(), wal: wal.Expect{First: need, Tail: tail}}
	for _, s := range sections {
		ck.groups = append(ck.groups, *s)
	}
	slices.SortFunc(ck.groups, func(a, b section) int { return int(int64(a.group) - int64(b.group)) })
	// Also when nothing but the log's beginning moves: a file goes only after a checkpoint says that it is not needed.
	if len(done) > 0 || len(sections) != len(n.sections) || need > n.needed {
		if err := ck.write(n.o.FS, n.o.Dir); err != nil {
			return err
		}
		n.needed = need
	}
	n.sections = sections
	for id, h := range done {
		if err := n.settle(h, sections[id].applied); err != nil {
			return err
		}
	}
	if err := n.log.Recycle(min(need, n.needed)); err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	n.metrics.checkpoints.Observe(n.o.Clock.Now().Sub(began).Seconds())
	return nil
}

// freezeAll returns the sections of all groups, made durable, and the groups whose section is new. need is lowered to the oldest file
// that a restart from these sections reads.
func (n *Node) freezeAll(ctx context.Context, need *uint64) (map[GroupID]*section, map[GroupID]*handle, error) {
	sections, done := map[GroupID]*section{}, map[GroupID]*handle{}
	n.mu.Lock()
	for id, d := range n.disk { // not added (yet): kept as it is
		if d.sec != nil {
			sections[id] = d.sec
		}
		if d.hasFile {
			*need = min(*need, d.file)
		}
	}
	n.mu.Unlock()
	for id, h := range n.handles() {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		fz, ok, err := n.freeze(id, h)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			continue // removed meanwhile
		}
		*need = min(*need, fz.file)
		if fz.finish == nil {
			sections[id] = n.sections[id]
			continue
		}
		if fz.sec.blob, err = fz.finish(); err != nil {
			if n.removed(id, h) {
				continue // its files are closed, or gone
			}
			return nil, nil, fmt.Errorf("checkpoint of group %d: %w", id, err)
		}
		sections[id], done[id] = &fz.sec, h
	}
	return sections, done, nil
}

// removed reports whether the group that h is the handle of was removed.
func (n *Node) removed(id GroupID, h *handle) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.groups[id] != h
}

// freeze takes the state of one group, on its shard.
func (n *Node) freeze(id GroupID, h *handle) (fz frozen, ok bool, err error) {
	err = n.call(h.shard, func(s *shard) {
		g := s.groups[id]
		if g == nil || g != h.g {
			return
		}
		ok = true
		fz = frozen{file: ^uint64(0)}
		if f, some := g.log.firstFile(g.applied); some {
			fz.file = f
		}
		if !g.dirty {
			return
		}
		g.dirty = false
		fz.sec = section{
			group: id, replicaID: g.replicaID, applied: g.applied, term: g.appliedTerm, hs: g.log.hs,
			cs: proto.Clone(g.log.cs).(*pb.ConfState),
		}
		fz.sec.hs.commit = max(fz.sec.hs.commit, g.applied)
		fz.finish = g.sm.Checkpoint()
	})
	return fz, ok, err
}

// settle tells a group that its section is durable: the entries it covers leave the log.
func (n *Node) settle(h *handle, applied uint64) error {
	return n.call(h.shard, func(*shard) {
		if h.g.removed {
			return
		}
		h.g.log.truncate(applied)
		if c, ok := h.sm.(checkpointed); ok {
			c.checkpointed()
		}
	})
}

// call runs fn on the shard, between two events, and waits for it.
func (n *Node) call(s *shard, fn func(*shard)) error {
	done := make(chan struct{})
	s.push(event{call: func(s *shard) { fn(s); close(done) }}, false)
	if n.o.Manual {
		s.drive()
		return nil
	}
	select {
	case <-done:
		return nil
	case <-n.stop:
		return ErrClosed
	}
}
