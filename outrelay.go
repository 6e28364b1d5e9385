// Package outrelay is the domain: the nouns that every part of outrelay speaks of, and the classes of error it can meet.
// It does no I/O and imports nothing of ours.
//
// A source yields transactions ([Txn]) made of events ([Event]), each transaction with the [Position] that
// resumes after it. The relay turns events into records of the log; consumers apply records to sinks.
package outrelay

import (
	"fmt"
	"time"
)

// SourceID is the name of a source, as the key under `sources:` in the configuration. It is part of the
// transactional id `outrelay-<source>` and the key of the source's position in the log.
type SourceID string

// TransactionalID returns the Kafka transactional id under which the relay of this source writes. Exactly one
// relay can hold it: InitProducerId fences the one before (KIP-98).
func (s SourceID) TransactionalID() string { return "outrelay-" + string(s) }

// EventID identifies an event for ever: the outbox row's own id where the row has one, else an id made of the source's
// identity and place (docs/architecture.md, "Event identity"). It is never a serial number alone, since an asynchronous
// failover uses those again.
type EventID string

// Position is a source's place in commit order: everything up to and including it has been yielded. Token is opaque to
// all but the package that minted it; it is valid JSON, so that people can read it in the log.
type Position struct {
	Source SourceID
	Token  string
}

// IsZero reports whether p says nothing: the source has no position yet.
func (p Position) IsZero() bool { return p.Token == "" }

// Header is a record header. Keys may repeat; order is kept.
type Header struct {
	Key   string
	Value []byte
}

// Schema names the columns of a table as they were when a row was written. It is shared by the events of
// one relation version and never changed after it was made.
type Schema struct {
	Table   string   // schema-qualified: public.outbox
	Columns []string // in the order of Event.Values
	Types   []string // the server's type names, as "uuid", "jsonb"; same length as Columns
	index   map[string]int
}

// NewSchema returns a Schema for table whose columns are found by name in constant time.
func NewSchema(table string, columns, types []string) *Schema {
	s := &Schema{Table: table, Columns: columns, Types: types, index: make(map[string]int, len(columns))}
	for i, c := range columns {
		s.index[c] = i
	}
	return s
}

// Column returns the index of the named column, or -1. The name is matched exactly.
func (s *Schema) Column(name string) int {
	if i, ok := s.index[name]; ok {
		return i
	}
	return -1
}

// Event is one row that an application inserted into an outbox table.
//
// A source fills Schema, Values and Ordinal. The relay's router fills ID, Topic, Key, Value and Headers from
// them. A nil Key is Kafka's null key, a nil Value a tombstone; empty and nil differ.
type Event struct {
	ID      EventID
	Schema  *Schema
	Values  [][]byte // text form as the server prints it; nil is NULL. Owned by the event: not reused by the source.
	Topic   string
	Key     []byte
	Value   []byte
	Headers []Header
	Ordinal int // the event's place in its source transaction, from 0, over all parts
}

// Get returns the value of the named column; ok is false when the row has no such column. A NULL is (nil, true).
func (e *Event) Get(column string) (value []byte, ok bool) {
	i := e.Schema.Column(column)
	if i < 0 || i >= len(e.Values) {
		return nil, false
	}
	return e.Values[i], true
}

// Txn is a committed source transaction, or one part of a large one.
//
// Parts of one transaction are yielded one after the other, Part counting from 0, the last with Last set; nothing of another
// transaction comes between. Position is the place after this part: for the last part the transaction's commit end, for
// earlier ones a place inside it that says how many of its events are in. A Txn without events (a heartbeat) carries a
// position alone and is always Last.
type Txn struct {
	Position    Position
	Place       string // the place as people write it, for logs, headers and errors: an LSN, a GTID
	CommittedAt time.Time
	Events      []Event
	Part        int
	Last        bool
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }
