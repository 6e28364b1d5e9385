package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Gap is a run of offsets [From, To) that a segment has lost.
type Gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Mended is a segment that Mend has written anew, or would.
type Mended struct {
	File    string // of the segment
	Cause   string
	Batches int64 // that are kept
	Lost    []Gap
	Missing bool // the file was not there
}

// Mending configures Mend.
type Mending struct {
	Apply bool // false: say what would be done
	// Aside keeps a copy of a file, durably, before Mend replaces or removes it. Needed with Apply.
	Aside func(name string) error
}

// Mend makes the log in dir, damaged as [Inspect] says, one that opens: each damaged segment is written anew with those of its batches that are whole, as they stand,
// and a missing one is replaced by an empty one. What is lost leaves a gap between offsets, as compaction does; no offset is ever given out again. The active segment becomes
// a sealed one, so the log's state changes: the caller makes the returned one durable. Files that were replaced are kept aside first. It is for a log that nobody
// has open, and can be called again after a crash in it.
//
// Errors: ErrCorrupt where it cannot help (a state that makes no sense, a compaction that was cut short and is damaged), Aside's, the disk's.
func Mend(fsys vfs.FS, dir string, state State, o Mending) (ms []Mended, next State, err error) {
	m := &mender{d: files{fsys, dir}, st: state, o: o, done: map[int64]bool{}}
	for more := true; more; {
		findings, err := Inspect(fsys, dir, m.st, Inspection{})
		if err != nil {
			return ms, state, err
		}
		more = false
		for i := range findings {
			if findings[i].Index {
				continue
			}
			mended, err := m.mend(&findings[i].CorruptError)
			if err != nil {
				return ms, state, err
			}
			if mended != nil {
				ms, more = append(ms, *mended), o.Apply // what was hidden behind it shows now
			}
		}
		if m.activeDone {
			m.st.ActiveBase, m.st.ActiveSize, m.st.ActiveSum, m.st.ActiveAborted, m.st.ActiveCreated = state.NextOffset, 0, 0, 0, 0
		}
	}
	return ms, m.st, nil
}

type mender struct {
	d          files
	st         State
	o          Mending
	done       map[int64]bool // bases that are mended
	activeDone bool
}

// mend deals with one finding; nil when its segment was dealt with already.
func (m *mender) mend(e *CorruptError) (*Mended, error) {
	base, _, ext, ok := parseName(path.Base(e.File))
	if !ok || ext != extLog || e.foreign {
		if e.File != m.d.dir {
			return nil, fmt.Errorf("cannot be mended: %w", e)
		}
		base = m.st.LogStartOffset // the whole directory is missing
	}
	if e.missing {
		base = e.Offset // the one behind is missing
	}
	if m.done[base] {
		return nil, nil
	}
	m.done[base] = true
	limit, err := m.limit(base)
	if err != nil {
		return nil, err
	}
	if base == m.st.ActiveBase {
		m.activeDone = true
		limit = m.st.NextOffset
	}
	return m.rewrite(base, limit, e)
}

// limit returns the base of the segment behind base.
func (m *mender) limit(base int64) (int64, error) {
	inv, err := m.d.inventory()
	if err != nil {
		return m.st.ActiveBase, nil //nolint:nilerr // no directory: there is nothing behind
	}
	if len(inv.swaps) > 0 {
		return 0, fmt.Errorf("a compaction was cut short in %s; start the log once to finish it: %w", m.d.dir, ErrCorrupt)
	}
	for _, b := range inv.bases {
		if b > base && b <= m.st.ActiveBase {
			return b, nil
		}
	}
	return m.st.ActiveBase, nil
}

// rewrite writes a segment anew from what of it is whole.
func (m *mender) rewrite(base, limit int64, e *CorruptError) (*Mended, error) {
	name := m.d.name(base, extLog)
	md := &Mended{File: name, Cause: e.Cause}
	old, err := m.read(base)
	if err != nil {
		return nil, err
	}
	md.Missing = old == nil
	good, lost := salvage(old, base, limit, m.st.Epochs)
	md.Lost = lost
	if e.sum && len(good) == len(old) {
		return nil, fmt.Errorf("cannot be mended, for it is not known which batch has changed: %w", e)
	}
	for range record.Split(good) {
		md.Batches++
	}
	if !m.o.Apply {
		return md, nil
	}
	if err := m.d.fs.MkdirAll(m.d.dir); err != nil {
		return nil, err
	}
	if old != nil {
		if err := m.o.Aside(name); err != nil {
			return nil, err
		}
	}
	tmp := name + ".mended"
	f, err := m.d.fs.Create(tmp)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(good, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	// The indexes first: a new log never stands beside an old index.
	if err := errors.Join(m.d.remove(m.d.name(base, extIndex)), m.d.remove(m.d.name(base, extTxn)), m.d.fs.SyncDir(m.d.dir)); err != nil {
		return nil, err
	}
	if err := m.d.fs.Rename(tmp, name); err != nil {
		return nil, err
	}
	return md, m.d.fs.SyncDir(m.d.dir)
}

// read returns a segment's bytes, of the active one as many as the state says; nil when there is no file.
func (m *mender) read(base int64) ([]byte, error) {
	name := m.d.name(base, extLog)
	info, err := m.d.fs.Stat(name)
	if err != nil {
		return nil, nil //nolint:nilerr // missing: that is what is mended
	}
	size := min(info.Size, segmentBytesMax)
	if base == m.st.ActiveBase {
		size = min(size, m.st.ActiveSize)
	}
	f, err := m.d.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, fmt.Errorf("segment %s at byte %d: %w", name, n, err)
	}
	return b, nil
}

// salvage returns the batches of b that are whole and may stand in a segment of the offsets [base, limit), and the offsets that are lost between them. Where a batch
// is not whole it looks for the next one byte by byte: its length may be what is damaged. What compaction removed before counts as lost only
// next to something that is.
func salvage(b []byte, base, limit int64, epochs []Epoch) (good []byte, lost []Gap) {
	next := base
	bad := false
	for at := 0; at+record.HeaderBytes <= len(b); {
		size, last := whole(b[at:], next, limit, epochs)
		if size > 0 && int64(binary.BigEndian.Uint64(b[at:])) > next && contradicted(b[at+size:], next, last, limit, epochs) {
			size = 0
		}
		if size == 0 {
			at, bad = at+1, true
			continue
		}
		if first := int64(binary.BigEndian.Uint64(b[at:])); bad && first > next {
			lost = append(lost, Gap{next, first})
		}
		good = append(good, b[at:at+size]...)
		at, next, bad = at+size, last+1, false
	}
	if next < limit {
		lost = append(lost, Gap{next, limit})
	}
	return good, lost
}

// whole returns the size and last offset of the batch at the beginning of b; 0 when there is none that may stand there.
func whole(b []byte, next, limit int64, epochs []Epoch) (size int, last int64) {
	base := int64(binary.BigEndian.Uint64(b))
	if base < next || base >= limit {
		return 0, 0
	}
	n, err := record.Frame(b)
	if err != nil || n > int64(len(b)) {
		return 0, 0
	}
	h := record.Batch(b[:n])
	if epoch, known := epochAt(epochs, base); known && epoch != h.LeaderEpoch() {
		return 0, 0
	}
	if last = h.LastOffset(); last >= limit || record.CheckCRC(h) != nil {
		return 0, 0
	}
	return int(n), last
}

// contradicted reports whether the batch that follows cannot stand behind one that ends at last, and could if that one were not there: then the
// first one's offset is what has changed.
func contradicted(b []byte, next, last, limit int64, epochs []Epoch) bool {
	if len(b) < record.HeaderBytes {
		return false
	}
	size, _ := whole(b, next, limit, epochs)
	return size > 0 && int64(binary.BigEndian.Uint64(b)) <= last
}
