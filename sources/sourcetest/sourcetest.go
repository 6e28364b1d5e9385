// Package sourcetest is the suite that every source passes: what sources.Source promises, shown on a real server. It holds no test of one
// database's own failures; those stand beside the implementation.
package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

// Options are what a test asks of a source.
type Options struct {
	Name         string        // the source's name; the same name is the same slot or server id
	Tables       []string      // as Database.CreateOutbox returned them
	MaxPartBytes int           // 0: the default
	Idle         time.Duration // a bare position at most this often; 0: the default
	Prefetch     int           // bytes decoded ahead; 0: the default
}

// Database is a fresh database for one test. SQL given to it is of the kind all servers understand.
type Database interface {
	// CreateOutbox creates a table with columns id (text, primary key), k (text), seq (bigint), payload (text), and returns its name as
	// events bear it in Schema.Table.
	CreateOutbox(t *testing.T, name string) string
	// Session opens a connection that lasts to the end of the test.
	Session(t *testing.T) Session
	// Fill inserts n rows in one transaction: id and k are the row's number, seq the number, payload that many bytes.
	Fill(t *testing.T, table string, n, payloadBytes int)
	// Noise writes about that many bytes to the database's log that are of no outbox table.
	Noise(t *testing.T, bytes int)
	// Source returns a new source; nothing is connected yet.
	Source(t *testing.T, o Options) sources.Source
	// Crash kills the server with SIGKILL and starts it again.
	Crash(t *testing.T)
	// Types returns a table definition, an insert of one row, and what the columns must be: values that a source could get wrong.
	Types(t *testing.T) (create, insert string, table string, want []Value)
}

// Value is a column's expected type and text; Null means NULL.
type Value struct {
	Column, Type, Text string
	Null               bool
}

// Session is one connection to the database.
type Session interface {
	// Exec runs one statement; the test fails when it does.
	Exec(t *testing.T, sql string)
}

// Run runs the suite; open returns a fresh database for each test, on a server of its own where the test asks to be alone.
func Run(t *testing.T, open func(t *testing.T, alone bool) Database) {
	t.Helper()
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, db Database)
		// alone: the test crashes the server, or measures what others would disturb.
		alone bool
	}{
		{"commit order", testCommitOrder, false},
		{"rolled-back rows never come", testRollbacks, false},
		{"insert then delete is one event", testInsertThenDelete, false},
		{"several tables in one transaction", testSeveralTables, false},
		{"update and truncate are no events", testIgnored, false},
		{"concurrent writers keep the order of each key", testConcurrentWriters, false},
		{"a large transaction comes in parts", testParts, false},
		{"memory is bounded by the part", testBoundedMemory, false},
		{"resumes at every position", testResumeEverywhere, false},
		{"resumes after a confirmed position", testResumeConfirmed, false},
		{"an idle source moves on", testIdle, true},
		{"types in text form", testTypes, false},
		{"survives a crash of the server", testCrash, true},
		{"two streams of the same table", testTwoStreams, false},
		{"a table altered under load", testAlter, false},
		{"confirm takes only what was yielded", testConfirmUnknown, false},
		{"close is final and repeatable", testClose, false},
		{"init refuses what exists", testInitTwice, false},
		{"an interrupted init is resumed", testInitInterrupted, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, open(t, tt.alone))
		})
	}
}

// waitMax is how long a test waits for anything.
const waitMax = 60 * time.Second

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	t.Cleanup(cancel)
	return ctx
}

// start initialises a source and opens it at its first position.
func start(t *testing.T, db Database, o Options) (sources.Source, outrelay.Position, sources.Stream) {
	t.Helper()
	s := db.Source(t, o)
	pos, err := s.Init(deadline(t))
	if err != nil {
		t.Fatalf("init: %v", err)
	}
	return s, pos, open(t, s, pos)
}

// open opens a stream that the end of the test closes.
func open(t *testing.T, s sources.Source, after outrelay.Position) sources.Stream {
	t.Helper()
	st, err := s.Open(deadline(t), after)
	if err != nil {
		t.Fatalf("open after %s: %v", after.Token, err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// next returns the next transaction or part that has events.
func next(t *testing.T, st sources.Stream) outrelay.Txn {
	t.Helper()
	for ctx := deadline(t); ; {
		txn, err := st.Next(ctx)
		if err != nil {
			t.Fatalf("next: %v", err)
		}
		if len(txn.Events) > 0 {
			return txn
		}
	}
}

// collect returns transactions and parts until n events have come.
func collect(t *testing.T, st sources.Stream, n int) []outrelay.Txn {
	t.Helper()
	var txns []outrelay.Txn
	for got := 0; got < n; {
		txn := next(t, st)
		got += len(txn.Events)
		txns = append(txns, txn)
	}
	return txns
}

func confirm(t *testing.T, st sources.Stream, p outrelay.Position) {
	t.Helper()
	if err := st.Confirm(context.Background(), p); err != nil {
		t.Fatalf("confirm %s: %v", p.Token, err)
	}
}

// ids returns the id column of all events.
func ids(txns ...outrelay.Txn) []string {
	var out []string
	for _, txn := range txns {
		for i := range txn.Events {
			out = append(out, column(&txn.Events[i], "id"))
		}
	}
	return out
}

func column(e *outrelay.Event, name string) string {
	v, ok := e.Get(name)
	if !ok {
		return "<no column " + name + ">"
	}
	return string(v)
}

func insert(table, id, k string, seq int) string {
	return fmt.Sprintf("INSERT INTO %s (id, k, seq, payload) VALUES ('%s', '%s', %d, 'p')", table, id, k, seq)
}

func wantIDs(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("events %v, want %v", got, want)
	}
}

// nothingMore checks that after a last marker row, committed now, no other event comes before it.
func nothingMore(t *testing.T, db Database, st sources.Stream, table string) {
	t.Helper()
	db.Session(t).Exec(t, insert(table, "marker", "marker", 0))
	wantIDs(t, ids(next(t, st)), "marker")
}

func isTransient(err error) bool { return errors.Is(err, outrelay.ErrTransient) }
