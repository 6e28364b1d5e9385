package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// errStopped: Close was called.
var errStopped = errors.New("stopped")

// read is the reader goroutine: it decodes the stream into the queue until the connection ends.
func (st *stream) read() {
	defer st.wg.Done()
	defer close(st.readDone)
	err := st.readAll()
	if err == nil || errors.Is(err, errStopped) {
		return
	}
	st.q.fail(st.streamError(err))
}

// streamError gives what ended the stream its class.
func (st *stream) streamError(err error) error {
	s := st.src
	var known *outrelay.Error
	if errors.As(err, &known) {
		return err
	}
	var pe *pgconn.PgError
	switch {
	case errors.Is(err, pgoutput.ErrMalformed), errors.Is(err, errFrameTooLarge):
		code, fix := "stream-malformed", "this is a fault of the server, of outrelay, or of something between them; the position is unchanged"
		if errors.Is(err, errFrameTooLarge) {
			code, fix = "row-too-large", "raise the source's row limit, or "+s.waysOut()
		}
		return s.fail(outrelay.ErrDataHalt, code, fmt.Sprintf("after %s, at %s", st.place, LSN(st.received.Load())), fix, err)
	case errors.As(err, &pe) && pe.Code == stateUndefinedObject:
		return s.lost("publication-missing", "the server says: "+serverSaid(pe)+"; rows at this place of the WAL cannot be read", st.place, LSN(st.received.Load()), pe)
	case errors.As(err, &pe) && pe.Code == stateUndefinedFile:
		return s.lost("wal-missing", "the server says: "+serverSaid(pe), st.place, LSN(st.received.Load()), pe)
	}
	return s.classify("replication stream", err)
}

func (st *stream) readAll() error {
	counted := int64(0)
	p := newPacer(st.conn)
	for {
		p.frames++
		if !st.w.complete() {
			st.q.announce()
			p.wait(st.w.lastRead)
		}
		typ, body, err := st.w.next()
		if err != nil {
			return err
		}
		if n := st.w.received; n != counted { // once for many frames
			st.heard.Store(st.src.clock.Now().UnixNano())
			st.src.metrics.Bytes.Add(float64(n - counted))
			counted = n
		}
		switch typ {
		case 'd':
			if err := st.copyData(body); err != nil {
				return err
			}
		case 'E':
			return serverError(body)
		case 'N':
			if err := st.notice(body); err != nil {
				return err
			}
		case 'S', 'A': // a parameter changed, a notification
		case 'c', 'C', 'Z':
			return errors.New("the server ended the stream")
		default:
			return fmt.Errorf("frame %q: %w", typ, pgoutput.ErrMalformed)
		}
	}
}

func (st *stream) copyData(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("empty frame: %w", pgoutput.ErrMalformed)
	}
	switch b[0] {
	case 'w':
		if len(b) < xlogHeaderBytes {
			return fmt.Errorf("XLogData of %d bytes: %w", len(b), pgoutput.ErrMalformed)
		}
		// The header's positions are those of single rows, in no order: nothing is confirmed from them.
		return st.message(b[xlogHeaderBytes:])
	case 'k':
		if len(b) != keepaliveBytes {
			return fmt.Errorf("keepalive of %d bytes: %w", len(b), pgoutput.ErrMalformed)
		}
		return st.keepalive(LSN(binary.BigEndian.Uint64(b[1:])), b[17] != 0)
	}
	return fmt.Errorf("copy data of type %q: %w", b[0], pgoutput.ErrMalformed)
}

// keepalive takes note of how far the server has sent. Between two transactions that is a position; within one, which happens when
// the server is slow to decode it, it is not.
func (st *stream) keepalive(walEnd LSN, reply bool) error {
	if !st.txn.open {
		if st.place.Commit != 0 && walEnd > st.place.Commit {
			return st.vanished(walEnd)
		}
		if st.place.Commit == 0 && walEnd > st.place.LSN {
			st.place.LSN = walEnd
			st.receivedTo(walEnd)
			st.q.advance(walEnd)
			signal(st.wake)
		}
	}
	if reply {
		st.urgent.Store(true)
		signal(st.wake)
	}
	return nil
}

// vanished (R6) is the halt for a transaction of which a part was published and which the server does not send again.
func (st *stream) vanished(seen LSN) error {
	return st.src.lost("transaction-vanished", fmt.Sprintf("the transaction that commits at %s was published in part (%d events), and the server does not send it again",
		st.place.Commit, st.place.Done), st.place, seen, nil)
}

func (st *stream) receivedTo(lsn LSN) {
	if uint64(lsn) > st.received.Load() {
		st.received.Store(uint64(lsn))
	}
}

// message handles one message of pgoutput.
func (st *stream) message(b []byte) error {
	m := &st.msg
	if err := st.dec.Decode(b, m); err != nil {
		return err
	}
	switch m.Kind {
	case pgoutput.KindInsert:
		return st.insert(m)
	case pgoutput.KindBegin:
		return st.begin(m)
	case pgoutput.KindCommit:
		return st.commit(m)
	case pgoutput.KindRelation:
		m.Relation.User = st.src.newRelation(st.dec, m.Relation, st.types)
	case pgoutput.KindUpdate:
		st.ignored(m.Relation, "UPDATE")
	case pgoutput.KindDelete:
		st.ignored(m.Relation, "DELETE")
	case pgoutput.KindTruncate:
		for _, oid := range m.Relations {
			if rel := st.dec.Relation(oid); rel != nil {
				st.ignored(rel, "TRUNCATE")
			}
		}
	}
	return nil
}

func (st *stream) begin(m *pgoutput.Message) error {
	switch {
	case st.txn.open:
		return fmt.Errorf("begin within a transaction: %w", pgoutput.ErrMalformed)
	case m.FinalLSN < st.place.LSN, m.FinalLSN < st.lastEnd:
		return fmt.Errorf("transaction that commits at %s, before our place %s: %w", m.FinalLSN, max(st.lastEnd, st.place.LSN), pgoutput.ErrMalformed)
	}
	st.txn = txnState{open: true, final: m.FinalLSN, committedAt: m.CommitTime}
	if half := st.place.Commit; half != 0 {
		switch {
		case m.FinalLSN == half:
			st.txn.skip = st.place.Done
		case m.FinalLSN < half:
			st.txn.skip = -1 // it had nothing to publish when the position was made, and is behind it
		default:
			return st.vanished(m.FinalLSN)
		}
	}
	return nil
}

func (st *stream) insert(m *pgoutput.Message) error {
	if !st.txn.open {
		return fmt.Errorf("insert outside a transaction: %w", pgoutput.ErrMalformed)
	}
	rel, _ := m.Relation.User.(*relation)
	if rel == nil || !rel.wanted || st.txn.skip < 0 {
		return nil
	}
	if st.txn.ordinal < st.txn.skip {
		st.txn.ordinal++
		return nil
	}
	// A part is closed when another event follows, so that the last part is never empty.
	if st.b.bytes >= int64(st.src.o.MaxPartBytes) {
		if err := st.yield(Place{LSN: st.place.LSN, Commit: st.txn.final, Done: st.txn.ordinal}, false); err != nil {
			return err
		}
	}
	if err := st.b.add(rel, m.Tuple, st.txn.ordinal); err != nil {
		return fmt.Errorf("table %s, transaction that commits at %s: %w", rel.name, st.txn.final, err)
	}
	st.txn.ordinal++
	return nil
}

func (st *stream) commit(m *pgoutput.Message) error {
	if !st.txn.open || m.FinalLSN != st.txn.final || m.EndLSN <= m.FinalLSN {
		return fmt.Errorf("commit at %s, end %s, of the transaction that commits at %s: %w", m.FinalLSN, m.EndLSN, st.txn.final, pgoutput.ErrMalformed)
	}
	st.lastEnd = m.EndLSN
	st.receivedTo(m.EndLSN)
	if len(st.b.events) > 0 {
		if err := st.yield(Place{LSN: m.EndLSN}, true); err != nil {
			return err
		}
	} else if st.txn.skip >= 0 {
		// Nothing to publish: only the place moves on. An unfinished transaction that turns out to be done ends here too.
		st.place.LSN, st.place.Commit, st.place.Done = m.EndLSN, 0, 0
		st.q.finish(st.place)
	}
	st.txn.open = false
	return nil
}

// yield pushes the events gathered so far; the position after them is at, to which the stream's identity and counts are added.
func (st *stream) yield(at Place, last bool) error {
	if !st.q.waitForRoom(st.stop) {
		return errStopped
	}
	if st.q.full.Load() {
		st.heard.Store(st.src.clock.Now().UnixNano()) // it was we who did not listen
		st.q.full.Store(false)
	}
	events, bytes := st.b.take()
	at.System, at.Timeline = st.at.System, st.at.Timeline
	at.CommittedAt = st.txn.committedAt
	at.Events = st.place.Events + int64(len(events))
	st.place = at
	txn := at.txn(st.src.o.Name, events, st.txn.part, last)
	st.txn.part++
	st.src.metrics.Events.Add(float64(len(events)))
	if last {
		st.src.metrics.Txns.Inc()
	}
	st.q.push(item{txn: txn, lsn: at.LSN, bytes: bytes + int64(len(txn.Position.Token))}, at, st.src.clock.Now())
	return nil
}

// ignored counts a change of an outbox table that is no event, and reports the first of its kind. Deletes are what services do to
// rows that they inserted: they are counted in silence.
func (st *stream) ignored(rel *pgoutput.Relation, op string) {
	r, _ := rel.User.(*relation)
	if r == nil || !r.wanted {
		return
	}
	if st.src.metrics.Ignore(r.name, op, 1) && op != "DELETE" {
		st.src.log.Warn("a change of the outbox table that is no event is ignored; from now on it is only counted", "table", r.name, "op", op, "commit", st.txn.final.String())
	}
}
