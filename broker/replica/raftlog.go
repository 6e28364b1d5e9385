package replica

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/invariant"
)

// Kinds of record that this package writes to the write-ahead log (docs/format/entry.md).
const (
	kindEntry        = 1 // payload: an entry as in entry.go; empty for the entry a new leader writes
	kindConfChange   = 2 // payload: raftpb.ConfChange
	kindConfChangeV2 = 3 // payload: raftpb.ConfChangeV2
	kindHardState    = 4 // term in the record; payload: vote u64, commit u64
)

// A group begins as if a snapshot at this index and term had been installed, so that a replica which joins later with an empty log
// is behind the first entry and gets the configuration with a snapshot.
const (
	bootIndex = 1
	bootTerm  = 1
)

// slot is one entry after the log's truncation point.
type slot struct {
	term uint64
	pos  wal.Pos   // zero while the write is in flight
	ent  *pb.Entry // nil once it left memory; then it is read at pos
	kind uint8
}

// raftLog is raft's Storage for one group: recent entries in memory, older ones in the write-ahead log by position.
// It is owned by the group's shard.
//
// N1: slots are contiguous: slots[i] has index truncIndex+1+i.
type raftLog struct {
	read       func(wal.Pos) (wal.Record, error)
	truncIndex uint64 // the last entry that is not here any more
	truncTerm  uint64
	slots      []slot
	hs         hardState
	cs         *pb.ConfState
	cachedTo   uint64 // entries at or below have left memory
}

type hardState struct{ term, vote, commit uint64 }

// supersede merges a hard state found later or elsewhere. Within a term a vote only ever goes from none to one replica, so the order in
// which two states of one term are seen does not matter.
func (h *hardState) supersede(o hardState) {
	switch {
	case o.term > h.term:
		h.term, h.vote = o.term, o.vote
	case o.term == h.term && h.vote == 0:
		h.vote = o.vote
	}
	h.commit = max(h.commit, o.commit)
}

func (h hardState) payload() []byte {
	b := make([]byte, 16)
	binary.BigEndian.PutUint64(b, h.vote)
	binary.BigEndian.PutUint64(b[8:], h.commit)
	return b
}

func hardStateOf(r wal.Record) (hardState, error) {
	if len(r.Payload) != 16 {
		return hardState{}, fmt.Errorf("hard state of group %d: %d bytes, want 16: %w", r.Group, len(r.Payload), ErrCorrupt)
	}
	return hardState{term: r.Term, vote: binary.BigEndian.Uint64(r.Payload), commit: binary.BigEndian.Uint64(r.Payload[8:])}, nil
}

func (l *raftLog) last() uint64 { return l.truncIndex + uint64(len(l.slots)) }

// put appends a slot for index, dropping what a new leader superseded. It fails on a gap.
func (l *raftLog) put(index uint64, s slot) error {
	if index <= l.truncIndex {
		return nil // applied and checkpointed: committed entries are never superseded
	}
	if index > l.last()+1 {
		return fmt.Errorf("entry %d follows entry %d: %w", index, l.last(), ErrCorrupt)
	}
	l.slots = append(l.slots[:index-l.truncIndex-1], s)
	return nil
}

// located records where entries from index on stand. A slot that was superseded meanwhile keeps its own position.
func (l *raftLog) located(index, term uint64, p wal.Pos) {
	if index <= l.truncIndex || index > l.last() {
		return
	}
	if s := &l.slots[index-l.truncIndex-1]; s.term == term {
		s.pos = p
	}
}

// evict drops the payloads of entries up to and including index from memory, as far as they are on disk.
func (l *raftLog) evict(index uint64) {
	for i := max(l.cachedTo, l.truncIndex) + 1; i <= min(index, l.last()); i++ {
		s := &l.slots[i-l.truncIndex-1]
		if s.pos == (wal.Pos{}) {
			return
		}
		s.ent = nil
		l.cachedTo = i
	}
}

// truncate forgets entries up to and including index: a durable checkpoint covers them.
func (l *raftLog) truncate(index uint64) {
	if index <= l.truncIndex {
		return
	}
	invariant.Check(index <= l.last(), "N1: truncate to %d after entry %d", index, l.last())
	n := index - l.truncIndex
	l.truncTerm = l.slots[n-1].term
	l.slots = append([]slot(nil), l.slots[n:]...) // a new array: the old one would keep the payloads
	l.truncIndex = index
}

// firstFile returns the write-ahead log file of the first entry after index; ok is false when there is none, or it is in flight.
func (l *raftLog) firstFile(index uint64) (file uint64, ok bool) {
	if index >= l.last() || index < l.truncIndex {
		return 0, false
	}
	// Not only the first: a superseding entry stands later than the one after it may have stood.
	for _, s := range l.slots[index-l.truncIndex:] {
		if s.pos != (wal.Pos{}) && (!ok || s.pos.File < file) {
			file, ok = s.pos.File, true
		}
	}
	return file, ok
}

func (l *raftLog) entry(index uint64) (*pb.Entry, error) {
	s := &l.slots[index-l.truncIndex-1]
	if s.ent != nil {
		return s.ent, nil
	}
	r, err := l.read(s.pos)
	if err != nil {
		return nil, fmt.Errorf("entry %d in the write-ahead log: %w", index, err)
	}
	if r.Index != index || r.Term != s.term {
		return nil, fmt.Errorf("entry %d of term %d: found %d of term %d at its place: %w", index, s.term, r.Index, r.Term, ErrCorrupt)
	}
	return newEntry(index, s.term, r.Kind, r.Payload), nil
}

func newEntry(index, term uint64, kind uint8, data []byte) *pb.Entry {
	e := &pb.Entry{Index: &index, Term: &term, Data: data}
	switch kind {
	case kindConfChange:
		e.Type = pb.EntryConfChange.Enum()
	case kindConfChangeV2:
		e.Type = pb.EntryConfChangeV2.Enum()
	}
	return e
}

func entryKind(t pb.EntryType) uint8 {
	switch t {
	case pb.EntryConfChange:
		return kindConfChange
	case pb.EntryConfChangeV2:
		return kindConfChangeV2
	}
	return kindEntry
}

// InitialState implements raft.Storage.
func (l *raftLog) InitialState() (*pb.HardState, *pb.ConfState, error) {
	hs := &pb.HardState{Term: new(l.hs.term), Vote: new(l.hs.vote), Commit: new(min(max(l.hs.commit, l.truncIndex), l.last()))}
	return hs, l.cs, nil
}

// Entries implements raft.Storage.
func (l *raftLog) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= l.truncIndex {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	es := make([]*pb.Entry, 0, min(hi-lo, 64))
	size := uint64(0)
	for i := lo; i < hi; i++ {
		e, err := l.entry(i)
		if err != nil {
			return nil, err
		}
		size += uint64(len(e.Data)) + 24
		if len(es) > 0 && size > maxSize {
			break
		}
		es = append(es, e)
	}
	return es, nil
}

// Term implements raft.Storage.
func (l *raftLog) Term(i uint64) (uint64, error) {
	switch {
	case i == l.truncIndex:
		return l.truncTerm, nil
	case i < l.truncIndex:
		return 0, raft.ErrCompacted
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.slots[i-l.truncIndex-1].term, nil
}

// LastIndex implements raft.Storage.
func (l *raftLog) LastIndex() (uint64, error) { return l.last(), nil }

// FirstIndex implements raft.Storage.
func (l *raftLog) FirstIndex() (uint64, error) { return l.truncIndex + 1, nil }

// Snapshot implements raft.Storage. Sending a replica what left the log is not built yet: raft asks again.
func (l *raftLog) Snapshot() (*pb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}
