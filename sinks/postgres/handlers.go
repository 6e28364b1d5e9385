package postgres

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// handler is what runs for one event type.
type handler struct {
	name       string // "OrderPlaced (outrelay.yaml:11)", for errors
	statements []*statement
	fields     fields // the payload fields that its statements ask for
	slots      int    // how many
}

// statement is one SQL statement of a handler.
type statement struct {
	parsedSQL
	number  int // index into conn.prepared
	handler string
	place   string
	slot    []int // for params[i] of the form :payload.field its slot, else -1
}

// handlers are all handlers of a sink, and their statements by number.
type handlers struct {
	byType     map[string]*handler
	any        *handler
	statements []*statement
}

// Validate checks what can be checked of handlers without a database: the syntax of parameters and the kind of statements.
// It returns all problems at once, each with its place, class outrelay.ErrConfig.
func Validate(hs map[string][]Statement) error {
	_, err := compile(hs)
	return err
}

func compile(hs map[string][]Statement) (*handlers, error) {
	out := &handlers{byType: make(map[string]*handler, len(hs))}
	var errs []error
	for _, typ := range slices.Sorted(maps.Keys(hs)) {
		h := &handler{name: typ}
		if len(hs[typ]) > 0 && hs[typ][0].Place != "" {
			h.name = fmt.Sprintf("%s (%s)", typ, hs[typ][0].Place)
		}
		for _, st := range hs[typ] {
			p, err := parseSQL(st.SQL)
			if err != nil {
				errs = append(errs, statementError(typ, st.Place, err))
				continue
			}
			s := &statement{parsedSQL: p, number: len(out.statements), handler: typ, place: st.Place}
			for _, param := range p.params {
				if param.root != rootPayload || len(param.path) == 0 {
					s.slot = append(s.slot, -1)
					continue
				}
				s.slot = append(s.slot, h.slots)
				h.fields.add(param.path, h.slots)
				h.slots++
			}
			h.statements = append(h.statements, s)
			out.statements = append(out.statements, s)
		}
		if typ == AnyType {
			out.any = h
		} else {
			out.byType[typ] = h
		}
	}
	return out, errors.Join(errs...)
}

// statementError says which statement is wrong and why.
func statementError(typ, place string, err error) error {
	where := "handler " + typ
	if place != "" {
		where = place + ": " + where
	}
	return &outrelay.Error{Class: outrelay.ErrConfig, Code: "handler-statement", Place: where, Err: err}
}

// of returns the handler for r, nil when there is none.
func (h *handlers) of(r *sinks.Record) *handler {
	if len(h.byType) == 0 {
		return h.any
	}
	if t := h.byType[r.Type()]; t != nil {
		return t
	}
	return h.any
}

// committedAt is the time of the source's commit, else of publishing, in the form every DateStyle reads.
func committedAt(r *sinks.Record) []byte {
	if v := r.Header(sinks.HeaderCommittedAt); v != nil {
		return v
	}
	return r.Timestamp.UTC().AppendFormat(nil, time.RFC3339Nano)
}
