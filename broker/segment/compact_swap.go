package segment

import (
	"errors"
	"fmt"
	"slices"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// A group of segments with the range [base, limit) is replaced in steps; after a crash at any of them, Open finds either all of the old ones or
// the new one, and never has to guess:
//
//	1 write <base>-<limit>.cleaned, sync it                  a crash leaves a file that Open removes
//	2 rename it to <base>-<limit>.swap, sync the directory   from here on the new segment is what counts: Open goes on with 3
//	3 remove the old files but <base>.log, sync the directory
//	4 rename the .swap over <base>.log, sync the directory
//
// The sync between 3 and 4 keeps the rename from overtaking the removals: without it an old segment could stay inside the new one's range
// with nothing to tell that it is old.

// segmentWriter writes a new segment.
type segmentWriter struct {
	l           *Log
	base, limit int64
	name        string
	f           vfs.File
	buf         []byte
	pos         int64 // of the next batch
	index       indexer
	markers     map[int64]bool // offsets of the markers that stay
	changed     bool           // something differs from the old segment
}

func newSegmentWriter(l *Log, base, limit int64) (*segmentWriter, error) {
	name := l.d.rangeName(base, limit, extCleaned)
	f, err := l.d.fs.Create(name)
	if err != nil {
		return nil, err
	}
	return &segmentWriter{
		l: l, base: base, limit: limit, name: name, f: f, markers: map[int64]bool{},
		index: indexer{base: base, interval: l.o.IndexIntervalBytes, maxTS: noTimestamp},
	}, nil
}

func (w *segmentWriter) add(b record.Batch) error {
	w.index.add(b.BaseOffset(), w.pos, int64(len(b)), b.MaxTimestamp())
	w.index.mix(b)
	if b.Control() {
		w.markers[b.BaseOffset()] = true
	}
	w.pos += int64(len(b))
	w.buf = append(w.buf, b...)
	if len(w.buf) >= scanWindowBytes {
		return w.flush()
	}
	return nil
}

func (w *segmentWriter) flush() error {
	_, err := w.f.WriteAt(w.buf, w.pos-int64(len(w.buf)))
	w.buf = w.buf[:0]
	return err
}

// finish makes the file durable: step 1.
func (w *segmentWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	f := w.f
	w.f = nil
	return f.Close()
}

// abandon removes the file.
func (w *segmentWriter) abandon() error {
	if w.f != nil {
		w.f.Close()
	}
	return w.l.d.remove(w.name)
}

// swap puts the written segment in the place of the group. Whoever reads the old segments keeps them until done. An error after
// the first rename is final: the files are no longer what memory thinks.
func (l *Log) swap(group []*segment, w *segmentWriter) error {
	for _, s := range group {
		// Held open until nobody reads it, since its name goes. From here on its index files are not the segment's own: see loadIndex.
		if _, err := s.acquire(); err != nil {
			return errors.Join(err, w.abandon())
		}
		defer s.release()
	}
	fresh, err := l.newCleaned(group, w)
	if err != nil {
		return errors.Join(err, w.abandon())
	}
	for _, s := range group {
		s.retire()
	}
	err = l.d.fs.Rename(w.name, l.d.rangeName(w.base, w.limit, extSwap))
	if err == nil {
		err = l.d.fs.SyncDir(l.d.dir)
	}
	if err == nil {
		err = l.d.finishSwap(w.base, w.limit)
	}
	if err = l.replace(group, fresh, err); err == nil {
		fresh.saveCaches()
	}
	return err
}

// replace shows readers the new segment, unless the swap of the files failed.
func (l *Log) replace(group []*segment, fresh *segment, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return l.fail(fmt.Errorf("swap of [%d, %d): %w", fresh.base, fresh.limit.Load(), err))
	}
	old := l.view.Load()
	i := slices.Index(old.segments, group[0])
	v := &view{start: old.start, segments: slices.Clone(old.segments[:i])}
	v.segments = append(v.segments, fresh)
	v.segments = append(v.segments, old.segments[i+len(group):]...)
	l.view.Store(v)
	l.tail.forget(fresh.limit.Load())
	return nil
}

// newCleaned returns the segment that w wrote, with its indexes in memory.
func (l *Log) newCleaned(group []*segment, w *segmentWriter) (*segment, error) {
	s := newSegment(l.d, w.base)
	s.size.Store(w.pos)
	s.flushed.Store(w.pos)
	s.limit.Store(w.limit)
	s.learn(w.index.maxTS, w.index.sum)
	s.index, s.indexed, s.txns, s.touched = w.index.entries, true, true, true
	v := l.view.Load()
	for _, g := range group {
		as, err := l.abortedOf(v, slices.Index(v.segments, g))
		if err != nil {
			return nil, err
		}
		for _, a := range as {
			// With the marker, not with the data: a reader may have read the data just before it went.
			if w.markers[a.Last] {
				s.aborted = append(s.aborted, a)
			}
		}
	}
	return s, nil
}

// saveCaches writes a new segment's indexes, as long as memory has them. Without the files they are rebuilt from the log.
func (s *segment) saveCaches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.indexed || !s.txns || s.retired {
		return
	}
	for _, write := range []func(int) (vfs.File, error){s.writeIndexLocked, s.writeAbortedLocked} {
		if f, err := write(0); err == nil {
			f.Close()
		}
	}
}

// finishSwap does steps 3 and 4, at the end of a compaction or after a crash in one of them.
func (d files) finishSwap(base, limit int64) error {
	inv, err := d.inventory()
	if err != nil {
		return err
	}
	for _, b := range inv.bases {
		if b > base && b < limit {
			if err := d.remove(d.name(b, extLog)); err != nil {
				return err
			}
		}
	}
	for _, name := range inv.indexes {
		if b, _, _, _ := parseName(name); b >= base && b < limit {
			if err := d.remove(d.dir + "/" + name); err != nil {
				return err
			}
		}
	}
	if err := d.fs.SyncDir(d.dir); err != nil {
		return err
	}
	if err := d.fs.Rename(d.rangeName(base, limit, extSwap), d.name(base, extLog)); err != nil {
		return err
	}
	return d.fs.SyncDir(d.dir)
}
