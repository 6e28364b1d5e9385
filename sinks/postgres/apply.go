package postgres

import (
	"bytes"
	"cmp"
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
)

// call is one statement to run for one record.
type call struct {
	st     *statement
	h      *handler
	batch  int // index into the batches
	record int // index into the batch's records
	from   int // its values are conn.values[from : from+len(st.params)]
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
	order, err := moveOrder(bs)
	if err != nil {
		return err
	}
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	c.batches, c.order = bs, order
	if err := c.bind(s.handlers); err != nil {
		s.release(c, false)
		return err
	}
	err = c.run(ctx)
	broken := c.pg.IsClosed()
	var fault *applyError
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

// moveOrder is the order in which the batches' offsets are moved: the same for every owner, so that an old one and a new one never wait for
// each other's rows in a circle. (At READ COMMITTED an old one does not wait: its epoch no longer matches. At other levels its snapshot may.)
func moveOrder(bs []sinks.Batch) ([]int, error) {
	order := make([]int, len(bs))
	for i := range bs {
		if b := &bs[i]; b.From > b.Next || b.Claim.Next < -1 {
			return nil, fmt.Errorf("BUG: batch [%d, %d)", b.From, b.Next)
		}
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return comparePartitions(&bs[i].Claim, &bs[j].Claim) })
	for n := 1; n < len(order); n++ {
		if a, b := &bs[order[n-1]].Claim, &bs[order[n]].Claim; comparePartitions(a, b) == 0 {
			return nil, fmt.Errorf("BUG: two batches of %s/%d in one transaction", a.Partition.Topic, a.Partition.Partition)
		}
	}
	return order, nil
}

func comparePartitions(a, b *sinks.Claim) int {
	return cmp.Or(
		cmp.Compare(a.Partition.LogID, b.Partition.LogID), cmp.Compare(a.Group, b.Group),
		bytes.Compare(a.Partition.TopicID[:], b.Partition.TopicID[:]), cmp.Compare(a.Partition.Partition, b.Partition.Partition),
	)
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
func (c *conn) bind(hs *handlers) error {
	c.calls, c.values, c.arena = c.calls[:0], c.values[:0], c.arena[:0]
	for bi := range c.batches {
		records := c.batches[bi].Records
		for i := range records {
			r := &records[i]
			h := hs.of(r)
			if h == nil {
				continue
			}
			if err := c.bindRecord(h, r, bi, i); err != nil {
				return &sinks.BatchError{Index: bi, Err: &sinks.RecordError{Record: *r, Handler: h.name, Err: err}}
			}
		}
	}
	return nil
}

func (c *conn) bindRecord(h *handler, r *sinks.Record, batch, index int) error {
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
		c.calls = append(c.calls, call{st: st, h: h, batch: batch, record: index, from: len(c.values)})
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

// applyError carries whether the connection is of use after err.
type applyError struct {
	err    error
	broken bool
}

func (e *applyError) Error() string { return e.err.Error() }
func (e *applyError) Unwrap() error { return e.err }

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
		return &applyError{transient("send", err), true}
	}
	if err := p.Flush(); err != nil {
		return &applyError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), true}
	}
	return c.outcome(p)
}

// send encodes the batches. The COMMIT is encoded last and left to the final flush.
func (c *conn) send(p *pgconn.Pipeline) error {
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
		num(b.Next), []byte(part.LogID), []byte(b.Claim.Group), []byte(formatUUID(part.TopicID)), num(int64(part.Partition)),
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
			return &applyError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), true}
		case step == commit && tag.String() != "COMMIT":
			return &applyError{fmt.Errorf("BUG: the server answers COMMIT with %q", tag.String()), true}
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
		return &applyError{fmt.Errorf("%w: %w", sinks.ErrAmbiguous, pgText(e)), true}
	}
	if k, broken := kindOf(e); k == kindRecord {
		// A deferred constraint: some record is at fault, the consumer finds out which.
		return &applyError{&outrelay.Error{Class: outrelay.ErrRecord, Code: "commit-refused", Place: "sink", Cause: "commit", Err: pgText(e)}, broken}
	}
	return otherError("commit", e)
}

func (c *conn) callError(k *call, e *pgconn.PgError) error {
	kind, broken := kindOf(e)
	if kind != kindRecord {
		return otherError("handler "+k.h.name, e)
	}
	re := &sinks.RecordError{Record: c.batches[k.batch].Records[k.record], Handler: k.h.name, Err: pgText(e)}
	return &applyError{&sinks.BatchError{Index: k.batch, Err: re}, broken}
}

func (c *conn) moveError(index int, e *pgconn.PgError) error {
	if e.Code != "22012" {
		return otherError("move of the offset", e)
	}
	b := &c.batches[index]
	return &applyError{&sinks.BatchError{Index: index, Err: &outrelay.Error{
		Class: outrelay.ErrFenced, Code: "fenced", Place: fmt.Sprintf("group %s, %s/%d", b.Claim.Group, b.Claim.Partition.Topic, b.Claim.Partition.Partition),
		Cause: fmt.Sprintf("epoch %d at offset %d is no longer the owner's in outrelay_offsets", b.Claim.Epoch, b.From),
	}}, false}
}

// otherError is no record's fault: the server, its schema, another transaction.
func otherError(where string, e *pgconn.PgError) error {
	switch k, broken := kindOf(e); k {
	case kindConflict:
		return &applyError{conflict(where, pgText(e)), broken}
	case kindTransient:
		return &applyError{transient(where, pgText(e)), broken}
	}
	return &applyError{transient(where, pgText(e)), true}
}
