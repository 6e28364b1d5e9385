package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

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
	err = s.applyOnce(ctx, bs, order)
	if errors.Is(err, driver.ErrBadConn) { // the session had ended while it was idle, and nothing was sent
		err = s.applyOnce(ctx, bs, order)
	}
	if errors.Is(err, driver.ErrBadConn) {
		err = sqlsink.Unavailable("connection", err)
	}
	return err
}

func (s *Sink) applyOnce(ctx context.Context, bs []sinks.Batch, order []int) error {
	l, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	c := l.Conn
	t := transaction{conn: c, set: s.handlers, table: s.table, batches: bs, order: order}
	if err := t.write(); err != nil {
		s.pool.Release(l, false)
		return err
	}
	err = t.run(ctx)
	broken := c.Dead()
	var fault *sqlsink.ApplyError
	if errors.As(err, &fault) {
		broken = broken || fault.Broken
		err = fault.Err
	}
	s.pool.Release(l, broken)
	return err
}

// transaction is one attempt to apply batches.
type transaction struct {
	*conn
	set     *handler.Set
	table   string
	batches []sinks.Batch
	order   []int // of the batches' moves
}

// write makes the text of the transaction before anything is sent: a payload that cannot be bound then costs no transaction.
func (t *transaction) write() (err error) {
	t.text.begin()
	if t.calls, err = t.text.handlers(t.set, &t.binder, t.batches, t.calls[:0], false); err != nil {
		return err
	}
	t.text.end(t.table, t.batches, t.order)
	return nil
}

// run sends the transaction. After an error it is rolled back, or the session is of no more use.
func (t *transaction) run(ctx context.Context) error {
	failpoint.Hit("C16")
	if err := ctx.Err(); err != nil {
		return err // nothing was sent, so there is no doubt
	}
	if err := t.fresh(ctx); err != nil {
		return err
	}
	for i, packet := range t.text.packets[:t.text.used] {
		last := i == t.text.used-1
		if failpoint.Enabled && last {
			failpoint.Hit("C12")
			failpoint.Hit("C15")
		}
		err := t.exec(ctx, packet)
		var refused *mysql.MySQLError
		switch {
		case err == nil:
		case errors.As(err, &refused):
			return t.refused(ctx, refused, last)
		case last && !errors.Is(err, driver.ErrBadConn):
			// We know nothing of the COMMIT, which may have been sent. (Ending ctx closes the connection, too.)
			return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, err), Broken: true}
		default:
			return &sqlsink.ApplyError{Err: sqlsink.Unavailable("send", err), Broken: true} // of which the COMMIT was no part
		}
	}
	return nil
}

// rollbackMax bounds the end of a failed transaction.
const rollbackMax = 5 * time.Second

// rollback ends the failed transaction and returns the step at which it failed; false means that the session is of no more use.
func (c *conn) rollback() (step int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), rollbackMax)
	defer cancel()
	rows, err := c.query(ctx, "rollback;"+keepIdle+";select @outrelay_at")
	if err != nil || len(rows) != 1 {
		return 0, false
	}
	step, err = strconv.Atoi(string(rows[0][0]))
	return step, err == nil
}

// refused turns the server's refusal of one statement into the error of the batches. What stood behind that statement was not run.
func (t *transaction) refused(ctx context.Context, e *mysql.MySQLError, last bool) error {
	step, ok := t.rollback()
	n := len(t.order)
	switch {
	case !ok && last:
		// Where it failed is not known: it may have been the COMMIT, in a session that was ended.
		return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, serverText(e)), Broken: true}
	case !ok:
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable("send", serverText(e)), Broken: true}
	case step == 0:
		return t.callRefused(ctx, e)
	case step <= n && e.Number == errorNotMoved:
		index := t.order[step-1]
		return &sqlsink.ApplyError{Err: &sinks.BatchError{Index: index, Err: sqlsink.Fenced(&t.batches[index])}}
	case step <= n:
		return otherError("move of the offset", e)
	}
	if e.Number == errorDeadlock || e.Number == errorRolledBack { // the cluster's other nodes were first
		return &sqlsink.ApplyError{Err: sqlsink.Conflict("commit", serverText(e))}
	}
	// The COMMIT was run and said no, in whatever state that left it: a claim tells.
	return &sqlsink.ApplyError{Err: fmt.Errorf("%w: %w", sinks.ErrAmbiguous, serverText(e)), Broken: true}
}

// callRefused is the refusal of a handler's statement. Where it is a record's fault, the statements run again, numbered, to tell which: numbers
// cost, so a transaction goes without them.
func (t *transaction) callRefused(ctx context.Context, e *mysql.MySQLError) error {
	k, broken := kindOf(e)
	switch {
	case k != sqlsink.KindRecord:
		return otherError("handlers", e)
	case len(t.calls) == 1:
		return &sqlsink.ApplyError{Err: t.recordError(&t.calls[0], e), Broken: broken}
	}
	t.text.begin()
	var err error
	if t.calls, err = t.text.handlers(t.set, &t.binder, t.batches, t.calls[:0], true); err != nil {
		return &sqlsink.ApplyError{Err: err}
	}
	var again *mysql.MySQLError
	for _, packet := range t.text.packets[:t.text.used] {
		if err = t.exec(ctx, packet); err != nil {
			break
		}
	}
	step, ok := t.rollback()
	switch {
	case !ok:
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable("handlers", serverText(e)), Broken: true}
	case err == nil:
		return &sqlsink.ApplyError{Err: sqlsink.Conflict("handlers", fmt.Errorf("refused, and then not: %w", serverText(e)))}
	case !errors.As(err, &again):
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable("handlers", err), Broken: true}
	}
	if k, _ := kindOf(again); k != sqlsink.KindRecord || step < 1 || step > len(t.calls) {
		return otherError("handlers", again)
	}
	return &sqlsink.ApplyError{Err: t.recordError(&t.calls[step-1], again)}
}

func (t *transaction) recordError(k *handler.Call, e *mysql.MySQLError) error {
	re := &sinks.RecordError{Record: t.batches[k.Batch].Records[k.Record], Handler: k.Handler.Name, Err: serverText(e)}
	return &sinks.BatchError{Index: k.Batch, Err: re}
}

// otherError is no record's fault: the server, its schema, another transaction.
func otherError(where string, e *mysql.MySQLError) error {
	switch k, broken := kindOf(e); k {
	case sqlsink.KindConflict:
		return &sqlsink.ApplyError{Err: sqlsink.Conflict(where, serverText(e)), Broken: broken}
	case sqlsink.KindTransient:
		return &sqlsink.ApplyError{Err: sqlsink.Unavailable(where, serverText(e)), Broken: broken}
	}
	return &sqlsink.ApplyError{Err: sqlsink.Unavailable(where, serverText(e)), Broken: true}
}
