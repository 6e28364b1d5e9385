package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
)

// call is one statement to run for one record.
type call struct {
	st     *statement
	h      *handler
	record int // index into the batch
	from   int // its values are conn.values[from : from+len(st.params)]
}

// Apply implements sinks.Sink. See the package comment for how the batch stays whole.
func (s *Sink) Apply(ctx context.Context, b sinks.Batch) error {
	if b.From > b.Next || b.Claim.Next < -1 {
		return fmt.Errorf("BUG: batch [%d, %d)", b.From, b.Next)
	}
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	if err := c.bind(s.handlers, &b); err != nil {
		s.release(c, false)
		return err
	}
	err = c.run(ctx, &b)
	broken := c.pg.IsClosed()
	var fault *batchError
	if errors.As(err, &fault) {
		broken = broken || fault.broken
		err = fault.err
	}
	if !broken && c.pg.TxStatus() != 'I' {
		broken = !c.rollback()
	}
	s.release(c, broken)
	return err
}

// rollback ends the failed transaction; false means that the connection is of no more use.
func (c *conn) rollback() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := c.pg.Exec(ctx, "rollback").ReadAll()
	return err == nil && c.pg.TxStatus() == 'I'
}

// bind computes the statements and values of the whole batch before anything is sent: a payload that cannot be bound then costs
// no transaction.
func (c *conn) bind(hs *handlers, b *sinks.Batch) error {
	c.calls, c.values, c.arena = c.calls[:0], c.values[:0], c.arena[:0]
	for i := range b.Records {
		r := &b.Records[i]
		h := hs.of(r)
		if h == nil {
			continue
		}
		if err := c.bindRecord(h, r, i); err != nil {
			return &sinks.RecordError{Record: *r, Handler: h.name, Err: err}
		}
	}
	return nil
}

func (c *conn) bindRecord(h *handler, r *sinks.Record, index int) error {
	if h.slots > 0 {
		if cap(c.slots) < h.slots {
			c.slots = make([][]byte, h.slots)
		}
		c.slots = c.slots[:h.slots]
		clear(c.slots)
		if r.Value != nil { // of a tombstone every field is NULL
			if err := h.fields.extract(r.Value, c.slots); err != nil {
				return err
			}
		}
	}
	for _, st := range h.statements {
		c.calls = append(c.calls, call{st: st, h: h, record: index, from: len(c.values)})
		for i, p := range st.params {
			v, err := c.value(st, i, p, r)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			c.values = append(c.values, v)
		}
	}
	return nil
}

// value is one parameter's value; nil is NULL.
func (c *conn) value(st *statement, i int, p param, r *sinks.Record) ([]byte, error) {
	switch p.root {
	case rootPayload:
		if len(p.path) == 0 {
			return r.Value, nil
		}
		raw := c.slots[st.slot[i]]
		if pr := &c.prepared[st.number]; pr.raw != nil && pr.raw[i] && string(raw) != "null" {
			return raw, nil // a json column takes JSON as it stands, a string with its quotes
		}
		return text(raw)
	case rootKey:
		return r.Key, nil
	case rootID:
		return r.Header(sinks.HeaderID), nil
	case rootType:
		if v := r.Header(sinks.HeaderType); v != nil {
			return v, nil
		}
		return r.Header(sinks.HeaderEventType), nil
	case rootTopic:
		return c.keep(append(c.arena, r.Topic...)), nil
	case rootPartition:
		return c.keep(strconv.AppendInt(c.arena, int64(r.Partition), 10)), nil
	case rootOffset:
		return c.keep(strconv.AppendInt(c.arena, r.Offset, 10)), nil
	case rootHeaders:
		return r.Header(p.path[0]), nil
	case rootCommittedAt:
		return committedAt(r), nil
	}
	return nil, fmt.Errorf("BUG: parameter root %d", p.root)
}

// keep makes what was appended to the arena a value. When the arena grew, older values stay in the old one.
func (c *conn) keep(arena []byte) []byte {
	v := arena[len(c.arena):len(arena):len(arena)]
	c.arena = arena
	return v
}

// batchError carries whether the connection is of use after err.
type batchError struct {
	err    error
	broken bool
}

func (e *batchError) Error() string { return e.err.Error() }
func (e *batchError) Unwrap() error { return e.err }

// flushBytes is how much is gathered before it is sent, so that the server works while we encode.
const flushBytes = 64 << 10

// run sends the batch as one pipeline and reads its outcome.
func (c *conn) run(ctx context.Context, b *sinks.Batch) error {
	failpoint.Hit("C16")
	if err := ctx.Err(); err != nil {
		return err // nothing was sent, so there is no doubt
	}
	p := c.pg.StartPipeline(ctx)
	defer func() { _ = p.Close() }()
	err := c.send(p, b)
	if err != nil {
		// Nothing that ends in COMMIT has left us: send does not flush it before the last step.
		return &batchError{transient("send", err), true}
	}
	if err := p.Flush(); err != nil {
		return &batchError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), true}
	}
	return c.outcome(p, b)
}

// send encodes the batch. The COMMIT is encoded last and left to the final flush.
func (c *conn) send(p *pgconn.Pipeline, b *sinks.Batch) error {
	p.SendQueryPrepared(c.begin.Name, nil, nil, nil)
	pending := 0
	for i := range c.calls {
		k := &c.calls[i]
		pr := &c.prepared[k.st.number]
		values := c.values[k.from : k.from+len(k.st.params)]
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
	p.SendQueryPrepared(c.move.Name, moveArgs(b), nil, nil)
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
		num(b.Next), []byte(part.LogID), []byte(b.Claim.Group), []byte(formatUUID(part.TopicID)), num(int64(part.Partition)),
		num(b.Claim.Epoch), num(b.From),
	}
}

// outcome reads the results in the order of sending: BEGIN, the calls, the move, COMMIT.
func (c *conn) outcome(p *pgconn.Pipeline, b *sinks.Batch) error {
	n := len(c.calls)
	bug := failpoint.Bug("offset-outside-transaction")
	for i, step := 0, 0; step < n+3; i++ {
		res, err := p.GetResults()
		var tag pgconn.CommandTag
		if rr, ok := res.(*pgconn.ResultReader); ok && err == nil {
			tag, err = rr.Close()
		}
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr):
			return c.serverError(pgErr, step, b)
		case err != nil:
			// We know nothing of the COMMIT, which has been sent. (Ending ctx closes the connection, too.)
			return &batchError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), true}
		case step == n+2 && tag.String() != "COMMIT":
			return &batchError{fmt.Errorf("BUG: the server answers COMMIT with %q", tag.String()), true}
		}
		if bug && i >= n+1 && i <= n+3 {
			continue // the planted bug's own COMMIT, Sync and BEGIN
		}
		step++
	}
	return nil
}

// serverError turns the server's refusal of one step into the batch's error.
func (c *conn) serverError(e *pgconn.PgError, step int, b *sinks.Batch) error {
	k, broken := kindOf(e)
	n := len(c.calls)
	where := "begin"
	switch {
	case step == n+2 && isFatal(e):
		// The session ended while COMMIT ran: it may have committed before (as when it waited for a synchronous standby).
		return &batchError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, pgText(e)), true}
	case step == n+1 && e.Code == "22012":
		return &batchError{&outrelay.Error{
			Class: outrelay.ErrFenced, Code: "fenced", Place: fmt.Sprintf("group %s, %s/%d", b.Claim.Group, b.Claim.Partition.Topic, b.Claim.Partition.Partition),
			Cause: fmt.Sprintf("epoch %d at offset %d is no longer the owner's in outrelay_offsets", b.Claim.Epoch, b.From),
		}, false}
	case step == n+2:
		where = "commit"
	case step == n+1:
		where = "move of the offset"
	case step > 0:
		where = "handler " + c.calls[step-1].h.name
	}
	switch {
	case k == kindConflict:
		return &batchError{conflict(where, pgText(e)), broken}
	case k == kindTransient:
		return &batchError{transient(where, pgText(e)), broken}
	case step > 0 && step <= n:
		call := c.calls[step-1]
		return &batchError{&sinks.RecordError{Record: b.Records[call.record], Handler: call.h.name, Err: pgText(e)}, broken}
	case where == "commit":
		// A deferred constraint: some record is at fault, the consumer finds out which.
		return &batchError{&outrelay.Error{Class: outrelay.ErrRecord, Code: "commit-refused", Place: "sink", Cause: "commit", Err: pgText(e)}, broken}
	}
	return &batchError{transient(where, pgText(e)), true}
}
