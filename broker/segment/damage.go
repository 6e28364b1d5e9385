package segment

import (
	"errors"
	"fmt"
)

// CorruptError says where a log is not what was written. It wraps [ErrCorrupt].
type CorruptError struct {
	File   string
	Byte   int64 // of the batch, or of the file, that is not right
	Offset int64 // the first offset that cannot be trusted because of it; -1: not known
	Cause  string

	missing bool // the segment at Offset is not there; the file itself may be whole
	foreign bool // a segment stands where none belongs
	sum     bool // the batches' first 16 bytes do not add up: one of them has changed, and it is not known which
}

// Error names file, byte and offset.
func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("segment %s at byte %d: %s: %v", e.File, e.Byte, e.Cause, ErrCorrupt)
	}
	return fmt.Sprintf("segment %s at byte %d, offset %d: %s: %v", e.File, e.Byte, e.Offset, e.Cause, ErrCorrupt)
}

// Unwrap returns ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// placeOf returns what err says of a place, or a place that knows the file alone.
func placeOf(err error, file string) *CorruptError {
	var ce *CorruptError
	if errors.As(err, &ce) {
		return ce
	}
	return &CorruptError{File: file, Offset: -1, Cause: err.Error()}
}
