package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Open restores the log in dir, which it makes where needed, to state: a compaction that was cut short is finished or undone, the active segment
// is cut to its size in state, and what came after is removed, since the caller appends it again. Indexes that are missing or wrong are
// rebuilt when they are needed. It reads a few KiB of each segment at most. The caller is the only one to use dir.
//
// An error that wraps ErrCorrupt says which offsets are missing or which byte is wrong; nothing has been removed then.
func Open(fsys vfs.FS, dir string, state State, o Options) (*Log, error) {
	o = o.withDefaults()
	if err := state.check(); err != nil {
		return nil, fmt.Errorf("log in %s: %w", dir, err)
	}
	l := &Log{
		d: files{fsys, dir}, o: o, codec: &record.Codecs{}, tail: tail{bytesMax: o.TailBytes}, epochs: slices.Clone(state.Epochs),
		cleanedTo: state.CleanedTo, segmentBytes: o.SegmentBytes, segmentAge: o.SegmentAge,
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("log in %s: %w", dir, err)
	}
	if err := l.restore(state); err != nil {
		return nil, fmt.Errorf("log in %s: %w", dir, err)
	}
	return l, nil
}

// inventory is what a directory holds.
type inventory struct {
	logs    []vfs.Info // ascending
	bases   []int64    // of logs
	swaps   [][2]int64
	indexes []string // of all bases, with or without a log
	cleaned []string
}

func (d files) inventory() (inv inventory, err error) {
	infos, err := d.fs.List(d.dir)
	if err != nil {
		return inv, err
	}
	for _, info := range infos {
		base, limit, ext, ok := parseName(info.Name)
		if !ok || info.Dir {
			continue // not ours
		}
		switch ext {
		case extLog:
			inv.logs, inv.bases = append(inv.logs, info), append(inv.bases, base)
		case extIndex, extTxn:
			inv.indexes = append(inv.indexes, info.Name)
		case extSwap:
			inv.swaps = append(inv.swaps, [2]int64{base, limit})
		case extCleaned:
			inv.cleaned = append(inv.cleaned, info.Name)
		}
	}
	return inv, nil
}

func (l *Log) restore(st State) error {
	inv, err := l.d.inventory()
	if err != nil {
		return err
	}
	for _, r := range inv.swaps {
		if r[1] > st.ActiveBase {
			return &CorruptError{File: l.d.rangeName(r[0], r[1], extSwap), Offset: r[0],
				Cause: fmt.Sprintf("compacted segment [%d, %d) above the active one at %d", r[0], r[1], st.ActiveBase)}
		}
		if err := l.d.finishSwap(r[0], r[1]); err != nil {
			return fmt.Errorf("compacted segment [%d, %d): %w", r[0], r[1], err)
		}
		l.o.Logger.Info("compaction finished after a restart", "dir", l.d.dir, "base", r[0], "limit", r[1])
	}
	if len(inv.swaps) > 0 {
		if inv, err = l.d.inventory(); err != nil {
			return err
		}
	}
	segments, err := l.sealedSegments(inv, st)
	if err != nil {
		return err
	}
	start := st.LogStartOffset
	if len(segments) > 0 {
		start = max(start, segments[0].base)
	} else {
		start = max(start, st.ActiveBase)
	}
	l.view.Store(&view{start: start, segments: segments})
	l.next.Store(st.NextOffset)
	if err := l.openActive(inv, st); err != nil {
		return err
	}
	return l.tidy(inv, st)
}

// sealedSegments returns the segments below the active one, having checked that they follow one another (S3).
func (l *Log) sealedSegments(inv inventory, st State) (segments []*segment, err error) {
	for i, base := range inv.bases {
		if base >= st.ActiveBase {
			break
		}
		s := newSegment(l.d, base)
		limit := st.ActiveBase
		if i+1 < len(inv.bases) {
			limit = min(limit, inv.bases[i+1])
		}
		s.size.Store(inv.logs[i].Size)
		s.flushed.Store(inv.logs[i].Size)
		s.limit.Store(limit)
		if seal, ok := offsetKind().readSeal(l.d, base); ok {
			if err := checkSeal(seal, s.logName(), inv.logs[i].Size, limit); err != nil {
				return nil, err
			}
			s.learn(seal.maxTS, seal.sum)
		}
		segments = append(segments, s)
	}
	first := st.ActiveBase
	if len(segments) > 0 {
		first = segments[0].base
	}
	if first > st.LogStartOffset {
		return nil, missingFront(l.d, st.LogStartOffset, first)
	}
	return segments, nil
}

// checkSeal compares a sealed segment with the seal of its index, which was durable before a checkpoint called the segment sealed: where the seal is
// whole and says something else, one of the two files is not the one that belongs here.
func checkSeal(seal seal, name string, size, limit int64) error {
	switch {
	case seal.size != size:
		return &CorruptError{File: name, Byte: min(size, seal.size), Offset: -1,
			Cause: fmt.Sprintf("%d bytes, its index was sealed at %d", size, seal.size)}
	case seal.limit != limit:
		return &CorruptError{File: name, Byte: size, Offset: min(seal.limit, limit), missing: seal.limit < limit, foreign: seal.limit > limit,
			Cause: fmt.Sprintf("it ends before offset %d, the next one begins at %d: offsets are missing", seal.limit, limit)}
	}
	return nil
}

// missingFront is the error of a log whose first segment begins above the log start offset that a durable checkpoint says: files go only after it.
func missingFront(d files, start, first int64) error {
	return &CorruptError{File: d.name(start, extLog), Offset: start,
		Cause: fmt.Sprintf("the log starts at offset %d, its first segment at %d: offsets are missing", start, first)}
}

// tidy removes what a restart leaves over: segments above the active one, whose batches are applied again; outputs of compactions that
// did not get far; indexes without a log.
func (l *Log) tidy(inv inventory, st State) error {
	live := map[int64]bool{}
	for _, b := range inv.bases {
		if b <= st.ActiveBase {
			live[b] = true
			continue
		}
		l.o.Logger.Info("segment removed: it is newer than the checkpoint", "dir", l.d.dir, "base", b)
		if err := l.d.removeSegment(b); err != nil {
			return err
		}
		l.names = true
	}
	live[st.ActiveBase] = true
	for _, name := range inv.indexes {
		if base, _, _, _ := parseName(name); live[base] {
			continue
		}
		if err := l.d.remove(l.d.dir + "/" + name); err != nil {
			return err
		}
		l.names = true
	}
	for _, name := range inv.cleaned {
		if err := l.d.remove(l.d.dir + "/" + name); err != nil {
			return err
		}
		l.names = true
	}
	return nil
}

// openActive opens the active segment, cuts it, and completes its indexes.
func (l *Log) openActive(inv inventory, st State) error {
	created := time.UnixMilli(st.ActiveCreated)
	if st.ActiveCreated == 0 {
		created = l.o.Clock.Now()
	}
	i := slices.Index(inv.bases, st.ActiveBase)
	if i < 0 || (st.ActiveSize == 0 && inv.logs[i].Size == 0) {
		if st.ActiveSize > 0 {
			return &CorruptError{File: l.d.name(st.ActiveBase, extLog), Offset: st.ActiveBase,
				Cause: fmt.Sprintf("active segment of %d bytes: %v", st.ActiveSize, fs.ErrNotExist)}
		}
		return l.begin(st.ActiveBase, created)
	}
	s := newSegment(l.d, st.ActiveBase)
	f, err := l.d.fs.OpenRW(s.logName())
	if err != nil {
		return err
	}
	s.f, s.refs = f, 1
	size := inv.logs[i].Size
	if size < st.ActiveSize {
		f.Close()
		return &CorruptError{File: s.logName(), Byte: size, Offset: -1,
			Cause: fmt.Sprintf("active segment of %d bytes, the checkpoint says %d: offsets up to %d are incomplete", size, st.ActiveSize, st.NextOffset)}
	}
	s.size.Store(st.ActiveSize)
	s.flushed.Store(st.ActiveSize)
	l.active, l.file, l.created = s, f, created
	l.syncedBytes = st.ActiveSize
	if err := l.restoreIndex(s, size, st); err != nil {
		f.Close()
		return err
	}
	v := *l.view.Load()
	v.segments = append(slices.Clone(v.segments), s)
	l.view.Store(&v)
	if err := l.restoreAborted(s, size, st); err != nil {
		f.Close()
		return err
	}
	// Only now: nothing is removed from a log that cannot be opened.
	if size > st.ActiveSize {
		if err := f.Truncate(st.ActiveSize); err != nil {
			f.Close()
			return err
		}
		l.syncedBytes = -1 // the cut is synced with what follows
	}
	return nil
}

// restoreIndex takes what the index file has of the active segment and scans the rest of the log file. fileBytes is its size before the
// cut.
func (l *Log) restoreIndex(s *segment, fileBytes int64, st State) error {
	k := offsetKind()
	var es []entry
	if b, err := k.read(l.d, s.base, fileBytes); err == nil {
		k.parse(b, s.base, func(_ int, p []byte) {
			if e := parseEntry(p); int64(e.pos) < st.ActiveSize {
				es = append(es, e)
			}
		})
	}
	if !ascending(es, st.ActiveSize) {
		es = nil
	}
	err := l.completeIndex(s, es, st)
	if err != nil && len(es) > 0 {
		l.o.Logger.Warn("index rebuilt", "segment", s.logName(), "cause", err)
		err = l.completeIndex(s, nil, st)
		es = nil
	}
	if err != nil {
		return err
	}
	l.indexSaved = len(es)
	s.index, s.indexed = l.index.entries, true
	s.maxTS.Store(l.index.maxTS)
	s.sum.Store(l.index.sum)
	return nil
}

// completeIndex scans the active segment from the last entry of es on; the batches met there must be whole and end at state's
// next offset.
func (l *Log) completeIndex(s *segment, es []entry, st State) error {
	l.index = indexer{base: s.base, interval: l.o.IndexIntervalBytes, entries: es, maxTS: noTimestamp}
	from := place{s.base, 0}
	if n := len(es); n > 0 {
		from = place{s.base + int64(es[n-1].rel), int64(es[n-1].pos)}
		l.index.maxTS = es[n-1].ts
	}
	sc := newScanner(s.f, from.pos, st.ActiveSize, from.offset, st.NextOffset)
	first := true
	var prefix [record.PrefixBytes]byte
	for {
		h, pos, ok, err := sc.header()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if first && h.BaseOffset() != from.offset {
			return sc.corrupt(pos, "offset %d, want %d", h.BaseOffset(), from.offset)
		}
		first = false
		offset, size, ts := h.BaseOffset(), h.Size(), h.MaxTimestamp()
		copy(prefix[:], h)
		if _, err := sc.body(pos, size); err != nil {
			return err
		}
		l.index.add(offset, pos, size, ts)
		l.index.mix(prefix[:])
	}
	if sc.next != st.NextOffset {
		sc.cur = sc.next
		return sc.corrupt(sc.pos, "the active segment ends at offset %d, the checkpoint says %d", sc.next, st.NextOffset)
	}
	if len(es) == 0 && int64(l.index.sum) != st.ActiveSum {
		sc.cur = s.base
		return sc.corrupt(0, "offsets or leader epochs have changed: their sum is %08x, the checkpoint says %08x", l.index.sum, st.ActiveSum)
	}
	l.index.sum = uint32(st.ActiveSum)
	return nil
}

// restoreAborted takes the aborted transactions of the active segment up to state from their file, or from the log.
func (l *Log) restoreAborted(s *segment, fileBytes int64, st State) error {
	k := txnKind()
	var as []AbortedTxn
	if b, err := k.read(l.d, s.base, fileBytes); err == nil {
		k.parse(b, s.base, func(_ int, p []byte) {
			if a := parseAborted(p); a.Last < st.NextOffset {
				as = append(as, a)
			}
		})
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	l.abortedSaved = len(as)
	if int64(len(as)) != st.ActiveAborted {
		l.o.Logger.Warn("aborted transactions rebuilt", "segment", s.logName(), "have", len(as), "want", st.ActiveAborted)
		var err error
		if as, err = scanAborted(l.view.Load().segments); err != nil {
			return err
		}
		l.abortedSaved = 0
	}
	s.aborted, s.txns = as, true
	s.limit.Store(math.MaxInt64)
	return nil
}
