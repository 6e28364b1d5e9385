package sinks

import (
	"errors"
	"fmt"

	"github.com/outrelay/outrelay"
)

// ErrAmbiguous: the connection was lost while COMMIT was under way, so nobody knows whether the batch is in. A new Claim tells:
// its Next is the batch's Next (it is in) or its From (it is not, and no longer can be).
var ErrAmbiguous = errors.New("outcome of commit unknown")

// ErrConflict: another transaction was in the way (a deadlock, a serialisation failure, a lock that was not had in time). It comes together
// with outrelay.ErrTransient; smaller batches, or one partition at a time, make it rarer.
var ErrConflict = errors.New("conflict with another transaction")

// RecordError names the record of a batch that fails by itself, whatever the time. The batch was rolled back.
type RecordError struct {
	Record  Record
	Handler string // event type and place: "OrderPlaced (outrelay.yaml:11)"
	Err     error
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("%s/%d offset %d, handler %s: %v", e.Record.Topic, e.Record.Partition, e.Record.Offset, e.Handler, e.Err)
}

// Unwrap makes errors.Is find outrelay.ErrRecord and the cause.
func (e *RecordError) Unwrap() []error { return []error{outrelay.ErrRecord, e.Err} }

// BatchError says which of several batches an error of ApplyAll belongs to. Its error carries the class.
type BatchError struct {
	Index int // into the batches as they were given
	Err   error
}

func (e *BatchError) Error() string { return e.Err.Error() }

// Unwrap makes errors.Is find the class.
func (e *BatchError) Unwrap() error { return e.Err }
