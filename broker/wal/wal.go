// Package wal is a node's write-ahead log: every record of every raft group, in the order given, durable by one fdatasync
// for all that waits. It knows no raft, never interprets a payload and never drops what was once durable.
package wal

import (
	"errors"
	"log/slog"

	"github.com/outrelay/outrelay/internal/vfs"
)

// The classes of error.
var (
	// ErrCorrupt: a record that was durable cannot be read any more. The text names file and byte; see CorruptError.
	ErrCorrupt = errors.New("write-ahead log corrupt")
	// ErrVersion: a file was written by a newer format version.
	ErrVersion = errors.New("write-ahead log format version not supported")
	// ErrForeign: a file belongs to another node or incarnation.
	ErrForeign = errors.New("write-ahead log belongs to another node")
	// ErrTooLarge: a payload is over Options.RecordBytesMax.
	ErrTooLarge = errors.New("record too large for the write-ahead log")
	// ErrPoisoned: a write or sync failed earlier; the process must exit.
	ErrPoisoned = errors.New("write-ahead log failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("write-ahead log closed")
	// ErrNotFound: no record stands at that position: recycled, or not yet synced.
	ErrNotFound = errors.New("no such write-ahead log record")
)

// Kinds of record from KindReserved on are the log's own; 0 is none.
const KindReserved = 240

// Record is one record. Kind is the caller's, in [1, KindReserved).
type Record struct {
	Group       uint64
	Kind        uint8
	Index, Term uint64
	Payload     []byte
}

// Pos is where a record stands.
type Pos struct {
	File   uint64
	Offset int64
}

// Options configures a WAL. The zero value works.
type Options struct {
	FileBytes      int64    // size of a file; 64 MiB
	RecordBytesMax int64    // largest payload; 128 MiB
	ZeroStepBytes  int64    // a file in use is extended by this many zeros at a time; 1 MiB
	SpareFiles     int      // recycled or prepared files kept for reuse; 2
	NodeID         int32    // this node; 0 = do not check
	Incarnation    [16]byte // this data directory's identity, minted with it; zero = do not check
	Logger         *slog.Logger
}

var errTODO = errors.New("not built yet")

// WAL is an open log.
type WAL struct{}

func Open(fs vfs.FS, dir string, o Options, replay func(Record, Pos) error) (*WAL, error) {
	return nil, errTODO
}
func (w *WAL) Append(recs ...Record) ([]Pos, error)              { return nil, errTODO }
func (w *WAL) AppendTo(dst []Pos, recs ...Record) ([]Pos, error) { return nil, errTODO }
func (w *WAL) Sync() error                                       { return errTODO }
func (w *WAL) Read(p Pos) (Record, error)                        { return Record{}, errTODO }
func (w *WAL) Tail() Pos                                         { return Pos{} }
func (w *WAL) Recycle(before uint64) error                       { return errTODO }
func (w *WAL) Files() []uint64                                   { return nil }
func (w *WAL) Close() error                                      { return errTODO }
