package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// kind is what a server's error means for a batch.
type kind int

const (
	kindRecord    kind = iota // this record, whatever the time
	kindTransient             // the server or its schema, not the record
	kindConflict              // another transaction
)

// kindOf decides by SQLSTATE (PostgreSQL documentation, appendix A). broken: the session is of no more use.
func kindOf(e *pgconn.PgError) (k kind, broken bool) {
	if isFatal(e) {
		return kindTransient, true
	}
	switch e.Code {
	case "40001", "40P01", "55P03", "57014": // serialisation, deadlock, lock timeout, statement timeout
		return kindConflict, false
	case "25006", // the server has become a standby
		"26000", // our prepared statements are gone: a pooler gave us another session
		"0A000": // "cached plan must not change result type"; anything else of this class fails again on the new session
		if e.Code != "0A000" || strings.Contains(e.Message, "cached plan") {
			return kindTransient, true
		}
	case "42501", "42P01", "42703", "42883", "3F000": // a privilege, table, column, function or schema is missing: no record's fault
		return kindTransient, true
	case "25P02": // follows from an error before it
		return kindTransient, false
	}
	for _, class := range []string{"08", "53", "57", "58", "XX"} { // connection, resources, operator, system, internal
		if strings.HasPrefix(e.Code, class) {
			return kindTransient, class == "08"
		}
	}
	return kindRecord, false
}

// text is a server's error for people: its message, its constraint and its code. The detail stays out: it holds the row's values.
func pgText(e *pgconn.PgError) error {
	c := ""
	if e.ConstraintName != "" && !strings.Contains(e.Message, e.ConstraintName) {
		c = fmt.Sprintf(" (constraint %s)", e.ConstraintName)
	}
	return &serverError{text: fmt.Sprintf("%s%s (SQLSTATE %s)", e.Message, c, e.Code), err: e}
}

// serverError keeps the server's error reachable with errors.As under a text of our own.
type serverError struct {
	text string
	err  error
}

func (e *serverError) Error() string { return e.text }
func (e *serverError) Unwrap() error { return e.err }

func transient(what string, err error) error {
	return &outrelay.Error{Class: outrelay.ErrTransient, Code: "sink-unavailable", Place: "sink", Cause: what, Err: err}
}

func conflict(what string, err error) error {
	return &outrelay.Error{Class: outrelay.ErrTransient, Code: "sink-conflict", Place: "sink", Cause: what, Err: errors.Join(sinks.ErrConflict, err)}
}

// classified gives a server's error outside of a batch its class.
func classified(what string, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return transient(what, err)
	}
	if k, _ := kindOf(pgErr); k == kindConflict {
		return conflict(what, pgText(pgErr))
	}
	return transient(what, pgText(pgErr))
}

// connectError is an error of a reconnect: whatever it is, the sink worked before, so it is waited out.
func connectError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return transient("connection", err)
}

// openError is an error of the first connection: what an operator must mend has its class, the rest is waited out.
func openError(err error) error {
	var own *outrelay.Error
	if errors.As(err, &own) {
		return err
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "28000", "28P01", "3D000", "42501":
			return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-refused", Place: "sink", Err: err}
		}
	}
	return connectError(err)
}
