package segment

import (
	"errors"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
)

// The classes of error; find them with errors.Is.
var (
	// ErrOutOfRange: the offset is below the log start offset or above the log end offset.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrCorrupt: what is on disk is not what was written. The text names file and byte.
	ErrCorrupt = errors.New("corrupt log")
	// ErrVersion: written by a newer version of outrelay.
	ErrVersion = errors.New("unknown format version")
	// ErrClosed: the log has been closed.
	ErrClosed = errors.New("log closed")
)

const (
	segmentBytesDefault  = 128 << 20
	segmentBytesMax      = 1<<31 - 1 // positions in the index have 32 bits
	segmentAgeDefault    = 7 * 24 * time.Hour
	indexIntervalDefault = 4 << 10
	tailBytesDefault     = 384 << 10
	blockBytesMin        = 4 << 10
	blockBytesMax        = 128 << 10
	// Room is taken ahead of a growing segment, as much again as it has: a file system spends half of a write on finding room for it. Not before it
	// has the first so many bytes: a thousand small partitions take no room that they do not use.
	reserveFromBytes = 1 << 20
	reserveBytesMax  = 32 << 20
	scanWindowBytes  = 128 << 10
)

// Options configures a Log. The zero value works.
type Options struct {
	SegmentBytes       int64         // roll before the active segment grows beyond (segment.bytes); default 128 MiB, at most 2 GiB - 1
	SegmentAge         time.Duration // roll a segment that is older (segment.ms); default 7 days
	IndexIntervalBytes int           // one index entry per so many bytes; default 4 KiB
	TailBytes          int           // recent batches kept in memory for tail reads; default 384 KiB
	Clock              clock.Clock   // nil: the machine's
	Logger             *slog.Logger  // nil: discard
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = segmentBytesDefault
	}
	o.SegmentBytes = min(o.SegmentBytes, segmentBytesMax)
	if o.SegmentAge <= 0 {
		o.SegmentAge = segmentAgeDefault
	}
	if o.IndexIntervalBytes <= 0 {
		o.IndexIntervalBytes = indexIntervalDefault
	}
	if o.TailBytes <= 0 {
		o.TailBytes = tailBytesDefault
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
