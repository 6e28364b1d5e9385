package replica

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	"github.com/outrelay/outrelay/broker/record"
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

// RewriteSegments changes what the checkpoint in dir says of the segments of some partitions, durably and in one piece. Nobody may have the directory open.
func RewriteSegments(fsys vfs.FS, dir string, states map[GroupID]segment.State) error {
	ck, err := loadCheckpoint(fsys, dir)
	if err != nil {
		return err
	}
	for i := range ck.groups {
		s := &ck.groups[i]
		st, ok := states[s.group]
		if !ok {
			continue
		}
		ps := newProducers(1)
		b, err := decodePartitionBlob(s.blob, &ps)
		if err != nil {
			return err
		}
		const head = 1 + 8 // version and log start offset
		blob := append([]byte(nil), s.blob[:head]...)
		m := st.Marshal()
		blob = append(be32(blob, uint32(len(m))), m...)
		s.blob = append(blob, s.blob[head+4+len(b.segments):]...)
	}
	return ck.write(fsys, dir)
}

// WALEntry is what a record of the write-ahead log says, for people.
type WALEntry struct {
	Kind     string       // entry, conf_change, hard_state, batch, txn_marker, log_start, …
	TimeMs   int64        // the leader's clock, of a partition's entry; 0: none
	Batch    record.Batch // of batch and txn_marker
	LogStart int64        // of log_start
	Vote     uint64       // of hard_state
}

// DescribeRecord reads a record of the write-ahead log. What it does not know it calls by its number.
func DescribeRecord(r wal.Record) WALEntry {
	switch r.Kind {
	case kindHardState:
		hs, _ := hardStateOf(r) // a wrong one shows as zero
		return WALEntry{Kind: "hard_state", Vote: hs.vote}
	case kindConfChange, kindConfChangeV2:
		return WALEntry{Kind: "conf_change"}
	case kindEntry:
	default:
		return WALEntry{Kind: fmt.Sprintf("kind_%d", r.Kind)}
	}
	switch {
	case len(r.Payload) == 0:
		return WALEntry{Kind: "leader"}
	case GroupID(r.Group) == MetadataGroup:
		return WALEntry{Kind: "metadata"}
	}
	e, err := decodeEntry(r.Payload)
	if err != nil {
		return WALEntry{Kind: "unreadable"}
	}
	name := map[entryType]string{entryBatch: "batch", entryTxnMarker: "txn_marker", entryLogStart: "log_start"}[e.kind]
	return WALEntry{Kind: name, TimeMs: e.timeMs, Batch: e.batch, LogStart: e.logStart}
}
