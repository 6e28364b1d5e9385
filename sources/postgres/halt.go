package postgres

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
)

// fail returns an error of this source.
func (s *Source) fail(class error, code, cause, fix string, err error) error {
	return &outrelay.Error{Class: class, Code: code, Place: s.place(), Cause: cause, Fix: fix, Err: err}
}

// lost returns the halt for events that may never be read: those of transactions that committed in (from, to].
func (s *Source) lost(code, cause string, from Place, to LSN, err error) error {
	gap := fmt.Sprintf("%s; transactions that committed in (%s, %s] may not have been read", cause, from, to)
	return s.fail(outrelay.ErrPositionLost, code, gap, s.waysOut(), err)
}

// waysOut names what an operator can do when the server no longer continues where the log stands.
func (s *Source) waysOut() string {
	return fmt.Sprintf("`outrelay source repair %[1]s --from-table` publishes what the outbox still holds and goes on from here, "+
		"`outrelay source repair %[1]s --accept-gap` goes on without", s.o.Name)
}

// SQLSTATE codes this package tells apart. PostgreSQL documentation, appendix A.
const (
	stateInvalidAuth       = "28000" // no pg_hba.conf entry, or the role may not log in
	stateInvalidPassword   = "28P01"
	stateNoPrivilege       = "42501"
	stateNoDatabase        = "3D000"
	stateTooManyConns      = "53300"
	stateLimitExceeded     = "53400"
	stateObjectInUse       = "55006"
	stateNotInState        = "55000"
	stateUndefinedObject   = "42704"
	stateUndefinedFunction = "42883"
	stateDuplicateObject   = "42710"
	stateSyntaxError       = "42601"
	stateUndefinedFile     = "58P01"
	stateProtocolViolation = "08P01"
)

// classify gives an error of the server or the network its class, code and fix. Errors that have a class pass.
func (s *Source) classify(doing string, err error) error {
	var known *outrelay.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return s.classifyServer(doing, pg)
	}
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		// The text of parse holds the connection string; its cause does not.
		return s.fail(outrelay.ErrConfig, "connection-string", "the connection string cannot be read", "write it as postgres://user@host:5432/database?sslmode=verify-full",
			errors.Unwrap(parse))
	}
	var unknownCA x509.UnknownAuthorityError
	var host x509.HostnameError
	var verify *tls.CertificateVerificationError
	if errors.As(err, &unknownCA) || errors.As(err, &host) || errors.As(err, &verify) || strings.Contains(err.Error(), "server refused TLS") {
		return s.fail(outrelay.ErrEnvironment, "tls", doing, "give the server's authority with sslrootcert=, or choose another sslmode in the connection string", errors.New(cleaned(err)))
	}
	return s.fail(outrelay.ErrTransient, "connection", doing, "", errors.New(cleaned(err)))
}

// cleaned returns the text of a connection error without the user and database that pgconn puts before it, and with the cause alone.
func cleaned(err error) string {
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) && ce.Unwrap() != nil {
		return ce.Unwrap().Error()
	}
	return err.Error()
}

func (s *Source) classifyServer(doing string, pg *pgconn.PgError) error {
	words := serverSaid(pg)
	switch {
	case strings.Contains(pg.Message, "unsupported startup parameter"), pg.Code == stateProtocolViolation && strings.Contains(pg.Message, "replication"):
		return s.fail(outrelay.ErrEnvironment, "pooler", doing+": "+words,
			"this looks like a connection pooler, which cannot carry a replication stream: connect to the database server itself", pg)
	case pg.Code == stateInvalidAuth, pg.Code == stateInvalidPassword:
		return s.fail(outrelay.ErrEnvironment, "login-refused", doing+": "+words,
			"check user and password; pg_hba.conf needs a line `host <database> <user> <address> scram-sha-256` (logical replication uses the database's name there, not `replication`)", pg)
	case pg.Code == stateNoPrivilege:
		return s.fail(outrelay.ErrEnvironment, "missing-privilege", doing+": "+words,
			"run as an administrator: ALTER ROLE <user> REPLICATION; the publication is made by the tables' owner", pg)
	case pg.Code == stateNoDatabase:
		return s.fail(outrelay.ErrEnvironment, "database-missing", doing+": "+words, "correct the database in the connection string", pg)
	case pg.Code == stateLimitExceeded:
		return s.fail(outrelay.ErrEnvironment, "no-free-slot", doing+": "+words, "raise max_replication_slots and restart the server, or drop a slot nobody uses", pg)
	case pg.Code == stateTooManyConns:
		return s.fail(outrelay.ErrTransient, "too-many-connections", doing+": "+words, "raise max_wal_senders or max_connections", pg)
	case pg.Code == stateObjectInUse:
		return s.fail(outrelay.ErrTransient, "slot-active", doing+": "+words, "", pg)
	}
	return s.fail(outrelay.ErrTransient, "server-error", doing+": "+words, "", pg)
}

// serverSaid returns the server's own words, without repeating the SQLSTATE that Err adds.
func serverSaid(pg *pgconn.PgError) string {
	w := pg.Message
	if pg.Detail != "" {
		w += " (" + pg.Detail + ")"
	}
	return w
}
