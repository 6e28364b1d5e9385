package consumer

import "github.com/outrelay/outrelay/sinks"

// Failure is a record that fails by itself, alone in its batch.
type Failure struct {
	Group    string
	Record   sinks.Record
	Err      error
	Attempts int // from 1
}

// Decision is what becomes of a failing record.
type Decision int

// Block keeps the partition at the failing record and tries it again now and then. Parking and dead letters will be further
// decisions.
const Block Decision = 0

// FailurePolicy decides about records that fail by themselves. It must not block: it is asked from the partition's worker.
type FailurePolicy interface {
	Decide(Failure) Decision
}
