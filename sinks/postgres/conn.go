package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// conn is one session with everything prepared. One goroutine at a time has it.
type conn struct {
	pg       *pgconn.PgConn
	prepared []prepared // by statement number
	begin    *pgconn.StatementDescription
	move     *pgconn.StatementDescription
	commit   *pgconn.StatementDescription

	// What is being applied.
	batches []sinks.Batch
	order   []int // of the batches' moves

	// Scratch space of bind, kept between transactions.
	calls  []call
	values [][]byte
	binder handler.Binder
}

// Dead implements sqlsink.Conn.
func (c *conn) Dead() bool { return c.pg.IsClosed() }

// Close implements sqlsink.Conn.
func (c *conn) Close() { closeConn(c.pg) }

type prepared struct {
	*pgconn.StatementDescription
	formats []int16 // nil when all parameters are in text format
	raw     []bool  // parameters that take JSON as it stands; nil when none does
}

// Object ids of types that a parameter is not sent as plain text for.
const (
	oidJSON, oidBytea, oidJSONB = 114, 17, 3802
)

// dialRaw connects and checks that the server takes writes. It returns the schema that holds outrelay's tables.
func (s *Sink) dialRaw(ctx context.Context) (*pgconn.PgConn, string, error) {
	dsn, err := s.o.ConnString(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("connection string: %w", err)
	}
	conf, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, "", &outrelay.Error{Class: outrelay.ErrConfig, Code: "sink-dsn", Place: "sink", Err: err}
	}
	conf.ConnectTimeout = s.o.ConnectTimeout
	name := "outrelay " + s.o.Owner
	conf.RuntimeParams["application_name"] = name[:min(len(name), 63)]
	conf.RuntimeParams["client_encoding"] = "UTF8"
	conf.DialFunc = s.o.Dial
	if conf.DialFunc == nil {
		conf.DialFunc = sqlsink.Dialer(s.o.ConnectTimeout).DialContext
	}
	conf.OnPgError = func(*pgconn.PgConn, *pgconn.PgError) bool { return true } // we decide what becomes of the connection
	pg, err := pgconn.ConnectConfig(ctx, conf)
	if err != nil {
		return nil, "", err
	}
	s.connects.Inc()
	schema, err := s.setUp(ctx, pg)
	if err != nil {
		closeConn(pg)
		return nil, "", err
	}
	return pg, schema, nil
}

// setUp makes the session ours and refuses a server that does not take writes.
func (s *Sink) setUp(ctx context.Context, pg *pgconn.PgConn) (schema string, err error) {
	set := []struct{ name, value string }{
		{"standard_conforming_strings", "on"}, // the parameter parser relies on it
		{"lock_timeout", ms(s.o.LockTimeout)},
		{"idle_in_transaction_session_timeout", ms(2 * s.o.StuckOwnerAfter)},
		// The server must notice a client that is gone: its open transaction holds the row that the next owner claims.
		{"tcp_user_timeout", ms(sqlsink.UnackedMax)}, {"tcp_keepalives_idle", "10"}, {"tcp_keepalives_interval", "5"}, {"tcp_keepalives_count", "3"},
	}
	sql := "select pg_is_in_recovery(), current_setting('transaction_read_only'), current_schema(), current_database()"
	for _, v := range set {
		sql += fmt.Sprintf(", set_config('%s', '%s', false)", v.name, v.value)
	}
	rows, err := query(ctx, pg, sql)
	if err != nil {
		return "", err
	}
	row := rows[0]
	place := fmt.Sprintf("sink database %s", row[3])
	if string(row[0]) == "t" {
		return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-standby", Place: place, Cause: "the server is a standby and takes no writes", Fix: "point the connection at the primary (target_session_attrs=read-write with several hosts)"}
	}
	if string(row[1]) == "on" {
		return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-read-only", Place: place, Cause: "transactions are read-only here", Fix: "set default_transaction_read_only = off for this role and database"}
	}
	if s.o.Schema != "" {
		return s.o.Schema, nil
	}
	if row[2] == nil {
		return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-schema", Place: place, Cause: "no schema of the role's search_path exists", Fix: "create it or set the search_path: alter role … set search_path = public"}
	}
	return string(row[2]), nil
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// open makes a connection with everything prepared.
func (s *Sink) open(ctx context.Context) (*conn, error) {
	pg, _, err := s.dialRaw(ctx)
	if err != nil {
		return nil, connectError(err)
	}
	c, err := s.prepare(ctx, pg)
	if err != nil {
		closeConn(pg)
		return nil, connectError(err)
	}
	return c, nil
}

// prepare prepares outrelay's own statements and all of the handlers'. Every statement that the server refuses is named.
func (s *Sink) prepare(ctx context.Context, pg *pgconn.PgConn) (*conn, error) {
	c := &conn{pg: pg, prepared: make([]prepared, len(s.handlers.Statements))}
	p := pg.StartPipeline(ctx)
	own := []struct {
		name, sql string
		to        **pgconn.StatementDescription
	}{{"outrelay_begin", "begin read write", &c.begin}, {"outrelay_move", s.moveSQL(), &c.move}, {"outrelay_commit", "commit", &c.commit}}
	for _, o := range own {
		p.SendPrepare(o.name, o.sql, nil)
		p.SendPipelineSync()
	}
	for _, st := range s.handlers.Statements {
		p.SendPrepare(statementName(st.Number), st.Text(handler.PostgreSQL), nil)
		p.SendPipelineSync() // so that one refused statement does not hide the others
	}
	if err := p.Flush(); err != nil {
		return nil, err
	}
	var errs []error
	for i := range len(own) + len(s.handlers.Statements) {
		res, err := p.GetResults()
		sd, _ := res.(*pgconn.StatementDescription)
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && i >= len(own) && !isFatal(pgErr):
			errs = append(errs, prepareError(s.handlers.Statements[i-len(own)], pgErr))
		case err != nil:
			_ = p.Close()
			return nil, err
		case i < len(own):
			sd.Name = own[i].name
			*own[i].to = sd
		default:
			sd.Name = statementName(i - len(own))
			c.prepared[i-len(own)] = newPrepared(sd)
		}
		if _, err := p.GetResults(); err != nil { // the Sync
			_ = p.Close()
			return nil, err
		}
	}
	if err := p.Close(); err != nil && len(errs) == 0 {
		return nil, err
	}
	return c, errors.Join(errs...)
}

func statementName(n int) string { return "outrelay_" + strconv.Itoa(n) }

func newPrepared(sd *pgconn.StatementDescription) prepared {
	p := prepared{StatementDescription: sd}
	for i, oid := range sd.ParamOIDs {
		switch oid {
		case oidBytea:
			if p.formats == nil {
				p.formats = make([]int16, len(sd.ParamOIDs))
			}
			p.formats[i] = 1
		case oidJSON, oidJSONB:
			if p.raw == nil {
				p.raw = make([]bool, len(sd.ParamOIDs))
			}
			p.raw[i] = true
		}
	}
	return p
}

// prepareError says what the server has against a statement, and where in it.
func prepareError(st *handler.Compiled, e *pgconn.PgError) error {
	text := fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code)
	if e.Position > 0 {
		if runes := []rune(st.Text(handler.PostgreSQL)); int(e.Position) <= len(runes) {
			rest := runes[e.Position-1:]
			text += fmt.Sprintf(" at %q", string(rest[:min(len(rest), 40)]))
		}
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return handler.StatementError(st.Handler, st.Place, errors.New(text))
}

func closeConn(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
}

// moveSQL is the last statement of every batch (S3). Where the claim no longer holds, or the offset is not what we believe, no row
// matches, the count is zero and the division raises: the server then skips everything up to the Sync, the COMMIT with it.
func (s *Sink) moveSQL() string {
	guard := "and epoch = $6 and next_offset = $7"
	if failpoint.Bug("epoch-not-checked") {
		guard = "and $6::bigint is not null and $7::bigint is not null"
	}
	return fmt.Sprintf(`with moved as (
	update %s set next_offset = $1, updated_at = now()
	where log_id = $2 and group_id = $3 and topic_id = $4 and partition = $5 %s
	returning 1)
select 1 / count(*) from moved`, s.table, guard)
}

func isFatal(e *pgconn.PgError) bool {
	return slices.Contains([]string{"FATAL", "PANIC"}, e.SeverityUnlocalized) || e.SeverityUnlocalized == "" && (e.Severity == "FATAL" || e.Severity == "PANIC")
}
