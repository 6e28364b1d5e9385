// Package sources is the contract that every source keeps. It holds no implementation: those are its
// sub-packages, and sourcetest is the suite that they all pass.
package sources

import (
	"context"
	"errors"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/doctor"
)

// ErrNotBegun: the Init of an intent has created nothing that is still there, or the intent is about another database.
var ErrNotBegun = errors.New("initialisation has not begun")

// Source is a database whose outbox tables are tailed.
type Source interface {
	// A source begins in four steps, so that a crash between any two of them is told from a lost log (R7):
	//
	//	intent := PrepareInit → the caller writes the intent into its log → Init → the caller writes the position into its log
	//
	// A caller that finds an intent of its own in the log, and no position, calls ResumeInit first.

	// PrepareInit does the part of Init that may be done twice (for PostgreSQL the publication), checks that the rest can be begun, and
	// returns an intent: a JSON object that says what Init is about to create and where, so that ResumeInit knows it again. It
	// fails with outrelay.ErrDataHalt, code "slot-without-position", when the database side exists already, since then nobody knows what
	// was published.
	PrepareInit(ctx context.Context) (intent string, err error)

	// Init creates what the source needs in the database where it is missing and the role may (for PostgreSQL the publication, then
	// the slot), and returns the first position: events of transactions that commit after it will be yielded. It
	// is called once, before a position of this source stands in the log. It fails as PrepareInit does when the database side exists already.
	// After any other error, or none at all because the process died, it is unknown what was created: ResumeInit tells.
	Init(ctx context.Context) (outrelay.Position, error)

	// ResumeInit returns the first position from what an Init after this intent has left in the database. It creates nothing. When
	// nothing of the intent is there it fails with ErrNotBegun: PrepareInit may be called again. It fails with outrelay.ErrDataHalt where it
	// cannot tell that what is there was made after the intent and that nobody has read it since.
	ResumeInit(ctx context.Context, intent string) (outrelay.Position, error)

	// Open begins to stream after the given position. It checks that the server is the one the position was
	// minted on and still holds everything after it, and fails with outrelay.ErrPositionLost (naming the gap and the ways
	// out) when it does not; it never skips. Environment errors (unreachable, missing privilege) are outrelay.ErrEnvironment or
	// outrelay.ErrTransient. The context bounds Open alone.
	Open(ctx context.Context, after outrelay.Position) (Stream, error)

	// Status asks the database where it is relative to a position. It may be called at any time, also while a stream is
	// open, and uses a connection of its own.
	Status(ctx context.Context, at outrelay.Position) (Status, error)
}

// Examiner is a source that can say what is wrong with its database, before it hurts.
type Examiner interface {
	// Examine makes the checks of docs/operations/doctor.md that concern the database, and changes nothing. at returns the position in the log, zero where that is
	// not known, and is called when the database has said where it is; columns are those that each table of the source must have. It takes a second or two, and ends early with ctx.
	Examine(ctx context.Context, at func(context.Context) outrelay.Position, columns map[string][]string) []doctor.Finding
}

// Stream is one running connection to a source. Next and Confirm may be called concurrently with each other, each by one
// goroutine. Once any method has returned an error, the stream is dead: Close it and Open again from the position in the log.
type Stream interface {
	// Next blocks until a committed transaction, a part of one, or a bare position (an idle source moving on) is there. Transactions come
	// in commit order; rolled-back rows never come. The events belong to the caller. Memory is bounded by the source's
	// part size, not by the transaction's.
	Next(ctx context.Context) (outrelay.Txn, error)

	// Confirm tells the database that everything up to p is durable in the log, so that it may discard up to there. It
	// returns before the database has heard it. Only positions got from Next of this stream, or the one given to Open, are
	// taken; a position inside a transaction confirms what lies before that transaction.
	Confirm(ctx context.Context, p outrelay.Position) error

	// Close ends the stream and waits for its goroutines. It is safe to call twice.
	Close() error
}

// Status says how far a database is ahead of a position.
type Status struct {
	Server        string // version and identity, for people
	Place         string // the position asked about, as people write it
	Head          string // where the database's log ends now
	BehindBytes   int64  // from the position to the head; -1 when unknown
	RetainedBytes int64  // what the database keeps for us (slot-retained WAL); -1 when unknown
	Active        bool   // a stream is attached
	Ignored       map[string]int64
}
