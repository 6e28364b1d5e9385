package handler

import (
	"fmt"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/sinks"
)

// Call is one statement to run for one record.
type Call struct {
	Statement *Compiled
	Handler   *Handler
	Batch     int // index into the batches
	Record    int // index into the batch's records
}

// Kind is how a value is to be read.
type Kind int

// The kinds of value.
const (
	Bytes  Kind = iota // bytes as they stand; nil is NULL
	JSON               // a JSON value as it stands in the payload; nil is a missing field
	Number             // decimal digits
	Time               // a time, as RFC 3339 writes it
)

// Value is what a record gives for a parameter. Its data belongs to the record or the Binder.
type Value struct {
	Kind Kind
	Data []byte
}

// Binder gives the values of calls. Its space is used again with each Bind, so one goroutine has it at a time.
type Binder struct {
	record *sinks.Record
	slots  [][]byte // the record's payload fields, by slot
	arena  []byte
}

// Bind calls each for every statement of every record in bs, in order; there Value gives what the statement's parameters stand for. An error, also
// one of each, comes as the *sinks.BatchError of the record that it belongs to.
func (b *Binder) Bind(set *Set, bs []sinks.Batch, each func(Call) error) error {
	b.arena = b.arena[:0]
	for bi := range bs {
		records := bs[bi].Records
		for i := range records {
			h := set.Of(&records[i])
			if h == nil {
				continue
			}
			if err := b.bindRecord(h, &records[i], bi, i, each); err != nil {
				return &sinks.BatchError{Index: bi, Err: &sinks.RecordError{Record: records[i], Handler: h.Name, Err: err}}
			}
		}
	}
	return nil
}

func (b *Binder) bindRecord(h *Handler, r *sinks.Record, batch, index int, each func(Call) error) error {
	b.record = r
	if h.slots > 0 {
		if cap(b.slots) < h.slots {
			b.slots = make([][]byte, h.slots)
		}
		b.slots = b.slots[:h.slots]
		clear(b.slots)
		if r.Value != nil { // of a tombstone every field is NULL
			if err := h.fields.extract(r.Value, b.slots); err != nil {
				return err
			}
		}
	}
	for _, st := range h.Statements {
		if err := each(Call{Statement: st, Handler: h, Batch: batch, Record: index}); err != nil {
			return err
		}
	}
	return nil
}

// Value returns what the i-th parameter of st stands for in the record that is being bound.
func (b *Binder) Value(st *Compiled, i int) Value {
	r := b.record
	switch p := st.Params[i]; p.Root {
	case RootPayload:
		if len(p.Path) == 0 {
			return Value{Bytes, r.Value}
		}
		return Value{JSON, b.slots[st.slot[i]]}
	case RootKey:
		return Value{Bytes, r.Key}
	case RootID:
		return Value{Bytes, r.Header(sinks.HeaderID)}
	case RootType:
		if v := r.Header(sinks.HeaderType); v != nil {
			return Value{Bytes, v}
		}
		return Value{Bytes, r.Header(sinks.HeaderEventType)}
	case RootTopic:
		return Value{Bytes, b.keep(append(b.arena, r.Topic...))}
	case RootPartition:
		return Value{Number, b.keep(strconv.AppendInt(b.arena, int64(r.Partition), 10))}
	case RootOffset:
		return Value{Number, b.keep(strconv.AppendInt(b.arena, r.Offset, 10))}
	case RootHeaders:
		return Value{Bytes, r.Header(p.Path[0])}
	case RootCommittedAt: // of the source's commit, else of publishing
		if v := r.Header(sinks.HeaderCommittedAt); v != nil {
			return Value{Time, v}
		}
		return Value{Time, r.Timestamp.UTC().AppendFormat(nil, time.RFC3339Nano)}
	default:
		panic(fmt.Sprintf("BUG: parameter root %d", p.Root))
	}
}

// keep makes what was appended to the arena a value. When the arena grew, older values stay in the old one.
func (b *Binder) keep(arena []byte) []byte {
	v := arena[len(b.arena):len(arena):len(arena)]
	b.arena = arena
	return v
}
