package mysql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	driver "github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
)

// fail returns an error of this source.
func (s *Source) fail(class error, code, cause, fix string, err error) error {
	return &outrelay.Error{Class: class, Code: code, Place: s.place(), Cause: cause, Fix: fix, Err: err}
}

// waysOut names what an operator can do when the server no longer continues where the log stands.
func (s *Source) waysOut() string {
	return fmt.Sprintf("`outrelay source repair %[1]s --from-table` publishes what the outbox still holds and goes on from here, "+
		"`outrelay source repair %[1]s --accept-gap` goes on without", s.o.Name)
}

// Error numbers of the servers that this package tells apart. MySQL Error Reference; the same in MariaDB.
const (
	errAccessDenied     = 1045
	errAccessDeniedDB   = 1044
	errAccessDeniedNone = 1698 // MariaDB: no password where one is needed
	errUnknownDatabase  = 1049
	errTooManyConns     = 1040
	errTableDenied      = 1142
	errNoSuchTable      = 1146
	errSyntax           = 1064
	errDuplicateKey     = 1062
	errBadField         = 1054
	errNeedPrivilege    = 1227
	errReadBinlog       = 1236
	errReadOnly         = 1290
	errReadOnlyTxn      = 1792
	errHostBlocked      = 1129
	errHostDenied       = 1130
	errSecureTransport  = 3159
)

// serverError returns number and text of a server's answer, of whichever of the two libraries has it.
func serverError(err error) (number uint16, text string, ok bool) {
	var d *driver.MySQLError
	if errors.As(err, &d) {
		return d.Number, d.Message, true
	}
	var m *gomysql.MyError
	if errors.As(err, &m) {
		return m.Code, m.Message, true
	}
	return 0, "", false
}

// isServerError reports whether err is a server's answer of one of those numbers.
func isServerError(err error, numbers ...uint16) bool {
	n, _, ok := serverError(err)
	for _, x := range numbers {
		if ok && n == x {
			return true
		}
	}
	return false
}

// classify gives an error of the server or the network its class, code and fix. Errors that have a class pass.
func (s *Source) classify(doing string, err error) error {
	var known *outrelay.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if number, text, ok := serverError(err); ok {
		return s.classifyServer(doing, number, text)
	}
	var unknownCA x509.UnknownAuthorityError
	var host x509.HostnameError
	var verify *tls.CertificateVerificationError
	if errors.As(err, &unknownCA) || errors.As(err, &host) || errors.As(err, &verify) || errors.Is(err, driver.ErrNoTLS) {
		return s.fail(outrelay.ErrEnvironment, "tls", doing, "give the server's authority with ssl-ca=, or choose another ssl-mode in the connection string", errors.New(cleaned(err)))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.fail(outrelay.ErrTransient, "connection", doing, "", err)
	}
	return s.fail(outrelay.ErrTransient, "connection", doing, "", errors.New(cleaned(err)))
}

// cleaned returns the text of a connection error without the stack that go-mysql puts behind it.
func cleaned(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	if errors.Is(err, gomysql.ErrBadConn) { // its words are those of the calls that failed
		if _, why, ok := strings.Cut(text, ". err "); ok {
			why, _, _ = strings.Cut(why, ": connection was bad")
			why, _, _ = strings.Cut(why, ", copied")
			return "the connection ended: " + why
		}
	}
	return text
}

func (s *Source) classifyServer(doing string, number uint16, text string) error {
	words := fmt.Sprintf("%s: the server says: %s (%d)", doing, text, number)
	switch number {
	case errAccessDenied, errAccessDeniedNone, errHostDenied:
		return s.fail(outrelay.ErrEnvironment, "login-refused", words, "check user, password and the host that the user may come from", nil)
	case errAccessDeniedDB, errUnknownDatabase:
		return s.fail(outrelay.ErrEnvironment, "database-missing", words, "correct the database in the connection string, or grant access to it", nil)
	case errNeedPrivilege, errTableDenied:
		return s.fail(outrelay.ErrEnvironment, "missing-privilege", words, "run as an administrator: "+s.grants(), nil)
	case errTooManyConns, errHostBlocked:
		return s.fail(outrelay.ErrTransient, "too-many-connections", words, "raise max_connections; a blocked host is freed by FLUSH HOSTS", nil)
	case errSecureTransport:
		return s.fail(outrelay.ErrEnvironment, "tls", words, "write ssl-mode=VERIFY_IDENTITY in the connection string", nil)
	}
	return s.fail(outrelay.ErrTransient, "server-error", words, "", nil)
}

// grants returns what an administrator runs for the source's user.
func (s *Source) grants() string {
	monitor := "REPLICATION CLIENT"
	if s.o.Flavor == MariaDB {
		monitor = "BINLOG MONITOR"
	}
	return fmt.Sprintf("GRANT REPLICATION SLAVE, %s ON *.* TO <user>; GRANT SELECT, INSERT, CREATE ON <database>.%s TO <user>; GRANT SELECT ON <outbox> TO <user>", monitor, markTable)
}

// streamError gives what ended the stream its class.
func (st *stream) streamError(err error) error {
	s := st.src
	var known *outrelay.Error
	if errors.As(err, &known) {
		return err
	}
	number, text, ok := serverError(err)
	if !ok {
		return s.classify("binlog stream", err)
	}
	if number == errReadBinlog {
		return st.dumpRefused(text)
	}
	return s.classifyServer("binlog stream", number, text)
}

// dumpRefused classifies error 1236, by which a server says that it cannot go on sending, for whatever reason.
func (st *stream) dumpRefused(text string) error {
	s := st.src
	words := fmt.Sprintf("the server says: %s (%d)", text, errReadBinlog)
	low := strings.ToLower(text)
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(low, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("same server_uuid/server_id", "same server_uuid", "same server_id"):
		return s.fail(outrelay.ErrTransient, "replaced", words, "another relay of this source has connected; if there is none, another replica has the same server id: set `server_id`", nil)
	case has("purged", "could not find first log", "could not find gtid state", "too old"):
		return s.fail(outrelay.ErrPositionLost, "binlog-purged", fmt.Sprintf("%s; transactions that committed after %s may not have been read", words, st.placeText()), s.waysOut(), nil)
	case has("more gtids than", "is not in the master", "not in the master's binlog", "diverged"):
		return s.fail(outrelay.ErrPositionLost, "server-behind", fmt.Sprintf("%s; our position is %s", words, st.placeText()), s.waysOut(), nil)
	case has("exceeded max_allowed_packet"):
		return s.fail(outrelay.ErrDataHalt, "packet-too-large", fmt.Sprintf("%s; after %s", words, st.placeText()), "raise max_allowed_packet on the server; if it is large enough, its binlog is damaged: "+s.waysOut(), nil)
	case has("corrupt", "truncated", "event read from binlog did not pass", "checksum"):
		return s.fail(outrelay.ErrDataHalt, "binlog-damaged", fmt.Sprintf("%s; after %s", words, st.placeText()), "repair or rebuild the server, or "+s.waysOut(), nil)
	}
	return s.fail(outrelay.ErrTransient, "server-error", words, "", nil)
}
