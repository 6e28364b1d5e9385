package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/invariant"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Log is one replica's log of one partition. One goroutine appends; any number may read, one may Sync, and one may roll, apply retention
// and compact, all at the same time.
type Log struct {
	d     files
	o     Options
	codec *record.Codecs

	next atomic.Int64         // the log end offset; stored after the bytes can be read
	view atomic.Pointer[view] // what readers see; replaced, never changed
	tail tail

	epochMu sync.Mutex // guards epochs; nested in mu
	epochs  []Epoch

	upkeep sync.Mutex // one of compaction and retention at a time; mu nests in it
	syncMu sync.Mutex // one Sync at a time; mu nests in it

	mu            sync.Mutex // the writer's state; tail.mu, epochMu and segment.mu nest in it
	active        *segment
	file          vfs.File // of active
	index         indexer  // of active
	created       time.Time
	indexSaved    int // entries of active's index that its file has
	abortedSaved  int
	syncedBytes   int64
	cleanedTo     int64
	sealed        []*segment // not synced since they were active
	sealedIndexes []vfs.File // their indexes
	reserved      int64      // bytes of active's file that room was taken for
	names         bool       // the directory has changed since it was synced
	segmentBytes  int64
	segmentAge    time.Duration
	err           error // a failed write or sync, or ErrClosed: nothing is written any more
}

// view is the segments that exist, ascending; the last one is active.
type view struct {
	start    int64 // the log start offset
	segments []*segment
}

// at returns the index of the segment that holds offset: the last one with a base at or below it.
func (v *view) at(offset int64) int {
	i, found := slices.BinarySearchFunc(v.segments, offset, func(s *segment, o int64) int {
		switch {
		case s.base < o:
			return -1
		case s.base > o:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	return max(i, 0)
}

// LogStartOffset returns the first offset that can be read.
func (l *Log) LogStartOffset() int64 { return l.view.Load().start }

// NextOffset returns the log end offset: what Append expects next.
func (l *Log) NextOffset() int64 { return l.next.Load() }

// Err returns why nothing can be written any more, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Size returns the bytes of all segments.
func (l *Log) Size() int64 {
	var n int64
	for _, s := range l.view.Load().segments {
		n += s.size.Load()
	}
	return n
}

// Segments returns how many segments there are.
func (l *Log) Segments() int { return len(l.view.Load().segments) }

// Configure changes the limits at which segments roll, from the next Append on; a zero stands for the default.
func (l *Log) Configure(segmentBytes int64, segmentAge time.Duration) {
	o := Options{SegmentBytes: segmentBytes, SegmentAge: segmentAge, Clock: l.o.Clock, Logger: l.o.Logger}.withDefaults()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segmentBytes, l.segmentAge = o.SegmentBytes, o.SegmentAge
}

// Append adds a batch, whose first 16 bytes are replaced by prefix (see record.Stamp16), with the base offset NextOffset; anything else is the
// caller's bug and panics. Both are copied, once. The batch can be read when Append returns, and is durable after the next Sync; until
// then it may not even have been written. Append blocks on the disk only when a block of some 128 KiB is full, and allocates only for such
// blocks. An error is the disk's and final: the caller stops the process.
func (l *Log) Append(prefix [record.PrefixBytes]byte, batch []byte) error {
	base, epoch := int64(binary.BigEndian.Uint64(prefix[:])), int32(binary.BigEndian.Uint32(prefix[12:]))
	h, size := record.Batch(batch), int64(len(batch))
	if base != l.next.Load() { // not by Check alone: its arguments allocate
		invariant.Check(false, "S3: offset %d appended where %d is next", base, l.next.Load())
	}
	if size < record.HeaderBytes || int64(binary.BigEndian.Uint32(prefix[8:]))+12 != size || h.LastOffsetDelta() < 0 {
		invariant.Check(false, "S3: a batch of %d bytes is not what its header says", size)
	}
	last := base + int64(h.LastOffsetDelta())

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.full(size, last) {
		if err := l.roll(l.o.Clock.Now()); err != nil {
			return err
		}
	}
	pos := l.active.size.Load()
	blk, fits := l.tail.room(l.active, len(batch))
	if !fits {
		if err := l.flush(); err != nil {
			return err
		}
		blk = l.tail.grow(l.active, base, pos, len(batch))
	}
	if l.index.add(base, pos, size, h.MaxTimestamp()) {
		l.active.setIndex(l.index.entries)
	}
	l.active.maxTS.Store(l.index.maxTS)
	if n := len(l.epochs); n == 0 || l.epochs[n-1].Epoch < epoch { // written under mu only
		l.epochMu.Lock()
		l.epochs = appendEpoch(l.epochs, epoch, base)
		l.epochMu.Unlock()
	}
	l.tail.put(blk, prefix, batch, last+1)
	l.index.mix(blk.b[len(blk.b)-len(batch):])
	l.active.size.Store(pos + size)
	l.next.Store(last + 1)
	return nil
}

// full reports whether a batch of size bytes that ends at offset last has to go to a new segment.
func (l *Log) full(size, last int64) bool {
	have := l.active.size.Load()
	if have == 0 {
		return false
	}
	const relMax = 1<<31 - 1 // Kafka's indexes have 31 bits for an offset within a segment
	return have+size > l.segmentBytes || last-l.active.base > relMax || l.o.Clock.Now().Sub(l.created) > l.segmentAge
}

func (s *segment) setIndex(es []entry) {
	s.mu.Lock()
	s.index = es
	s.mu.Unlock()
}

// fail makes err the log's last word.
func (l *Log) fail(err error) error {
	if l.err == nil {
		l.err = err
	}
	return err
}

// flush writes what only memory has into the active segment's file. mu is held.
func (l *Log) flush() error {
	if len(l.tail.blocks) == 0 {
		return nil
	}
	blk := l.tail.blocks[len(l.tail.blocks)-1]
	if blk.flushed == len(blk.b) {
		return nil
	}
	at := blk.pos + int64(blk.flushed)
	l.reserve(blk.pos + int64(len(blk.b)))
	if _, err := l.file.WriteAt(blk.b[blk.flushed:], at); err != nil {
		return l.fail(fmt.Errorf("segment %s at byte %d: %w", l.file.Name(), at, err))
	}
	blk.flushed = len(blk.b)
	blk.seg.flushed.Store(blk.pos + int64(len(blk.b)))
	return nil
}

// reserve takes room ahead for a file that will have size bytes. mu is held.
func (l *Log) reserve(size int64) {
	if size < reserveFromBytes || size <= l.reserved {
		return
	}
	l.reserved = min(size+min(size, reserveBytesMax), max(l.segmentBytes, size))
	l.file.Reserve(l.reserved)
}

// giveBack returns the room that the active segment did not use. mu is held.
func (l *Log) giveBack() error {
	size := l.active.size.Load()
	if l.reserved <= size {
		return nil
	}
	l.reserved = 0
	if err := l.file.Truncate(size); err != nil {
		return l.fail(fmt.Errorf("segment %s: %w", l.file.Name(), err))
	}
	return nil
}

// RollIfOld begins a new segment if the active one holds something and is older than the segment age: retention and compaction leave the
// active segment alone, so without it an idle partition would keep its last records for ever. Call it where Append is called.
func (l *Log) RollIfOld(now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.active.size.Load() == 0 || now.Sub(l.created) <= l.segmentAge {
		return nil
	}
	return l.roll(now)
}

// RollIfExpired begins a new segment if all records of the active one have timestamps before the given time (ms), or, where none has one, if it was begun before:
// retention, which leaves the active segment alone, can then take it. Call it where Append is called.
func (l *Log) RollIfExpired(before int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	ts := l.index.maxTS
	if ts == noTimestamp {
		ts = l.created.UnixMilli()
	}
	if l.active.size.Load() == 0 || ts >= before {
		return nil
	}
	return l.roll(l.o.Clock.Now())
}

// Roll begins a new segment if the active one holds something. Call it where Append is called.
func (l *Log) Roll() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.active.size.Load() == 0 {
		return nil
	}
	return l.roll(l.o.Clock.Now())
}

// roll seals the active segment and makes the next one. mu is held.
func (l *Log) roll(now time.Time) error {
	if err := errorsFirst(l.flush, l.giveBack); err != nil {
		return err
	}
	old, limit := l.active, l.next.Load()
	old.learn(l.index.maxTS, l.index.sum)
	old.limit.Store(limit)
	if err := l.saveIndexes(true); err != nil {
		return err
	}
	l.sealed = append(l.sealed, old) // it keeps the writer's reference until it is synced
	return l.begin(limit, now)
}

// begin makes an empty active segment. mu is held, or nobody else has the log yet.
func (l *Log) begin(base int64, now time.Time) error {
	s := newSegment(l.d, base)
	f, err := l.d.fs.Create(s.logName())
	if err != nil {
		return l.fail(fmt.Errorf("new segment: %w", err))
	}
	s.f, s.refs = f, 1
	s.indexed, s.txns = true, true
	l.active, l.file = s, f
	l.index = indexer{base: base, interval: l.o.IndexIntervalBytes, maxTS: noTimestamp}
	l.indexSaved, l.abortedSaved, l.syncedBytes = 0, 0, 0
	l.created, l.names, l.reserved = now, true, 0
	v := &view{}
	if old := l.view.Load(); old != nil {
		v.start = old.start
		v.segments = slices.Clone(old.segments)
	}
	v.segments = append(v.segments, s)
	l.view.Store(v)
	return nil
}

// saveIndexes writes the entries of active's indexes that their files lack, and seals them at the end of a segment. The files
// that a Sync has to make durable go to sealedIndexes. mu is held.
func (l *Log) saveIndexes(sealing bool) error {
	s := l.active
	s.mu.Lock()
	defer s.mu.Unlock()
	if sealing || len(s.index) > l.indexSaved {
		f, err := s.writeIndexLocked(l.indexSaved)
		if err != nil {
			return l.fail(fmt.Errorf("index of segment %d: %w", s.base, err))
		}
		l.indexSaved, l.names = len(s.index), true
		if sealing {
			l.sealedIndexes = append(l.sealedIndexes, f)
		} else {
			f.Close() // Open scans what a lost entry would have saved it
		}
	}
	if sealing || len(s.aborted) > l.abortedSaved {
		f, err := s.writeAbortedLocked(l.abortedSaved)
		if err != nil {
			return l.fail(fmt.Errorf("aborted transactions of segment %d: %w", s.base, err))
		}
		l.abortedSaved, l.names = len(s.aborted), true
		l.sealedIndexes = append(l.sealedIndexes, f)
	}
	return nil
}

// State returns what a checkpoint may say of the log as it stands, once a later Sync has returned without an error. It does not block
// on the disk.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state()
}

func (l *Log) state() State {
	s := l.active
	s.mu.Lock()
	aborted := int64(len(s.aborted))
	s.mu.Unlock()
	return State{
		LogStartOffset: l.LogStartOffset(), NextOffset: l.next.Load(), ActiveBase: s.base, ActiveSize: s.size.Load(),
		ActiveCreated: l.created.UnixMilli(), ActiveAborted: aborted, ActiveSum: int64(l.index.sum), CleanedTo: l.cleanedTo, Epochs: slices.Clone(l.epochs),
	}
}

// Sync makes durable what was appended before it was called, and returns the State of that moment, which a checkpoint may now hold (S1).
// It blocks on the disk (one fdatasync per changed segment, and one of the directory if names changed) while appends and reads go on. An error
// is final: the caller stops the process.
func (l *Log) Sync() (State, error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return State{}, l.err
	}
	if err := errorsFirst(l.flush, func() error { return l.saveIndexes(false) }); err != nil {
		defer l.mu.Unlock()
		return State{}, err
	}
	st := l.state()
	active, file, size := l.active, l.file, l.active.size.Load()
	dirty := size > l.syncedBytes
	if dirty {
		if _, err := active.acquire(); err != nil { // it is open: the writer has it
			defer l.mu.Unlock()
			return State{}, l.fail(err)
		}
	}
	sealed, indexes, names := l.sealed, l.sealedIndexes, l.names
	l.sealed, l.sealedIndexes, l.names = nil, nil, false
	l.mu.Unlock()

	err := syncAll(sealed, indexes)
	if dirty {
		if err == nil {
			err = file.Sync()
		}
		active.release()
	}
	if err == nil && names {
		err = l.d.fs.SyncDir(l.d.dir)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return State{}, l.fail(fmt.Errorf("sync of the log in %s: %w", l.d.dir, err))
	}
	if dirty && l.active == active {
		l.syncedBytes = size
	}
	if !dirty && l.next.Load() == st.NextOffset {
		l.tail.clear() // an idle partition needs no memory
	}
	for _, s := range l.view.Load().segments {
		if s.sealed() {
			s.rest()
		}
	}
	return st, nil
}

func errorsFirst(fns ...func() error) error {
	for _, fn := range fns {
		if err := fn(); err != nil {
			return err
		}
	}
	return nil
}

// syncAll syncs sealed segments and index files and lets go of them, in any case.
func syncAll(sealed []*segment, indexes []vfs.File) error {
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, s := range sealed {
		if first == nil {
			note(s.f.Sync()) // open: the writer's reference is released below
		}
		s.release()
	}
	for _, f := range indexes {
		if first == nil {
			note(f.Sync())
		}
		f.Close()
	}
	return first
}

// Close closes the files. What was not synced is lost, as in a crash. Reads that are under way end well; later calls return ErrClosed.
func (l *Log) Close() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == ErrClosed {
		return nil
	}
	if l.err == nil {
		if err := errorsFirst(l.flush, l.giveBack); err != nil {
			l.o.Logger.Warn("segment not closed well", "err", err) // what is durable is as it was; the next Open cuts the rest
		}
	}
	l.err = ErrClosed
	for _, f := range l.sealedIndexes {
		f.Close()
	}
	for _, s := range l.sealed {
		s.release()
	}
	l.sealed, l.sealedIndexes = nil, nil
	l.active.release()
	for _, s := range l.view.Load().segments {
		s.retire()
	}
	return nil
}

// retry says how a reader goes on after err: with a new view, when it returns nil, because a segment of the old one has gone.
func (l *Log) retry(err error) error {
	if !errors.Is(err, errRetired) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err // closed, or broken half way through a swap
}
