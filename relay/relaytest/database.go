// Package relaytest is what relays are tested with: a scripted database, connections that break, and a count of what the log holds
// afterwards. It never starts a log: tests bring their own.
package relaytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

// NULL is how a Row says NULL.
const NULL = "NULL"

// Row is one outbox row of the scripted database.
type Row struct{ ID, Topic, Key, Type, Payload string }

// Order is a row of topic outbox.event.order.
func Order(id, key string) Row {
	return Row{ID: id, Topic: "order", Key: key, Type: "OrderPlaced", Payload: `{"n": 1}`}
}

// Place is what the database's tokens hold.
type Place struct {
	N    int `json:"n"`              // transactions that are in
	Rows int `json:"rows,omitempty"` // rows of the next one that are in
}

// PlaceOf reads a token.
func PlaceOf(t TB, p outrelay.Position) Place {
	var out Place
	if err := json.Unmarshal([]byte(p.Token), &out); err != nil {
		t.Errorf("token %q: %v", p.Token, err)
	}
	return out
}

func position(p Place) outrelay.Position {
	b, _ := json.Marshal(p)
	return outrelay.Position{Source: "shop", Token: string(b)}
}

// Database is a source whose transactions a test commits. It yields them in order from any position, with errors where the test wants them.
// Set the fields before a relay runs.
type Database struct {
	PartRows    int                     // rows in a part; 0: whole transactions
	Bare        bool                    // after each transaction an idle source moves on: a bare position
	Initialised bool                    // Init has been called
	AfterInit   func() error            // called by Init when it has created what it creates: its answer may be lost
	OnConfirm   func(outrelay.Position) // called by each Confirm

	schema *outrelay.Schema

	mu        sync.Mutex
	txns      [][]Row
	more      chan struct{} // closed and replaced when txns grows
	fail      func() error
	connect   func() error
	confirmed []outrelay.Position
	opens     int
}

// NewDatabase returns an empty one.
func NewDatabase() *Database {
	return &Database{more: make(chan struct{}), schema: outrelay.NewSchema("public.outbox",
		[]string{"id", "aggregatetype", "aggregateid", "type", "payload"}, []string{"uuid", "text", "text", "text", "jsonb"})}
}

// Commit commits transactions.
func (d *Database) Commit(txns ...[]Row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.txns = append(d.txns, txns...)
	close(d.more)
	d.more = make(chan struct{})
}

// FailWith sets what is asked before each Next returns.
func (d *Database) FailWith(fn func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fn
}

// FailToConnectWith sets what is asked whenever a relay connects: to initialise, and to open a stream.
func (d *Database) FailToConnectWith(fn func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.connect = fn
}

// connectLocked is asked with mu held.
func (d *Database) connectLocked() error {
	if d.connect == nil {
		return nil
	}
	return d.connect()
}

// Txns returns what was committed.
func (d *Database) Txns() [][]Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.txns
}

// Opens returns how often a stream was opened.
func (d *Database) Opens() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opens
}

// Confirmed returns the last position confirmed; zero when none was.
func (d *Database) Confirmed() outrelay.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.confirmed) == 0 {
		return outrelay.Position{}
	}
	return d.confirmed[len(d.confirmed)-1]
}

// Intent is what PrepareInit returns.
const Intent = `{"of":"the scripted database"}`

// PrepareInit is sources.Source's.
func (d *Database) PrepareInit(context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.connectLocked(); err != nil {
		return "", err
	}
	if d.Initialised {
		return "", errInitialised()
	}
	return Intent, nil
}

func errInitialised() error {
	return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "slot-without-position", Cause: "initialised already"}
}

// Init is sources.Source's.
func (d *Database) Init(context.Context) (outrelay.Position, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Initialised {
		return outrelay.Position{}, errInitialised()
	}
	d.Initialised = true
	if d.AfterInit != nil {
		if err := d.AfterInit(); err != nil {
			return outrelay.Position{}, err
		}
	}
	return position(Place{}), nil
}

// ResumeInit is sources.Source's.
func (d *Database) ResumeInit(_ context.Context, intent string) (outrelay.Position, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.Initialised || intent != Intent {
		return outrelay.Position{}, sources.ErrNotBegun
	}
	return position(Place{}), nil
}

// Open is sources.Source's.
func (d *Database) Open(_ context.Context, after outrelay.Position) (sources.Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.connectLocked(); err != nil {
		return nil, err
	}
	d.opens++
	s := &stream{d: d, done: make(chan struct{})}
	return s, json.Unmarshal([]byte(after.Token), &s.at)
}

// Status is sources.Source's.
func (d *Database) Status(context.Context, outrelay.Position) (sources.Status, error) {
	return sources.Status{}, nil
}

type stream struct {
	d    *Database
	at   Place
	part int
	said int // transactions after which a bare position was yielded
	done chan struct{}
	once sync.Once
}

func (s *stream) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *stream) Confirm(_ context.Context, p outrelay.Position) error {
	s.d.mu.Lock()
	s.d.confirmed = append(s.d.confirmed, p)
	s.d.mu.Unlock()
	if s.d.OnConfirm != nil {
		s.d.OnConfirm(p)
	}
	return nil
}

func (s *stream) Next(ctx context.Context) (outrelay.Txn, error) {
	for {
		t, more, err := s.try()
		if more == nil {
			return t, err
		}
		select {
		case <-more:
		case <-s.done:
			return outrelay.Txn{}, errors.New("stream closed")
		case <-ctx.Done():
			return outrelay.Txn{}, ctx.Err()
		}
	}
}

// try returns what is there, or a channel to wait on.
func (s *stream) try() (outrelay.Txn, <-chan struct{}, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.d.fail != nil {
		if err := s.d.fail(); err != nil {
			return outrelay.Txn{}, nil, err
		}
	}
	if s.at.N < len(s.d.txns) {
		return s.next(s.d.txns[s.at.N]), nil, nil
	}
	if s.d.Bare && s.said != s.at.N {
		s.said = s.at.N
		return outrelay.Txn{Position: position(s.at), Place: fmt.Sprint(s.at.N), Last: true}, nil, nil
	}
	return outrelay.Txn{}, s.d.more, nil
}

func (s *stream) next(rows []Row) outrelay.Txn {
	from, limit := s.at.Rows, len(rows)
	if s.d.PartRows > 0 && limit-from > s.d.PartRows {
		limit = from + s.d.PartRows
	}
	t := outrelay.Txn{Place: fmt.Sprintf("0/%X", s.at.N+1), CommittedAt: time.UnixMilli(1_700_000_000_000).Add(time.Duration(s.at.N) * time.Second),
		Part: s.part, Last: limit == len(rows), Events: make([]outrelay.Event, 0, limit-from)}
	for i, r := range rows[from:limit] {
		t.Events = append(t.Events, outrelay.Event{Schema: s.d.schema, Ordinal: from + i,
			Values: [][]byte{null(r.ID), null(r.Topic), null(r.Key), null(r.Type), null(r.Payload)}})
	}
	if t.Last {
		s.at, s.part = Place{N: s.at.N + 1}, 0
	} else {
		s.at.Rows = limit
		s.part++
	}
	t.Position = position(s.at)
	return t
}

func null(s string) []byte {
	if s == NULL {
		return nil
	}
	return []byte(s)
}
