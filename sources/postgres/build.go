package postgres

import (
	"strconv"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

const (
	arenaBytes    = 128 << 10
	slabEvents    = 128
	eventOverhead = 320 // bytes of bookkeeping per event, roughly: Event, Values and their slabs
)

// txn returns the transaction, or part, that ends at p.
func (p Place) txn(source outrelay.SourceID, events []outrelay.Event, part int, last bool) outrelay.Txn {
	var buf [192]byte
	b, from, to := p.appendToken(buf[:0])
	token := string(b)
	place := token[from:to]
	if p.Commit != 0 {
		place = p.String()
	}
	return outrelay.Txn{
		Position:    outrelay.Position{Source: source, Token: token},
		Place:       place,
		CommittedAt: p.CommittedAt,
		Events:      events,
		Part:        part,
		Last:        last,
	}
}

// builder makes events out of rows. The memory of many rows comes from one allocation; it is never reused, since the events
// belong to whoever takes them. The reader goroutine owns it.
type builder struct {
	arena  []byte
	values [][]byte
	slab   []outrelay.Event

	events []outrelay.Event // of the part under way
	bytes  int64
}

// add appends an event made of the row in tuple, which is copied.
func (b *builder) add(rel *relation, tuple []byte, ordinal int) error {
	n := len(rel.schema.Columns)
	if cap(b.values)-len(b.values) < n {
		b.values = make([][]byte, 0, max(slabEvents*n, n))
	}
	from := len(b.values)
	values, err := pgoutput.SplitTuple(b.keep(tuple), b.values)
	if err != nil {
		return err
	}
	b.values = values
	if b.events == nil {
		if cap(b.slab)-len(b.slab) < 8 {
			b.slab = make([]outrelay.Event, 0, slabEvents)
		}
		b.events = b.slab[len(b.slab):]
	}
	b.events = append(b.events, outrelay.Event{Schema: rel.schema, Values: values[from:len(values):len(values)], Ordinal: ordinal})
	b.bytes += int64(len(tuple)) + eventOverhead
	return nil
}

// keep copies p into the arena.
func (b *builder) keep(p []byte) []byte {
	if len(p) > arenaBytes/4 {
		return append([]byte(nil), p...)
	}
	if cap(b.arena)-len(b.arena) < len(p) {
		b.arena = make([]byte, 0, arenaBytes)
	}
	from := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[from:len(b.arena):len(b.arena)]
}

// take returns the events of the part and their size, and begins the next part.
func (b *builder) take() ([]outrelay.Event, int64) {
	events, bytes := b.events, b.bytes
	if len(events) > 0 && len(events) <= cap(b.slab)-len(b.slab) && &events[0] == &b.slab[:len(b.slab)+1][len(b.slab)] {
		b.slab = b.slab[:len(b.slab)+len(events)]
	}
	b.events, b.bytes = nil, 0
	return events[:len(events):len(events)], bytes
}

// relation is what the stream knows of a published table.
type relation struct {
	name   string // as in Options.Tables, or schema.table
	wanted bool
	schema *outrelay.Schema
}

// newRelation names the columns and types of a table as the server announced them.
func (s *Source) newRelation(d *pgoutput.Decoder, rel *pgoutput.Relation, builtin map[uint32]string) *relation {
	r := &relation{name: rel.Namespace + "." + rel.Name}
	for _, t := range s.tables {
		if t.schema == rel.Namespace && t.name == rel.Name {
			r.name, r.wanted = t.given, true
		}
	}
	columns, types := make([]string, len(rel.Columns)), make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[i] = c.Name
		if name, ok := builtin[c.TypeOID]; ok {
			types[i] = name
		} else if t, ok := d.Type(c.TypeOID); ok {
			types[i] = t.Name
		} else {
			types[i] = strconv.FormatUint(uint64(c.TypeOID), 10)
		}
	}
	r.schema = outrelay.NewSchema(r.name, columns, types)
	return r
}

// txnState is the transaction that the reader is in the middle of.
type txnState struct {
	open        bool
	final       LSN // where its commit record begins
	committedAt time.Time
	ordinal     int // events so far
	skip        int // of these, how many were yielded by an earlier stream; -1: all
	part        int
}
