// Package handler is the language of handlers: SQL statements with named parameters, how they are found in a dialect's text, and what a record
// gives for each. It is pure: it never talks to a server, and values never become part of a statement's text here.
package handler

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// Statement is one SQL statement of a handler, with named parameters.
type Statement struct {
	SQL   string
	Place string // where it is written, for errors: "outrelay.yaml:11"
}

// AnyType is the handler for every event type that has none of its own.
const AnyType = "*"

// Handler is what runs for one event type.
type Handler struct {
	Name       string // "OrderPlaced (outrelay.yaml:11)", for errors
	Statements []*Compiled
	fields     fields // the payload fields that its statements ask for
	slots      int    // how many
}

// Compiled is one SQL statement of a handler.
type Compiled struct {
	SQL
	Number  int // index into Set.Statements
	Handler string
	Place   string
	slot    []int // for Params[i] of the form :payload.field its slot, else -1
}

// Set is all handlers of a sink. It is not changed once it is made, so it may be used concurrently.
type Set struct {
	Statements []*Compiled // by number
	byType     map[string]*Handler
	any        *Handler
}

// Compile checks what can be checked of handlers without a database: the syntax of parameters and the kind of statements. hs maps an event
// type to the statements that run for it, in order; AnyType takes the rest. It returns all problems at once, each with its place, class
// outrelay.ErrConfig.
func Compile(d Dialect, hs map[string][]Statement) (*Set, error) {
	out := &Set{byType: make(map[string]*Handler, len(hs))}
	var errs []error
	for _, typ := range slices.Sorted(maps.Keys(hs)) {
		h := &Handler{Name: typ}
		if len(hs[typ]) > 0 && hs[typ][0].Place != "" {
			h.Name = fmt.Sprintf("%s (%s)", typ, hs[typ][0].Place)
		}
		for _, st := range hs[typ] {
			p, err := Parse(d, st.SQL)
			if err != nil {
				errs = append(errs, StatementError(typ, st.Place, err))
				continue
			}
			s := &Compiled{SQL: p, Number: len(out.Statements), Handler: typ, Place: st.Place}
			h.add(s)
			out.Statements = append(out.Statements, s)
		}
		if typ == AnyType {
			out.any = h
		} else {
			out.byType[typ] = h
		}
	}
	return out, errors.Join(errs...)
}

func (h *Handler) add(s *Compiled) {
	for _, p := range s.Params {
		if p.Root != RootPayload || len(p.Path) == 0 {
			s.slot = append(s.slot, -1)
			continue
		}
		s.slot = append(s.slot, h.slots)
		h.fields.add(p.Path, h.slots)
		h.slots++
	}
	h.Statements = append(h.Statements, s)
}

// StatementError says which statement is wrong and why.
func StatementError(typ, place string, err error) error {
	where := "handler " + typ
	if place != "" {
		where = place + ": " + where
	}
	return &outrelay.Error{Class: outrelay.ErrConfig, Code: "handler-statement", Place: where, Err: err}
}

// Of returns the handler for r, nil when there is none.
func (s *Set) Of(r *sinks.Record) *Handler {
	if len(s.byType) == 0 {
		return s.any
	}
	if t := s.byType[r.Type()]; t != nil {
		return t
	}
	return s.any
}
