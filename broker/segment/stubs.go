package segment

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

var errTODO = errors.New("not there yet")

// ErrOutOfRange: the offset is below the log start offset or above the log end offset.
var ErrOutOfRange = errors.New("offset out of range")

// ErrCorrupt: what is on disk is not what was written.
var ErrCorrupt = errors.New("corrupt segment")

// Options configures a Log. The zero value works.
type Options struct {
	SegmentBytes       int64         // roll before the active segment grows beyond; default 128 MiB
	SegmentAge         time.Duration // roll a segment that is older; default 7 days
	IndexIntervalBytes int           // default 4 KiB
	TailBytes          int           // recent batches kept in memory; default 256 KiB
	Clock              clock.Clock
	Logger             *slog.Logger
}

// Epoch says from which offset on a leader epoch wrote.
type Epoch struct {
	Epoch int32
	Start int64
}

// State is what a checkpoint must say of a log so that Open can restore it.
type State struct {
	LogStartOffset int64
	NextOffset     int64
	ActiveBase     int64
	ActiveSize     int64
	ActiveCreated  int64 // ms
	CleanedTo      int64 // compaction has seen everything below
	Epochs         []Epoch
}

// Marshal returns the state's bytes, version first.
func (s State) Marshal() []byte { return nil }

// Unmarshal reads what Marshal wrote.
func (s *State) Unmarshal(b []byte) error { return errTODO }

// AbortedTxn is an aborted transaction: read_committed readers drop the producer's transactional records in [First, Last].
type AbortedTxn struct {
	ProducerID int64
	First      int64 // of its first record in this partition
	Last       int64 // of its abort marker
	LSO        int64 // last stable offset once it was aborted
}

// Chunk is the result of a read.
type Chunk struct {
	Bytes []byte // whole batches; immutable
	Next  int64  // the offset to resume at
}

// Log is one replica's log of one partition. One goroutine writes; any number may read.
type Log struct{}

// Open restores the log in dir to state.
func Open(fs vfs.FS, dir string, state State, o Options) (*Log, error) { return nil, errTODO }

func (l *Log) Append(prefix [16]byte, batch []byte) error { return errTODO }
func (l *Log) Sync() (State, error)                       { return State{}, errTODO }

// Checkpointed says that a checkpoint with the State of the last Sync is durable: files that only older states need are removed.
func (l *Log) Checkpointed() error { return errTODO }
func (l *Log) Read(from, limit int64, maxBytes int, minOne bool) (Chunk, error) {
	return Chunk{}, errTODO
}
func (l *Log) LogStartOffset() int64 { return 0 }
func (l *Log) NextOffset() int64     { return 0 }
func (l *Log) Size() int64           { return 0 }

// OffsetForTime returns the first record with a timestamp of ts (ms) or later.
func (l *Log) OffsetForTime(ts int64) (offset, timestamp int64, ok bool, err error) {
	return 0, 0, false, errTODO
}

// MaxTimestamp returns the record with the largest timestamp.
func (l *Log) MaxTimestamp() (offset, timestamp int64, ok bool, err error) {
	return 0, 0, false, errTODO
}
func (l *Log) Aborted(from, to int64) []AbortedTxn                                          { return nil }
func (l *Log) AppendAborted(a AbortedTxn) error                                             { return errTODO }
func (l *Log) EpochEnd(epoch int32) (endEpoch int32, endOffset int64)                       { return -1, -1 }
func (l *Log) RetentionPoint(now time.Time, retentionMs, retentionBytes, limit int64) int64 { return 0 }
func (l *Log) AdvanceStart(offset int64) error                                              { return errTODO }

// RollIfOld rolls the active segment when it is older than SegmentAge; for housekeeping of idle partitions.
func (l *Log) RollIfOld(now time.Time) error { return errTODO }

// Configure changes the roll limits from the next append on.
func (l *Log) Configure(segmentBytes int64, segmentAge time.Duration) {}

// CompactOptions configures one compaction.
type CompactOptions struct {
	Below           int64         // only segments wholly below: the durable checkpoint and the last stable offset
	DeleteRetention time.Duration // delete.retention.ms
	Now             time.Time
	MinDirtyRatio   float64       // min.cleanable.dirty.ratio
	MinLag, MaxLag  time.Duration // min/max.compaction.lag.ms
	ProducerExpiry  time.Duration // producers idle for longer lose their last header; default 24 h
}

// CompactStats says what a compaction did.
type CompactStats struct {
	SegmentsIn, SegmentsOut int
	BytesIn, BytesOut       int64
	RecordsIn, RecordsOut   int64
}

func (l *Log) Compact(ctx context.Context, o CompactOptions) (CompactStats, error) {
	return CompactStats{}, errTODO
}
func (l *Log) Verify() error { return errTODO }
func (l *Log) Close() error  { return errTODO }

// State returns what Sync would return now, without making it durable: a Sync that begins later covers it. Called by the writer, so that
// the replica can freeze it together with its own state; cheap, no I/O.
func (l *Log) State() State { return State{} }
