// Package wal is a node's write-ahead log: every record of every raft group, in the order given, durable by one fdatasync
// for all that waits. It knows no raft, never interprets a payload and never drops what was once durable.
//
//	┌─────────────┬─ batch: one write, one fdatasync ─┬─ batch ────┬─ stale or zero ─┐
//	│ file header │ record │ record │ … │ trailer     │ … │ trailer│                 │   <seq>.wal, 64 MiB, used again
//	└─────────────┴───────────────────────────────────┴────────────┴─────────────────┘
//
// docs/format/wal.md gives the bytes, and how a torn tail is told from a medium that lost what was durable.
//
// A [WAL] is synchronous and has no goroutine: it can be stepped. [Committer] adds the one goroutine that group commit needs.
package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/outrelay/outrelay/internal/invariant"
	"github.com/outrelay/outrelay/internal/vfs"
)

// The classes of error.
var (
	// ErrCorrupt: what was durable cannot be read any more. errors.As finds the [CorruptError] that names file and byte.
	ErrCorrupt = errors.New("write-ahead log corrupt")
	// ErrVersion: a newer outrelay has written this.
	ErrVersion = errors.New("write-ahead log format not supported")
	// ErrForeign: a file belongs to another node, incarnation or log.
	ErrForeign = errors.New("write-ahead log of another node")
	// ErrTooLarge: a payload is over Options.RecordBytesMax. Nothing was appended.
	ErrTooLarge = errors.New("record too large for the write-ahead log")
	// ErrInvalid: a record of a kind that is not the caller's, or options that contradict each other.
	ErrInvalid = errors.New("invalid use of the write-ahead log")
	// ErrPoisoned: a write or sync failed, now or earlier, so nobody knows what is on disk. The process must exit; the next start reads what is there.
	ErrPoisoned = errors.New("write-ahead log failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("write-ahead log closed")
	// ErrNotFound: no record stands at that position: recycled, never there, or not yet durable.
	ErrNotFound = errors.New("no such record in the write-ahead log")
)

// KindReserved is the first kind that is the log's own.
const KindReserved = 240

// Record is one record. Kind is the caller's, in [1, KindReserved); the log gives no meaning to the other fields.
type Record struct {
	Group       uint64
	Kind        uint8
	Index, Term uint64
	Payload     []byte
}

// Pos is where a record stands. Positions order as (File, Offset); the zero Pos is before all.
type Pos struct {
	File   uint64
	Offset int64
}

// Less reports whether p stands before q.
func (p Pos) Less(q Pos) bool {
	return p.File < q.File || p.File == q.File && p.Offset < q.Offset
}

// CorruptError says where the log cannot be read. It wraps [ErrCorrupt].
type CorruptError struct {
	File   string // full name
	Offset int64  // of the first record that is not good
	Cause  string
}

// Error names file and byte.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s at byte %d: %s: %v", e.File, e.Offset, e.Cause, ErrCorrupt)
}

// Unwrap returns ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// Options configures a WAL. The zero value works.
type Options struct {
	FileBytes      int64    // size of a file, at least 8 KiB; default 64 MiB
	RecordBytesMax int64    // largest payload, at most 1 GiB; default 128 MiB. One that no file of FileBytes can hold gets a larger file.
	ZeroStepBytes  int64    // a file that is not yet written with zeros is extended by so many at a time; default 1 MiB
	SpareFiles     int      // files kept for use again; default 2; negative keeps none
	NodeID         int32    // this node; 0 when not known: what the newest file says stays
	Incarnation    [16]byte // made once for this data directory; zero when not known
	LogID          [16]byte // the cluster's; zero when not known yet
	Expect         Expect   // what the log must hold; zero: not known
	Logger         *slog.Logger
}

// Expect is what somebody who looked at the log earlier, a checkpoint, knows of it: files that went away meanwhile are then missed.
type Expect struct {
	First uint64 // the oldest file that is needed; a later first one is corruption. 0: not known
	Tail  Pos    // all before it was durable; a log that ends earlier is corrupt. Zero: not known
}

func (o Options) withDefaults() (Options, error) {
	if o.FileBytes == 0 {
		o.FileBytes = 64 << 20
	}
	if o.RecordBytesMax == 0 {
		o.RecordBytesMax = 128 << 20
	}
	if o.ZeroStepBytes == 0 {
		o.ZeroStepBytes = 1 << 20
	}
	if o.SpareFiles == 0 {
		o.SpareFiles = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FileBytes < 2*fileHeader || o.RecordBytesMax < 0 || o.RecordBytesMax > payloadMaxMax || o.ZeroStepBytes < 0 {
		return o, fmt.Errorf("file of %d bytes, records up to %d, zero step %d: %w", o.FileBytes, o.RecordBytesMax, o.ZeroStepBytes, ErrInvalid)
	}
	o.FileBytes = aligned(o.FileBytes)
	return o, nil
}

// WAL is an open log. All methods may be called concurrently; appends and syncs take effect in the order of the calls.
//
// Locks nest in this order: sync, names, mu.
type WAL struct {
	fs    vfs.FS
	dir   string
	o     Options
	zeros []byte // never written to

	sync     sync.Mutex // held by whoever writes to the active file
	active   *file      // guarded by sync; the last of files
	flushing []*chunk   // guarded by sync
	iovs     [][]byte   // guarded by sync; of the write under way
	attested bool       // guarded by sync; nothing was written since the last empty batch

	namesState

	mu      sync.Mutex  // held by Append for the time of a copy; never while the disk works
	tail    tail        // guarded by mu
	pending []*chunk    // guarded by mu; to be written by the next Sync; all but the last have their trailer
	free    []*chunk    // guarded by mu; for use again
	broken  error       // guarded by mu; ErrPoisoned or ErrClosed, wrapped
	stopped atomic.Bool // broken is set; for Read, which takes no lock
}

// tail is the place of the next record, and what is known about its file, which may not exist yet.
type tail struct {
	header
	seed uint32
	at   int64
}

func (t *tail) lsn() uint64 { return t.base + uint64(t.at) }

// Append adds records to the next sync. They are not durable, and [WAL.Read] does not find them, until Sync returns. It takes either all of recs or none, and
// does not block on the disk. The payloads must not change until then: large ones are not copied. The positions are in the order of recs.
//
// Errors: ErrTooLarge, ErrInvalid, ErrPoisoned, ErrClosed.
func (w *WAL) Append(recs ...Record) ([]Pos, error) {
	return w.AppendTo(make([]Pos, 0, len(recs)), recs...)
}

// AppendTo is Append with the positions appended to dst; it allocates nothing in the long run.
func (w *WAL) AppendTo(dst []Pos, recs ...Record) ([]Pos, error) {
	for i := range recs {
		if n := int64(len(recs[i].Payload)); n > w.o.RecordBytesMax {
			return dst, fmt.Errorf("payload of %d bytes, limit %d: %w", n, w.o.RecordBytesMax, ErrTooLarge)
		}
		if k := recs[i].Kind; k == 0 || k >= KindReserved {
			return dst, fmt.Errorf("record kind %d, want 1 to %d: %w", k, KindReserved-1, ErrInvalid)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return dst, w.broken
	}
	for i := range recs {
		c := w.chunkFor(sizeOf(len(recs[i].Payload)))
		dst = append(dst, Pos{File: c.seq, Offset: w.tail.at})
		c.add(w.tail.lsn(), &recs[i])
		w.tail.at = c.start + c.size
	}
	return dst, nil
}

// chunkFor returns the chunk that the next record, of size bytes, goes to: the open one, or a new one, in the next file when this one is full. mu is held.
func (w *WAL) chunkFor(size int64) *chunk {
	t := &w.tail
	if t.at+size+trailerBytes > t.capacity {
		w.seal()
		t.header = header{
			seq: t.seq + 1, base: t.lsn(), identity: w.identity(),
			capacity: max(w.o.FileBytes, fileHeader+size+trailerBytes),
		}
		t.seed, t.at = t.identity.seed(), fileHeader
	}
	if n := len(w.pending); n > 0 && w.pending[n-1].seq == t.seq {
		return w.pending[n-1]
	}
	var c *chunk
	if n := len(w.free); n > 0 {
		c, w.free = w.free[n-1], w.free[:n-1]
	} else {
		c = &chunk{}
	}
	c.reset(t.header, t.seed, t.at)
	w.pending = append(w.pending, c)
	return c
}

// seal gives the open chunk, if there is one, its trailer. mu is held.
func (w *WAL) seal() {
	if len(w.pending) == 0 {
		return
	}
	c := w.pending[len(w.pending)-1]
	if c.seq != w.tail.seq {
		return
	}
	c.seal(w.tail.lsn())
	w.tail.at = c.start + c.size
}

func (w *WAL) identity() identity {
	return identity{node: w.o.NodeID, incarnation: w.o.Incarnation, logID: w.o.LogID}
}

// Sync makes all durable that was appended before the call: one write and one fdatasync, whatever the number of records (and once more for each new file that they
// reach). It blocks on the disk. Appends go on meanwhile and belong to the next Sync.
//
// An error wraps ErrPoisoned and the cause. Nobody knows then what is on disk: every later call fails, and the process must exit.
func (w *WAL) Sync() error {
	w.sync.Lock()
	defer w.sync.Unlock()
	return w.syncLocked()
}

func (w *WAL) syncLocked() error {
	w.mu.Lock()
	if w.broken != nil {
		defer w.mu.Unlock()
		return w.broken
	}
	w.seal()
	w.flushing, w.pending = w.pending, w.flushing[:0]
	w.mu.Unlock()
	for _, c := range w.flushing {
		if err := w.write(c); err != nil {
			return w.poison(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, c := range w.flushing {
		if cap(c.buf) <= chunkKeepBytes && len(w.free) < 4 {
			c.reset(header{}, 0, 0)
			w.free = append(w.free, c)
		}
		w.flushing[i] = nil
	}
	w.flushing = w.flushing[:0]
	return nil
}

// write makes one batch durable. Only one batch is ever on its way: that is what makes a trailer's "previous durable LSN" true. w.sync is held.
func (w *WAL) write(c *chunk) error {
	if c.seq != w.active.seq {
		invariant.Check(c.seq == w.active.seq+1, "W1: file %d follows %d", c.seq, w.active.seq)
		f, err := w.activate(c.header)
		if err != nil {
			return err
		}
		w.active = f
	}
	f := w.active
	invariant.Check(f.durable.Load() == c.start, "W2: batch at byte %d of file %d, durable up to %d", c.start, f.seq, f.durable.Load())
	w.iovs = c.buffers(w.iovs[:0])
	if _, err := f.f.WriteVAt(w.iovs, c.start); err != nil {
		return err
	}
	clear(w.iovs[:cap(w.iovs)])
	end := c.start + c.size
	if end > f.written {
		// The file grows. Do it in steps, so that most syncs need not commit the file system's journal.
		to := max(end, min(f.capacity, end+w.o.ZeroStepBytes))
		if _, err := f.f.WriteAt(w.zeros[:to-end], end); err != nil {
			return err
		}
		f.written = to
	}
	if err := f.f.Sync(); err != nil {
		return err
	}
	f.durable.Store(end)
	w.attested = c.count == 0
	return nil
}

// attest writes an empty batch: all before it is durable. w.sync is held, and nothing is pending.
func (w *WAL) attest() error {
	w.mu.Lock()
	t := &w.tail
	c := &chunk{header: t.header, seed: t.seed, start: t.at}
	c.seal(t.lsn())
	t.at += trailerBytes
	w.mu.Unlock()
	if err := w.write(c); err != nil {
		return w.poison(err)
	}
	return nil
}

// poison makes every later call fail, and returns the error they will return.
func (w *WAL) poison(cause error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == nil {
		w.broken = fmt.Errorf("%s: %w: %w", w.dir, ErrPoisoned, cause)
		w.stopped.Store(true)
	}
	return w.broken
}

// Tail returns where the next record goes unless a new file begins. After a Sync without a concurrent Append all before it is durable.
func (w *WAL) Tail() Pos {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Pos{File: w.tail.seq, Offset: w.tail.at}
}

// FilePart is a file of the log, and how many of its bytes are durable.
type FilePart struct {
	Name  string // full
	Bytes int64
}

// Parts returns the files and how far each is durable, for who copies them. Their bytes below that do not change until they are recycled.
func (w *WAL) Parts() (ps []FilePart) {
	for _, f := range *w.files.Load() {
		ps = append(ps, FilePart{Name: f.name, Bytes: f.durable.Load()})
	}
	return ps
}

// Durable returns how far the log is durable: all before the position was synced.
func (w *WAL) Durable() Pos {
	files := *w.files.Load()
	f := files[len(files)-1]
	return Pos{File: f.seq, Offset: f.durable.Load()}
}

// Close syncs what was appended, attests that it is durable, and closes the files. It waits for a running Sync. After a failure it only closes, and returns that
// failure. A second call returns nil.
func (w *WAL) Close() error {
	w.sync.Lock()
	defer w.sync.Unlock()
	err := w.syncLocked()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	if err == nil && !w.attested {
		err = w.attest()
	}
	w.mu.Lock()
	w.broken = fmt.Errorf("%s: %w", w.dir, ErrClosed)
	w.stopped.Store(true)
	w.mu.Unlock()
	return errors.Join(err, w.closeFiles())
}
