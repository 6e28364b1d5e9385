// Package sinks is the contract that every sink keeps: where the results of consumers go. It holds no implementation: those
// are its sub-packages, and sinktest is the suite that they pass for the guarantee each declares.
package sinks

import (
	"context"
	"time"

	"github.com/outrelay/outrelay"
)

// Record headers that handlers know by a parameter of their own. HeaderID and HeaderEventType are Debezium's, the others are written by
// the relay (internal/kafka names them too; a test holds the two together).
const (
	HeaderID          = "id"
	HeaderType        = "outrelay.type"
	HeaderEventType   = "eventType" // where the event type is placed by additional.placement and HeaderType is off
	HeaderCommittedAt = "outrelay.committed_at"
)

// Record is a committed record of the log, as a handler sees it.
type Record struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte // nil is a null key
	Value     []byte // nil is a tombstone
	Headers   []outrelay.Header
}

// Header returns the last header of that key, nil when there is none.
func (r *Record) Header(key string) []byte {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value
		}
	}
	return nil
}

// Type returns the record's event type, "" when it names none.
func (r *Record) Type() string {
	if t := r.Header(HeaderType); t != nil {
		return string(t)
	}
	return string(r.Header(HeaderEventType))
}

// Partition is the identity under which a sink remembers what was processed: the log and the topic by their ids, so that a
// deleted data directory or a recreated topic is never taken for the old one.
type Partition struct {
	LogID     string   // cluster id of the log
	TopicID   [16]byte // topic id (KIP-516)
	Topic     string   // for people
	Partition int32
}

// Claim is the right of one owner to move a partition's offset. It ends when a newer claim is made.
type Claim struct {
	Group     string
	Partition Partition
	Epoch     int64 // grows with every claim of this row
	Next      int64 // first offset not yet applied; -1 when the group has never processed this partition
}

// Batch is a run of records of one partition, in offset order, to be applied as one.
type Batch struct {
	Claim   Claim
	From    int64 // the claim's next offset before this batch
	Next    int64 // the claim's next offset after it: above the last record, over transaction markers too. From <= Next.
	Records []Record
}

// Guarantee is what a sink can promise about its effects.
type Guarantee int

// The guarantees, weakest first.
const (
	AtLeastOnce   Guarantee = iota // effects may be repeated after a failure
	Idempotent                     // effects may be repeated, with the same outcome
	Transactional                  // effects and offset commit in one transaction
)

func (g Guarantee) String() string {
	return [...]string{"at-least-once", "idempotent", "exactly-once"}[g]
}

// Sink takes batches. Methods may be called concurrently for different partitions, not for the same one.
type Sink interface {
	// Apply makes all effects of b, or none. It blocks until they are durable. Errors carry a class: outrelay.ErrFenced (another
	// owner has claimed; drop the partition), outrelay.ErrTransient (the same batch may be tried again), outrelay.ErrRecord (a
	// record fails by itself; see RecordError), ErrAmbiguous (claim again to learn what happened).
	Apply(ctx context.Context, b Batch) error
	Guarantee() Guarantee
	Close() error
}

// OffsetStore is a sink that keeps offsets with its effects, in the same transaction.
type OffsetStore interface {
	Sink
	// Claim takes the partition for this owner: the epoch grows by one, and every older claim is fenced from then on. It waits for a
	// transaction of the older owner that is still open, so the answer is final (docs/architecture.md, "Ambiguous COMMIT").
	// A row that belongs to another log or topic id under the same topic name fails with outrelay.ErrDataHalt.
	Claim(ctx context.Context, group string, p Partition) (Claim, error)
	// Offsets returns what a group has processed, for status and audit.
	Offsets(ctx context.Context, group string) ([]OffsetRow, error)
	// Reset sets the next offset of a partition and fences its owner. next = -1 removes the row.
	Reset(ctx context.Context, group string, p Partition, next int64) error
}

// MultiApplier is an OffsetStore that can share a transaction between partitions of a group. A store that is none gets one batch at a time.
type MultiApplier interface {
	OffsetStore
	// ApplyAll makes all effects of all batches and moves all their offsets, or does nothing at all: where one batch's claim no longer holds,
	// none of them takes effect (S3). It blocks until they are durable. At least one batch, at most one of a partition, all of one group; bs is
	// the caller's and stays as it is. It may be called concurrently for different partitions.
	//
	// Errors have Apply's classes. Fenced and failing records come as a *BatchError where the batch is known; it says nothing about the
	// other batches, which may be applied without it. ErrAmbiguous is about all of them: each is to be claimed again.
	ApplyAll(ctx context.Context, bs []Batch) error
}

// Relocator is an OffsetStore whose rows can be moved to another log.
type Relocator interface {
	OffsetStore
	// Relocate moves rows of a group to the partitions that hold the same records in another log, all in one transaction or none of them, and
	// fences their owners: the epoch grows by one. It waits for transactions of owners that are under way. A row that is not as it is said to be by then, or
	// whose place is taken, fails all of it with ErrConflict: read the rows again.
	Relocate(ctx context.Context, group string, rs []Relocation) error
}

// Relocation is what becomes of one row of outrelay_offsets.
type Relocation struct {
	From, To       Partition // of the same number
	Next, NextThen int64     // next offset in the one log and in the other
}

// OffsetRow is one row of outrelay_offsets.
type OffsetRow struct {
	Group     string
	Partition Partition
	Epoch     int64
	Owner     string
	Next      int64
	UpdatedAt time.Time
}
