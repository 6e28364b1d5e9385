package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// kindOf decides by SQLSTATE (PostgreSQL documentation, appendix A). broken: the session is of no more use.
func kindOf(e *pgconn.PgError) (k sqlsink.Kind, broken bool) {
	if isFatal(e) {
		return sqlsink.KindTransient, true
	}
	switch e.Code {
	case "40001", "40P01", "55P03", "57014": // serialisation, deadlock, lock timeout, statement timeout
		return sqlsink.KindConflict, false
	case "25006", // the server has become a standby
		"26000", // our prepared statements are gone: a pooler gave us another session
		"0A000": // "cached plan must not change result type"; anything else of this class fails again on the new session
		if e.Code != "0A000" || strings.Contains(e.Message, "cached plan") {
			return sqlsink.KindTransient, true
		}
	case "42501", "42P01", "42703", "42883", "3F000": // a privilege, table, column, function or schema is missing: no record's fault
		return sqlsink.KindTransient, true
	case "25P02": // follows from an error before it
		return sqlsink.KindTransient, false
	}
	for _, class := range []string{"08", "53", "57", "58", "XX"} { // connection, resources, operator, system, internal
		if strings.HasPrefix(e.Code, class) {
			return sqlsink.KindTransient, class == "08"
		}
	}
	return sqlsink.KindRecord, false
}

// text is a server's error for people: its message, its constraint and its code. The detail stays out: it holds the row's values.
func pgText(e *pgconn.PgError) error {
	c := ""
	if e.ConstraintName != "" && !strings.Contains(e.Message, e.ConstraintName) {
		c = fmt.Sprintf(" (constraint %s)", e.ConstraintName)
	}
	return &sqlsink.ServerError{Text: fmt.Sprintf("%s%s (SQLSTATE %s)", e.Message, c, e.Code), Err: e}
}

// classified gives a server's error outside of a batch its class.
func classified(what string, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return sqlsink.Unavailable(what, err)
	}
	if k, _ := kindOf(pgErr); k == sqlsink.KindConflict {
		return sqlsink.Conflict(what, pgText(pgErr))
	}
	return sqlsink.Unavailable(what, pgText(pgErr))
}

// connectError is an error of a reconnect: whatever it is, the sink worked before, so it is waited out.
func connectError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return sqlsink.Unavailable("connection", err)
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
