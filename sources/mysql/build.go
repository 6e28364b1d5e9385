package mysql

import (
	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

const (
	arenaBytes    = 128 << 10
	slabEvents    = 128
	eventOverhead = 320 // bytes of bookkeeping per event, roughly: Event, Values and their slabs
)

// builder makes events out of rows. The memory of many rows comes from one allocation; it is never reused, since the events
// belong to whoever takes them. The reader goroutine owns it.
type builder struct {
	arena  []byte
	values [][]byte
	ends   []int // of the row under way
	slab   []outrelay.Event

	events []outrelay.Event // of the part under way
	bytes  int64
}

// add appends an event made of the next row of rows.
func (b *builder) add(rel *relation, rows *binlog.RowsBody, ordinal int) error {
	if need := min(rows.Size(), arenaBytes) + 1024; cap(b.arena)-len(b.arena) < need {
		b.arena = make([]byte, 0, max(arenaBytes, need))
	}
	from := len(b.arena)
	arena, ends, err := rows.Next(rel.table, b.arena, b.ends[:0])
	if err != nil {
		return err
	}
	b.ends = ends
	n := len(ends)
	if cap(b.values)-len(b.values) < n {
		b.values = make([][]byte, 0, max(slabEvents*n, n))
	}
	first, at := len(b.values), from
	for _, end := range ends {
		if end < 0 {
			b.values = append(b.values, nil)
			continue
		}
		b.values = append(b.values, arena[at:end:end])
		at = end
	}
	if b.events == nil {
		if cap(b.slab)-len(b.slab) < 8 {
			b.slab = make([]outrelay.Event, 0, slabEvents)
		}
		b.events = b.slab[len(b.slab):]
	}
	b.events = append(b.events, outrelay.Event{Schema: rel.schema, Values: b.values[first:len(b.values):len(b.values)], Ordinal: ordinal})
	b.bytes += int64(len(arena)-from) + eventOverhead
	b.arena = arena
	if len(arena) > arenaBytes {
		b.arena = nil // it was made for one large row
	}
	return nil
}

// drop takes back all but the first n events of the part.
func (b *builder) drop(n int) {
	clear(b.events[n:])
	if b.events = b.events[:n]; n == 0 {
		b.bytes = 0
	}
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

// relation is what the stream knows of a version of an outbox table.
type relation struct {
	name   string // as in Options.Tables
	raw    []byte // the table map it was made of, without the table's number
	table  *binlog.Table
	schema *outrelay.Schema
}
