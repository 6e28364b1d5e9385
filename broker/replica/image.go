package replica

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Image is a data directory as it lies on disk, read without opening it: for who examines, copies or mends one.
type Image struct {
	NodeID      int32
	Incarnation [16]byte
	WrittenMs   int64 // when the checkpoint was written
	Groups      map[GroupID]*GroupImage
	WALFirst    uint64  // the first write-ahead log file
	WALTail     wal.Pos // where the next record would go
}

// GroupImage is what is on disk of one group.
type GroupImage struct {
	ReplicaID     uint64 // 0: in no checkpoint yet
	Applied, Term uint64 // of the checkpoint
	Blob          []byte // the state machine's; nil: none
	Last          uint64 // index of the last entry in the write-ahead log; Applied when there is none beyond it
	Entries       []Entry
	Err           error // its records in the write-ahead log do not fit together
}

// Segments returns what the checkpoint says of a partition's segments, and its log start offset.
func (g *GroupImage) Segments() (st segment.State, logStart int64, err error) {
	if g == nil || g.Blob == nil {
		return st, 0, nil
	}
	ps := newProducers(1)
	b, err := decodePartitionBlob(g.Blob, &ps)
	if err == nil {
		err = st.Unmarshal(b.segments)
	}
	return st, b.logStart, err
}

// FileError says which file of a data directory cannot be used. It wraps its cause, whose class counts.
type FileError struct {
	File string // full name
	Err  error
}

// Error names the file, unless the cause does.
func (e *FileError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// ReadImage reads identity, checkpoint and write-ahead log in dir, changing nothing. replay, which may be nil, is called for each record of
// the write-ahead log. Entries are kept for the groups that keep names; nil: none. It returns what could be read, and a [FileError] for each of the three
// that could not be, or not to its end. The caller holds the lock.
func ReadImage(fsys vfs.FS, dir string, keep func(GroupID) bool, replay func(wal.Record, wal.Pos)) (*Image, []error) {
	im := &Image{Groups: map[GroupID]*GroupImage{}}
	var errs []error
	note := func(name string, err error) {
		if err != nil {
			errs = append(errs, &FileError{File: path.Join(dir, name), Err: err})
		}
	}
	note(fileIdentity, im.readIdentity(fsys, dir))
	ck, err := loadCheckpoint(fsys, dir)
	if err == nil && len(errs) == 0 && (ck.incarnation != im.Incarnation || ck.nodeID != im.NodeID) {
		err = fmt.Errorf("%s: of node %d, incarnation %x: %w", path.Join(dir, fileCheckpoint), ck.nodeID, ck.incarnation, ErrIdentity)
	}
	note(fileCheckpoint, err)
	if err != nil {
		ck = checkpoint{}
	}
	im.WrittenMs = ck.createdMs
	logs := map[GroupID]*raftLog{}
	for i := range ck.groups {
		s := &ck.groups[i]
		im.Groups[s.group] = &GroupImage{ReplicaID: s.replicaID, Applied: s.applied, Term: s.term, Blob: s.blob, Last: s.applied}
		logs[s.group] = &raftLog{truncIndex: s.applied, truncTerm: s.term, hs: s.hs, cs: s.cs}
	}
	o := wal.Options{NodeID: im.NodeID, Incarnation: im.Incarnation, Expect: ck.wal}
	im.WALFirst, im.WALTail, err = wal.Scan(fsys, path.Join(dir, dirWAL), o, func(r wal.Record, p wal.Pos) error {
		if replay != nil {
			replay(r, p)
		}
		im.take(logs, keep, r, p)
		return nil
	})
	note(dirWAL, err)
	return im, errs
}

func (im *Image) readIdentity(fsys vfs.FS, dir string) error {
	name := path.Join(dir, fileIdentity)
	b, err := readFile(fsys, name)
	if err != nil {
		return err
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrCorrupt, err)
	}
	raw, err := hex.DecodeString(id.Incarnation)
	if err != nil || len(raw) != len(im.Incarnation) {
		return fmt.Errorf("%s: incarnation %q: %w", name, id.Incarnation, ErrCorrupt)
	}
	im.NodeID = id.NodeID
	copy(im.Incarnation[:], raw)
	return nil
}

// take notes one record of the write-ahead log, as Node.replay does.
func (im *Image) take(logs map[GroupID]*raftLog, keep func(GroupID) bool, r wal.Record, p wal.Pos) {
	id := GroupID(r.Group)
	l, g := logs[id], im.Groups[id]
	if l == nil {
		l, g = newRaftLog(nil), &GroupImage{Applied: bootIndex, Term: bootTerm, Last: bootIndex}
		logs[id], im.Groups[id] = l, g
	}
	switch r.Kind {
	case kindEntry, kindConfChange, kindConfChangeV2:
	default:
		return
	}
	if err := l.put(r.Index, slot{term: r.Term, pos: p, kind: r.Kind}); err != nil {
		if g.Err == nil {
			g.Err = fmt.Errorf("group %d: %w", id, err)
		}
		return
	}
	if r.Index <= g.Applied || r.Kind != kindEntry || len(r.Payload) == 0 {
		return
	}
	g.Last = r.Index
	if id != MetadataGroup && g.Err == nil {
		if _, err := decodeEntry(r.Payload); err != nil {
			g.Err = fmt.Errorf("group %d, entry %d: %w", id, r.Index, err)
		}
	}
	if keep == nil || !keep(id) {
		return
	}
	for len(g.Entries) > 0 && g.Entries[len(g.Entries)-1].Index >= r.Index { // a later leader's take their place
		g.Entries = g.Entries[:len(g.Entries)-1]
	}
	g.Entries = append(g.Entries, Entry{Index: r.Index, Term: r.Term, Payload: slices.Clone(r.Payload)})
}
