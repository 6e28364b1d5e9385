package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/mysqldsn"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// session is what the driver's connections can do.
type session interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// conn is one session that is set up as the sink needs it. One goroutine at a time has it.
type conn struct {
	my   session
	text batchText

	// Scratch space, kept between transactions.
	binder handler.Binder
	calls  []handler.Call
}

// Dead implements sqlsink.Conn.
func (c *conn) Dead() bool { return !c.my.IsValid() }

// Close implements sqlsink.Conn.
func (c *conn) Close() { _ = c.my.Close() }

// fresh looks whether the server has ended the session while it was idle: then it is dead, and the error is driver.ErrBadConn.
func (c *conn) fresh(ctx context.Context) error {
	err := c.my.ResetSession(ctx)
	if err != nil {
		c.Close()
	}
	return err
}

// exec runs statements and reads their results away.
func (c *conn) exec(ctx context.Context, text []byte) error {
	_, err := c.my.ExecContext(ctx, string(text), nil)
	return err
}

// query runs statements and returns the rows of all their results, as text; nil is NULL. It has read the last result when it returns.
func (c *conn) query(ctx context.Context, text string) (out [][][]byte, err error) {
	rows, err := c.my.QueryContext(ctx, text, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	for {
		if out, err = appendRows(out, rows); err != nil {
			return nil, err
		}
		more, ok := rows.(driver.RowsNextResultSet)
		if !ok || !more.HasNextResultSet() {
			return out, nil
		}
		switch err := more.NextResultSet(); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
	}
}

func appendRows(out [][][]byte, rows driver.Rows) ([][][]byte, error) {
	values := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(values); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		row := make([][]byte, len(values))
		for i, v := range values {
			switch v := v.(type) {
			case nil:
			case []byte:
				row[i] = append([]byte{}, v...)
			default:
				row[i] = fmt.Append(nil, v)
			}
		}
		out = append(out, row)
	}
}

// quiet drops what the driver logs by itself: it returns it as errors, too.
type quiet struct{}

func (quiet) Print(...any) {}

// dial connects, sets the session up, and checks that the server takes writes. It returns the name of the database.
func (s *Sink) dial(ctx context.Context) (*conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	dsn, err := s.o.ConnString(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("connection string: %w", err)
	}
	cfg, err := mysqldsn.Parse(dsn)
	if err != nil {
		return nil, "", &outrelay.Error{Class: outrelay.ErrConfig, Code: "sink-dsn", Place: "sink", Err: err}
	}
	cfg.Timeout, cfg.DialFunc = s.o.ConnectTimeout, s.o.Dial
	if cfg.DialFunc == nil {
		cfg.DialFunc = sqlsink.Dialer(s.o.ConnectTimeout).DialContext
	}
	cfg.ConnectionAttributes = "program_name:outrelay"
	cfg.MultiStatements, cfg.ClientFoundRows, cfg.CheckConnLiveness = true, true, true
	cfg.AllowAllFiles, cfg.InterpolateParams, cfg.ParseTime, cfg.RejectReadOnly = false, false, false, false
	cfg.MaxAllowedPacket = 1 << 30 // the server's own limit is asked for below
	cfg.Logger = quiet{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, "", &outrelay.Error{Class: outrelay.ErrConfig, Code: "sink-dsn", Place: "sink", Cause: "the connection string names options that do not fit together"}
	}
	my, err := connector.Connect(ctx)
	if err != nil {
		return nil, "", err
	}
	s.connects.Inc()
	c := &conn{my: my.(session)}
	database, err := s.setUp(ctx, c)
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, database, nil
}

// sqlMode is MySQL's own default, without which values would be cut to fit.
const sqlMode = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"

// setUp makes the session ours, whatever the server's defaults are, and refuses a server that does not take writes.
func (s *Sink) setUp(ctx context.Context, c *conn) (database string, err error) {
	lock := seconds(s.o.LockTimeout)
	rows, err := c.query(ctx, fmt.Sprintf(`set names utf8mb4;
set session sql_mode = '%s', time_zone = '+00:00', autocommit = 1, completion_type = 0, foreign_key_checks = 1, unique_checks = 1,
	innodb_lock_wait_timeout = %d, lock_wait_timeout = %d, wait_timeout = %d;
set session transaction isolation level read committed, read write;
select version(), database(), @@global.read_only, @@global.innodb_read_only, @@max_allowed_packet`, sqlMode, lock, lock, seconds(idleMax)))
	if err != nil {
		return "", err
	}
	row := rows[0]
	if row[1] == nil && s.o.Schema == "" {
		return "", &outrelay.Error{Class: outrelay.ErrConfig, Code: "sink-dsn", Place: "sink", Cause: "the connection string names no database", Fix: "write it behind the host: mysql://user@host:3306/warehouse"}
	}
	place := fmt.Sprintf("sink database %s", row[1])
	if err := checkVersion(place, string(row[0])); err != nil {
		return "", err
	}
	if isOn(row[2]) || isOn(row[3]) {
		return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-read-only", Place: place, Cause: "the server is read-only, as replicas are", Fix: "point the connection at the primary; there: set global read_only = off"}
	}
	packet, err := strconv.Atoi(string(row[4]))
	if err != nil {
		return "", fmt.Errorf("max_allowed_packet %q: %w", row[4], err)
	}
	c.text.limit, c.text.openMax = packet-1, s.o.OpenMax
	if m := s.o.PacketBytesMax; m > 0 {
		c.text.limit = min(c.text.limit, m)
	}
	return string(row[1]), nil
}

func isOn(v []byte) bool {
	return len(v) > 0 && string(v) != "0" && !strings.EqualFold(string(v), "OFF")
}

// The oldest servers whose behaviour is known.
const (
	mysqlOldest   = "8.0"
	mariadbOldest = "10.6"
)

// checkVersion refuses servers that are older than what this sink is made for.
func checkVersion(place, version string) error {
	family, oldest := "MySQL", mysqlOldest
	if strings.Contains(version, "MariaDB") {
		family, oldest = "MariaDB", mariadbOldest
	}
	if !olderThan(version, oldest) {
		return nil
	}
	return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-version", Place: place, Cause: fmt.Sprintf("the server is %s %s", family, version),
		Fix: fmt.Sprintf("upgrade it to %s %s or later", family, oldest)}
}

func olderThan(version, oldest string) bool {
	var v, o [2]int
	_, _ = fmt.Sscanf(version, "%d.%d", &v[0], &v[1])
	_, _ = fmt.Sscanf(oldest, "%d.%d", &o[0], &o[1])
	return v[0] < o[0] || v[0] == o[0] && v[1] < o[1]
}

// open makes a session for the pool.
func (s *Sink) open(ctx context.Context) (*conn, error) {
	c, _, err := s.dial(ctx)
	if err != nil {
		return nil, connectError(err)
	}
	return c, nil
}

// checkHandlers has the server prepare every statement of every handler, and names those that it refuses.
func (s *Sink) checkHandlers(ctx context.Context, c *conn) error {
	var errs []error
	for _, st := range s.handlers.Statements {
		text := st.Text(handler.MySQL)
		ps, err := c.my.PrepareContext(ctx, text)
		var e *mysql.MySQLError
		switch {
		case errors.As(err, &e):
			errs = append(errs, handler.StatementError(st.Handler, st.Place, fmt.Errorf("%s (error %d, SQLSTATE %s)", e.Message, e.Number, e.SQLState[:])))
			continue
		case err != nil:
			return err
		}
		_ = ps.Close()
		if ps.NumInput() != len(st.Params) {
			errs = append(errs, handler.StatementError(st.Handler, st.Place, fmt.Errorf("the server sees %d parameters in it, and we %d", ps.NumInput(), len(st.Params))))
		}
	}
	return errors.Join(errs...)
}
