package replica

import (
	"fmt"
	"slices"
)

// binder is a state machine that proposes to its own group.
type binder interface{ bind(binding) }

// AddGroup opens a group: restores sm from the checkpoint and applies what the write-ahead log holds beyond it. When it returns, a group whose
// only voter is this replica leads, and has applied everything that was ever acknowledged. It blocks on the disk, for about two
// syncs; add many groups concurrently, and they share them. It starts the node. conf.Voters count only for a group that is not on
// disk. Errors: ErrClosed, ErrCorrupt, what sm.Restore says; then the group was not added.
func (n *Node) AddGroup(id GroupID, sm StateMachine, conf GroupConf) error {
	d, err := n.claim(id)
	if err != nil {
		return err
	}
	g, err := n.openGroup(id, sm, conf, d)
	if err != nil {
		n.mu.Lock()
		delete(n.groups, id)
		n.mu.Unlock()
		return err
	}
	up := make(chan struct{})
	g.upIndex = min(g.log.hs.commit, g.log.last())
	g.onUp = func() {
		n.mu.Lock()
		delete(n.disk, id)
		n.mu.Unlock()
		close(up)
	}
	n.shardOf(id).push(event{call: func(s *shard) {
		s.groups[id] = g
		if g.single {
			_ = g.rn.Campaign() // nobody to wait for; fails only while a configuration change is unapplied, and then ticks campaign
		} else if g.up() {
			g.onUp()
			g.onUp = nil
		}
		s.touch(g)
	}}, true)
	if n.o.Manual {
		return n.pumpUntil(up)
	}
	select {
	case <-up:
		return nil
	case <-n.dead:
		return n.Err()
	case <-n.stop:
		return ErrClosed
	}
}

// claim takes what is on disk of a group, and reserves its id.
func (n *Node) claim(id GroupID) (*diskGroup, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.startLocked() != nil:
		return nil, fmt.Errorf("group %d: %w", id, ErrClosed)
	case n.err != nil:
		return nil, n.err
	case n.groups[id] != nil:
		return nil, fmt.Errorf("group %d: added twice", id)
	}
	d := n.disk[id]
	if d == nil {
		d = &diskGroup{log: newRaftLog(nil)}
		d.log.read = n.log.Read
	}
	if d.err != nil {
		return nil, d.err
	}
	// It stays in n.disk until it is up: a checkpoint meanwhile keeps what the last one said of it.
	n.groups[id] = &handle{shard: n.shardOf(id)}
	return d, nil
}

func (n *Node) openGroup(id GroupID, sm StateMachine, conf GroupConf, d *diskGroup) (*group, error) {
	if conf.ReplicaID == 0 {
		return nil, fmt.Errorf("group %d: replica id 0", id)
	}
	var blob []byte
	if d.sec == nil {
		d.log.cs.Voters = slices.Clone(conf.Voters)
	} else {
		if d.sec.replicaID != conf.ReplicaID {
			return nil, fmt.Errorf("group %d: replica %d on disk, replica %d placed here: %w", id, d.sec.replicaID, conf.ReplicaID, ErrIdentity)
		}
		blob = d.sec.blob
	}
	n.mu.Lock()
	h := n.groups[id]
	n.mu.Unlock()
	if b, ok := sm.(binder); ok {
		b.bind(binding{
			buffer:  n.payloads.Get,
			propose: func(p []byte, placed func(), done func(any, error)) { n.ProposePlaced(id, p, placed, done) },
			onShard: func(fn func() bool) error { return n.onGroup(id, h, fn) },
		})
	}
	if err := sm.Restore(blob); err != nil {
		return nil, fmt.Errorf("group %d: %w", id, err)
	}
	g, err := newGroup(id, conf.ReplicaID, d.log, d.log.truncIndex, d.log.truncTerm, sm, raftLogger{n.o.Logger.With("group", uint64(id))})
	if err != nil {
		return nil, err
	}
	g.published = &h.leader
	g.payloads = &n.payloads
	n.mu.Lock()
	h.sm, h.g = sm, g
	n.mu.Unlock()
	return g, nil
}

// RemoveGroup forgets a group, whether it was added or is only on disk: its proposals fail with ErrUnknownGroup, its state machine
// is not called again once this returns, and its records in the write-ahead log hold nothing back. Only for a group whose
// deletion is committed: its id is never used again.
func (n *Node) RemoveGroup(id GroupID) error {
	n.mu.Lock()
	h := n.groups[id]
	delete(n.groups, id)
	delete(n.disk, id)
	n.mu.Unlock()
	if h == nil || h.g == nil {
		return nil
	}
	done := make(chan struct{})
	h.shard.push(event{call: func(s *shard) {
		h.g.removed = true
		h.g.abandon(ErrUnknownGroup, &s.fx)
		delete(s.groups, id)
		close(done)
	}}, true)
	if n.o.Manual {
		return n.pumpUntil(done)
	}
	select {
	case <-done:
	case <-n.stop:
	}
	return nil
}

// onGroup runs fn between two applies of a group, and waits.
func (n *Node) onGroup(id GroupID, h *handle, fn func() (changed bool)) error {
	err := ErrUnknownGroup
	if cerr := n.call(h.shard, func(s *shard) {
		if g := s.groups[id]; g != nil && g == h.g {
			g.dirty = fn() || g.dirty
			err = nil
		}
	}); cerr != nil {
		return cerr
	}
	return err
}
