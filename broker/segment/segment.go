package segment

import (
	"errors"
	"hash/crc32"
	"io/fs"
	"math"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// errRetired: the segment has been replaced or removed since the reader took its view. The reader takes a new one.
var errRetired = errors.New("segment retired")

// segment is one log file with its indexes. While it is active it grows; once limit is set it never changes again: compaction makes
// a new one.
type segment struct {
	d    files
	base int64

	size    atomic.Int64  // bytes, also those still in memory
	flushed atomic.Int64  // bytes in the file
	limit   atomic.Int64  // base offset of the next segment; math.MaxInt64 while active
	maxTS   atomic.Int64  // largest timestamp; only true once known is
	sum     atomic.Uint32 // CRC32C of the first 16 bytes of all batches; only true once known is
	known   atomic.Bool
	hint    atomic.Pointer[place] // where the last cold read ended

	verified verified // parts of the file

	mu      sync.Mutex // guards all below; held while an index is read or rebuilt
	f       vfs.File   // nil while nobody needs it
	refs    int
	retired bool
	touched bool // used since the last Sync
	index   []entry
	indexed bool // index holds all of the file's batches
	aborted []AbortedTxn
	txns    bool // aborted is complete
}

// place is a batch's offset and byte.
type place struct{ offset, pos int64 }

func newSegment(d files, base int64) *segment {
	s := &segment{d: d, base: base}
	s.limit.Store(math.MaxInt64)
	s.maxTS.Store(noTimestamp)
	return s
}

func (s *segment) sealed() bool { return s.limit.Load() != math.MaxInt64 }

func (s *segment) logName() string { return s.d.name(s.base, extLog) }

// acquire returns the open log file, which stays readable until release, whatever happens to the segment. It returns errRetired for
// a segment that has gone and that nobody holds.
func (s *segment) acquire() (vfs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acquireLocked()
}

func (s *segment) acquireLocked() (vfs.File, error) {
	if s.f == nil {
		if s.retired {
			return nil, errRetired
		}
		f, err := s.d.fs.Open(s.logName())
		if errors.Is(err, fs.ErrNotExist) && s.retired {
			return nil, errRetired
		}
		if err != nil {
			return nil, err
		}
		s.f = f
	}
	s.refs++
	s.touched = true
	return s.f, nil
}

func (s *segment) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked()
}

func (s *segment) releaseLocked() {
	s.refs--
	if s.retired && s.refs == 0 {
		s.closeLocked()
	}
}

// retire says that the segment's files go, or belong to another segment now. Who holds the file reads on.
func (s *segment) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	if s.refs == 0 {
		s.closeLocked()
	}
}

func (s *segment) closeLocked() {
	if s.f != nil {
		s.f.Close() // read only, or synced: nothing is lost with an error here
		s.f = nil
	}
}

// rest lets go of the file and the index of a sealed segment that was not used since the last call.
func (s *segment) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.touched || s.refs > 0 {
		s.touched = false
		return
	}
	s.closeLocked()
	s.verified.forget()
	s.index, s.indexed = nil, false
	s.aborted, s.txns = nil, false
}

// loadIndex makes the index complete: from its file, or from the log where that is missing or wrong. s.mu is held.
func (s *segment) loadIndex(interval int) error {
	s.touched = true
	if s.indexed {
		return nil
	}
	if s.retired {
		return s.rebuildIndex(interval) // the files of this name may be another's
	}
	k, size := offsetKind(), s.flushed.Load()
	if b, err := k.read(s.d, s.base, size); err == nil {
		var es []entry
		seal, ok := k.parse(b, s.base, func(_ int, p []byte) { es = append(es, parseEntry(p)) })
		if ok && seal.size == size && seal.limit == s.limit.Load() && ascending(es, size) {
			s.index, s.indexed = es, true
			s.learn(seal.maxTS, seal.sum)
			return nil
		}
	}
	return s.rebuildIndex(interval)
}

// ascending reports whether es can be the index of a log of size bytes.
func ascending(es []entry, size int64) bool {
	for i, e := range es {
		if int64(e.pos) >= size || (i > 0 && (e.pos <= es[i-1].pos || e.rel <= es[i-1].rel || e.ts < es[i-1].ts)) {
			return false
		}
	}
	return true
}

// rebuildIndex makes the index from the log file's headers and writes it, unless the name is not the segment's own any more.
// s.mu is held.
func (s *segment) rebuildIndex(interval int) error {
	f, err := s.acquireLocked()
	if err != nil {
		return err
	}
	defer s.releaseLocked()
	x := indexer{base: s.base, interval: interval, maxTS: noTimestamp}
	sc := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load())
	for {
		h, pos, ok, err := sc.header()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		x.add(h.BaseOffset(), pos, h.Size(), h.MaxTimestamp())
		x.mix(h)
	}
	s.index, s.indexed = x.entries, true
	s.learn(x.maxTS, x.sum)
	if !s.retired {
		if f, err := s.writeIndexLocked(0); err == nil {
			f.Close()
		} // else the next one rebuilds it again: it is a cache
	}
	return nil
}

// indexer decides which batches get an index entry.
type indexer struct {
	base     int64
	interval int
	entries  []entry
	since    int64  // bytes since the last entry
	maxTS    int64  // of all batches so far
	sum      uint32 // of their first 16 bytes
}

// mix adds a batch's first 16 bytes to the sum.
func (x *indexer) mix(b []byte) {
	x.sum = crc32.Update(x.sum, crc32.MakeTable(crc32.Castagnoli), b[:record.PrefixBytes])
}

// learn notes what the index of a complete segment, or the writer, knows of all its batches.
func (s *segment) learn(maxTS int64, sum uint32) {
	s.maxTS.Store(maxTS)
	s.sum.Store(sum)
	s.known.Store(true)
}

func (x *indexer) add(offset, pos, size, maxTS int64) (added bool) {
	if x.since >= int64(x.interval) {
		x.entries = append(x.entries, entry{rel: uint32(offset - x.base), pos: uint32(pos), ts: x.maxTS})
		x.since, added = 0, true
	}
	x.since += size
	x.maxTS = max(x.maxTS, maxTS)
	return added
}

// writeIndexLocked writes the index's entries from the from-th on, and the seal of a sealed segment. s.mu is held; the caller closes
// the file.
func (s *segment) writeIndexLocked(from int) (vfs.File, error) {
	k := offsetKind()
	for {
		var b []byte
		for i, e := range s.index[from:] {
			b = k.appendEntry(b, s.base, uint32(from+i), e)
		}
		if s.sealed() {
			b = k.appendSeal(b, s.base, s.seal(len(s.index)))
		}
		f, ok, err := k.write(s.d, s.base, from, b)
		if ok || err != nil {
			return f, err
		}
		from = 0
	}
}

// writeAbortedLocked does the same for the aborted transactions.
func (s *segment) writeAbortedLocked(from int) (vfs.File, error) {
	k := txnKind()
	for {
		var b []byte
		for i, a := range s.aborted[from:] {
			b = k.appendAborted(b, s.base, uint32(from+i), a)
		}
		if s.sealed() {
			b = k.appendSeal(b, s.base, s.seal(len(s.aborted)))
		}
		f, ok, err := k.write(s.d, s.base, from, b)
		if ok || err != nil {
			return f, err
		}
		from = 0
	}
}

func (s *segment) seal(count int) seal {
	return seal{count: uint32(count), size: s.size.Load(), limit: s.limit.Load(), maxTS: s.maxTS.Load(), sum: s.sum.Load()}
}

// loadAborted reads the aborted transactions of a sealed segment; false means that they have to be rebuilt. s.mu is held.
func (s *segment) loadAborted() bool {
	s.touched = true
	if s.txns {
		return true
	}
	if s.retired {
		return false
	}
	k := txnKind()
	b, err := k.read(s.d, s.base, s.flushed.Load())
	if err != nil {
		return false
	}
	var as []AbortedTxn
	seal, ok := k.parse(b, s.base, func(_ int, p []byte) { as = append(as, parseAborted(p)) })
	if !ok || seal.size != s.flushed.Load() || seal.limit != s.limit.Load() {
		return false
	}
	s.aborted, s.txns = as, true
	return true
}

// maxTimestamp returns the largest timestamp in the segment, -1 when none has one.
func (s *segment) maxTimestamp(interval int) (int64, error) {
	if s.known.Load() {
		return s.maxTS.Load(), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxTimestampLocked(interval)
}

func (s *segment) maxTimestampLocked(interval int) (int64, error) {
	if !s.known.Load() {
		if err := s.loadIndex(interval); err != nil {
			return 0, err
		}
	}
	return s.maxTS.Load(), nil
}

// find returns where to begin scanning for offset: the indexed batch at or before it, or byte 0. checked says whether
// there is an entry that the caller has to check against the log (S5).
func (s *segment) find(offset int64, interval int) (p place, checked bool, err error) {
	if h := s.hint.Load(); h != nil && h.offset == offset {
		return *h, false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadIndex(interval); err != nil {
		return p, false, err
	}
	i := sort.Search(len(s.index), func(i int) bool { return s.base+int64(s.index[i].rel) > offset })
	if i == 0 {
		return place{s.base, 0}, false, nil
	}
	e := s.index[i-1]
	return place{s.base + int64(e.rel), int64(e.pos)}, true, nil
}

// findTime returns where to begin scanning for the first timestamp of ts or later.
func (s *segment) findTime(ts int64, interval int) (p place, checked bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadIndex(interval); err != nil {
		return p, false, err
	}
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].ts >= ts })
	if i == 0 {
		return place{s.base, 0}, false, nil
	}
	e := s.index[i-1]
	return place{s.base + int64(e.rel), int64(e.pos)}, true, nil
}

// distrust rebuilds the index of a sealed segment after an entry did not agree with the log; it returns false when that
// was done already, so that the log itself is wrong.
func (s *segment) distrust(interval int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sealed() {
		return false, nil // the writer's own, made from what it appended
	}
	before := s.index
	s.indexed = false
	if err := s.rebuildIndex(interval); err != nil {
		return false, err
	}
	if len(before) != len(s.index) {
		return true, nil
	}
	for i := range before {
		if before[i] != s.index[i] {
			return true, nil
		}
	}
	return false, nil
}
