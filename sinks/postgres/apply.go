package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// call is one statement to run for one record.
type call struct {
	handler.Call
	from int // its values are conn.values[from : from+len(Statement.Params)]
}

// Apply implements sinks.Sink. See the package comment for how the batch stays whole.
func (s *Sink) Apply(ctx context.Context, b sinks.Batch) error {
	err := s.ApplyAll(ctx, []sinks.Batch{b})
	var of *sinks.BatchError
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// ApplyAll implements sinks.MultiApplier.
func (s *Sink) ApplyAll(ctx context.Context, bs []sinks.Batch) error {
	order, err := sqlsink.MoveOrder(bs)
	if err != nil {
		return err
	}
	l, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	c := l.Conn
	c.batches, c.order = bs, order
	if err := c.bind(s.handlers); err != nil {
		s.pool.Release(l, false)
		return err
	}
	err = c.run(ctx)
	broken := c.pg.IsClosed()
	var fault *sqlsink.ApplyError
	if errors.As(err, &fault) {
		broken = broken || fault.Broken
		err = fault.Err
	}
	if !broken && c.pg.TxStatus() != 'I' {
		broken = !c.rollback()
	}
	s.pool.Release(l, broken)
	return err
}

// rollback ends the failed transaction; false means that the connection is of no more use.
func (c *conn) rollback() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := c.pg.Exec(ctx, "rollback").ReadAll()
	return err == nil && c.pg.TxStatus() == 'I'
}

// bind computes the statements and values of all batches before anything is sent: a payload that cannot be bound then costs
// no transaction.
func (c *conn) bind(hs *handler.Set) error {
	c.calls, c.values = c.calls[:0], c.values[:0]
	return c.binder.Bind(hs, c.batches, func(k handler.Call) error {
		c.calls = append(c.calls, call{k, len(c.values)})
		for i, p := range k.Statement.Params {
			v, err := c.value(k.Statement, i)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			c.values = append(c.values, v)
		}
		return nil
	})
}

// value is one parameter's value; nil is NULL.
func (c *conn) value(st *handler.Compiled, i int) ([]byte, error) {
	v := c.binder.Value(st, i)
	if v.Kind != handler.JSON {
		return v.Data, nil
	}
	if pr := &c.prepared[st.Number]; pr.raw != nil && pr.raw[i] && string(v.Data) != "null" {
		return v.Data, nil // a json column takes JSON as it stands, a string with its quotes
	}
	return handler.Text(v.Data)
}

// flushBytes is how much is gathered before it is sent, so that the server works while we encode.
const flushBytes = 64 << 10

// run sends the batches as one pipeline and reads their outcome.
func (c *conn) run(ctx context.Context) error {
	failpoint.Hit("C16")
	if err := ctx.Err(); err != nil {
		return err // nothing was sent, so there is no doubt
	}
	p := c.pg.StartPipeline(ctx)
	defer func() { _ = p.Close() }()
	err := c.send(p)
	if err != nil {
		// Nothing that ends in COMMIT has left us: send does not flush it before the last step.
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable("send", err), Broken: true}
	}
	if err := p.Flush(); err != nil {
		return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), Broken: true}
	}
	return c.outcome(p)
}

// send encodes the batches. The COMMIT is encoded last and left to the final flush.
func (c *conn) send(p *pgconn.Pipeline) error {
	p.SendQueryPrepared(c.begin.Name, nil, nil, nil)
	pending := 0
	for i := range c.calls {
		k := &c.calls[i]
		pr := &c.prepared[k.Statement.Number]
		values := c.values[k.from : k.from+len(k.Statement.Params)]
		p.SendQueryPrepared(pr.Name, values, pr.formats, nil)
		for _, v := range values {
			pending += len(v)
		}
		if pending += 40; pending >= flushBytes {
			pending = 0
			if err := p.Flush(); err != nil {
				return err
			}
		}
	}
	if failpoint.Bug("offset-outside-transaction") {
		p.SendQueryPrepared(c.commit.Name, nil, nil, nil)
		if err := p.Sync(); err != nil {
			return err
		}
		failpoint.Hit("C14") // where a crash shows the bug
		p.SendQueryPrepared(c.begin.Name, nil, nil, nil)
	}
	for _, i := range c.order {
		p.SendQueryPrepared(c.move.Name, moveArgs(&c.batches[i]), nil, nil)
	}
	if failpoint.Enabled {
		// The server has it all but the COMMIT, which is where a crash or a stop is of interest.
		if err := p.Flush(); err != nil {
			return err
		}
		failpoint.Hit("C12")
		failpoint.Hit("C15")
	}
	p.SendQueryPrepared(c.commit.Name, nil, nil, nil)
	p.SendPipelineSync()
	return nil
}

func moveArgs(b *sinks.Batch) [][]byte {
	part := b.Claim.Partition
	num := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
	return [][]byte{
		num(b.Next), []byte(part.LogID), []byte(b.Claim.Group), []byte(sqlsink.FormatUUID(part.TopicID)), num(int64(part.Partition)),
		num(b.Claim.Epoch), num(b.From),
	}
}

// outcome reads the results in the order of sending: BEGIN, the calls, the moves, COMMIT.
func (c *conn) outcome(p *pgconn.Pipeline) error {
	n := len(c.calls)
	commit := n + len(c.order) + 1
	bug := failpoint.Bug("offset-outside-transaction")
	for i, step := 0, 0; step <= commit; i++ {
		res, err := p.GetResults()
		var tag pgconn.CommandTag
		if rr, ok := res.(*pgconn.ResultReader); ok && err == nil {
			tag, err = rr.Close()
		}
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr):
			return c.serverError(pgErr, step)
		case err != nil:
			// We know nothing of the COMMIT, which has been sent. (Ending ctx closes the connection, too.)
			return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), Broken: true}
		case step == commit && tag.String() != "COMMIT":
			return &sqlsink.ApplyError{Err: fmt.Errorf("BUG: the server answers COMMIT with %q", tag.String()), Broken: true}
		}
		if bug && i >= n+1 && i <= n+3 {
			continue // the planted bug's own COMMIT, Sync and BEGIN
		}
		step++
	}
	return nil
}

// serverError turns the server's refusal of one step into the error of the batches.
func (c *conn) serverError(e *pgconn.PgError, step int) error {
	n := len(c.calls)
	switch commit := n + len(c.order) + 1; {
	case step == 0:
		return otherError("begin", e)
	case step <= n:
		return c.callError(&c.calls[step-1], e)
	case step < commit:
		return c.moveError(c.order[step-n-1], e)
	case isFatal(e):
		// The session ended while COMMIT ran: it may have committed before (as when it waited for a synchronous standby).
		return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, pgText(e)), Broken: true}
	}
	if k, broken := kindOf(e); k == sqlsink.KindRecord {
		// A deferred constraint: some record is at fault, the consumer finds out which.
		return &sqlsink.ApplyError{Err: sqlsink.CommitRefused(pgText(e)), Broken: broken}
	}
	return otherError("commit", e)
}

func (c *conn) callError(k *call, e *pgconn.PgError) error {
	kind, broken := kindOf(e)
	if kind != sqlsink.KindRecord {
		return otherError("handler "+k.Handler.Name, e)
	}
	re := &sinks.RecordError{Record: c.batches[k.Batch].Records[k.Record], Handler: k.Handler.Name, Err: pgText(e)}
	return &sqlsink.ApplyError{Err: &sinks.BatchError{Index: k.Batch, Err: re}, Broken: broken}
}

func (c *conn) moveError(index int, e *pgconn.PgError) error {
	if e.Code != "22012" {
		return otherError("move of the offset", e)
	}
	return &sqlsink.ApplyError{Err: &sinks.BatchError{Index: index, Err: sqlsink.Fenced(&c.batches[index])}}
}

// otherError is no record's fault: the server, its schema, another transaction.
func otherError(where string, e *pgconn.PgError) error {
	switch k, broken := kindOf(e); k {
	case sqlsink.KindConflict:
		return &sqlsink.ApplyError{Err: sqlsink.Conflict(where, pgText(e)), Broken: broken}
	case sqlsink.KindTransient:
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable(where, pgText(e)), Broken: broken}
	}
	return &sqlsink.ApplyError{Err: sqlsink.Unavailable(where, pgText(e)), Broken: true}
}
