package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// Open keeps sources.Source, and R6: a position that does not fit halts. It checks who the server is, that the slot holds everything after the position, and that the
// publication leaves nothing out, before it asks for the stream.
func (s *Source) Open(ctx context.Context, after outrelay.Position) (sources.Stream, error) {
	at, err := ParsePlace(after)
	if err != nil {
		return nil, err
	}
	if after.Source != s.o.Name {
		return nil, s.fail(outrelay.ErrDataHalt, "position-foreign", "the position belongs to source "+string(after.Source), "", nil)
	}
	pg, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.open(ctx, pg, at)
	if err != nil {
		s.hangUp(pg)
		return nil, err
	}
	return st, nil
}

func (s *Source) open(ctx context.Context, pg *pgconn.PgConn, at Place) (*stream, error) {
	srv, err := s.inspect(ctx, pg)
	if err != nil {
		return nil, err
	}
	if err := s.checkIdentity(ctx, pg, srv, at); err != nil {
		return nil, err
	}
	if err := s.checkSlot(ctx, pg, srv, at); err != nil {
		return nil, err
	}
	if err := s.checkPublication(ctx, pg, srv, at); err != nil {
		return nil, err
	}
	types, err := s.typeNames(ctx, pg)
	if err != nil {
		return nil, err
	}
	hijacked, err := pg.Hijack()
	if err != nil {
		return nil, s.classify("replication connection", err)
	}
	at.Timeline = srv.timeline
	st := newStream(s, hijacked.Conn, at, types)
	if err := st.start(ctx, hijacked); err != nil {
		_ = hijacked.Conn.Close()
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			return nil, s.startRefused(pe, at, srv)
		}
		return nil, s.classify("start of the replication stream", err)
	}
	st.wg.Add(2)
	go st.read()
	go st.write()
	return st, nil
}

// startRefused classifies the server's answer to START_REPLICATION: the checks before it may have been overtaken by events.
func (s *Source) startRefused(pe *pgconn.PgError, at Place, srv server) error {
	switch pe.Code {
	case stateUndefinedObject:
		return s.lost("slot-missing", "replication slot "+s.o.Slot+" does not exist", at, srv.walEnd, pe)
	case stateNotInState, stateUndefinedFile:
		return s.lost("slot-invalidated", "the server cannot continue at our position: "+serverSaid(pe), at, srv.walEnd, pe)
	}
	return s.classifyServer("start of the replication stream", pe)
}

// stream is one running replication connection.
type stream struct {
	src  *Source
	conn net.Conn
	at   Place // where it was opened; its timeline is the server's
	q    *queue

	// The reader goroutine owns these.
	w       *wire
	dec     *pgoutput.Decoder
	msg     pgoutput.Message
	b       builder
	txn     txnState
	place   Place // where we are between transactions, or within one after a part
	lastEnd LSN   // of the commit received last
	types   map[uint32]string

	received  atomic.Uint64 // how far the server's log has been received: Write in the status
	flush     atomic.Uint64 // confirmed: Flush and Apply in the status
	delivered atomic.Uint64 // the highest position that Next has handed out
	heard     atomic.Int64  // unix nanoseconds of the last frame's arrival
	urgent    atomic.Bool   // the server asks for a reply
	wake      chan struct{} // capacity 1: the writer has something to say

	taken []item // what Next took from the queue at once; owned by Next's caller
	spare []item
	next  int

	stop      chan struct{} // closed by Close
	readDone  chan struct{}
	closeOnce sync.Once
	wg        sync.WaitGroup
}

func newStream(s *Source, conn net.Conn, at Place, types map[uint32]string) *stream {
	st := &stream{src: s, conn: conn, at: at, types: types,
		q:     newQueue(at, s.o.PrefetchBytes, s.o.IdleInterval, s.clock.Now()),
		w:     newWire(conn, s.o.MaxRowBytes+xlogHeaderBytes),
		dec:   pgoutput.NewDecoder(),
		place: at,
		wake:  make(chan struct{}, 1), stop: make(chan struct{}), readDone: make(chan struct{}),
	}
	st.received.Store(uint64(at.LSN))
	st.flush.Store(uint64(at.LSN)) // it came from the log: it is durable there
	st.delivered.Store(uint64(at.LSN))
	st.heard.Store(s.clock.Now().UnixNano())
	return st
}

// start sends START_REPLICATION and reads up to the answer that the stream begins. ctx bounds it.
func (st *stream) start(ctx context.Context, h *pgconn.HijackedConn) error {
	unwatch := context.AfterFunc(ctx, func() { _ = st.conn.SetDeadline(time.Unix(1, 0)) })
	defer unwatch()
	// What pgconn has read ahead of the last answer it gave, it still holds.
	for h.Frontend.ReadBufferLen() > 0 {
		if _, err := h.Frontend.Receive(); err != nil {
			return err
		}
	}
	sql := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', publication_names %s)",
		quoteIdent(st.src.o.Slot), st.at.LSN, quoteLiteral(quoteIdent(st.src.o.Publication)))
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := st.conn.Write(query); err != nil {
		return err
	}
	for {
		typ, body, err := st.w.next()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		switch typ {
		case 'W': // CopyBothResponse
			if !unwatch() {
				return context.Cause(ctx)
			}
			return nil
		case 'E':
			return serverError(body)
		case 'N':
			if err := st.notice(body); err != nil {
				return err
			}
		case 'S', 'A':
		default:
			return fmt.Errorf("answer %q to START_REPLICATION", typ)
		}
	}
}

func serverError(body []byte) error {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	return pgconn.ErrorResponseToPgError(&m)
}

// Next keeps sources.Stream.
func (st *stream) Next(ctx context.Context) (outrelay.Txn, error) {
	for st.next == len(st.taken) {
		items, err := st.q.take(st.spare)
		if err != nil {
			return outrelay.Txn{}, err
		}
		if len(items) > 0 {
			st.spare, st.taken, st.next = st.taken, items, 0
			break
		}
		st.spare = items
		select {
		case <-st.q.ready:
		case <-ctx.Done():
			return outrelay.Txn{}, context.Cause(ctx)
		}
	}
	it := &st.taken[st.next]
	st.next++
	txn := it.txn
	st.delivered.Store(uint64(it.lsn))
	st.q.handedOut(it.bytes)
	it.txn = outrelay.Txn{}
	return txn, nil
}

// Confirm keeps sources.Stream. A position before one that was confirmed already changes nothing.
func (st *stream) Confirm(_ context.Context, p outrelay.Position) error {
	place, err := ParsePlace(p)
	if err != nil {
		return err
	}
	switch {
	case p.Source != st.src.o.Name, place.System != st.at.System, place.Timeline > st.at.Timeline:
		return st.src.fail(outrelay.ErrDataHalt, "confirm-foreign", "position "+p.Token+" is not of this stream", "", nil)
	case uint64(place.LSN) > st.delivered.Load():
		// R6: PostgreSQL accepts a confirmation beyond what it sent, and then skips up to there.
		return st.src.fail(outrelay.ErrDataHalt, "confirm-ahead", fmt.Sprintf("position %s was never yielded by this stream", place), "", nil)
	}
	for {
		old := st.flush.Load()
		if uint64(place.LSN) <= old {
			return nil
		}
		if st.flush.CompareAndSwap(old, uint64(place.LSN)) {
			signal(st.wake)
			return nil
		}
	}
}

// Close keeps sources.Stream.
func (st *stream) Close() error {
	st.closeOnce.Do(func() {
		close(st.stop)
		st.q.fail(st.src.fail(outrelay.ErrTransient, "stream-closed", "the stream was closed", "", nil))
	})
	st.wg.Wait()
	return nil
}

// isPublicationWarning recognises PostgreSQL 18's warning that a publication was missing at a place in the WAL: rows are then
// skipped. The routine's name is told beside the text since the text may be translated.
func isPublicationWarning(m *pgproto3.NoticeResponse) bool {
	return m.Routine == "LoadPublications" || strings.Contains(m.Message, "skipped loading publication")
}

// notice looks at a NoticeResponse.
func (st *stream) notice(body []byte) error {
	var m pgproto3.NoticeResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	if isPublicationWarning(&m) {
		return st.src.lost("publication-missing", "the server says: "+m.Message+"; rows at this place of the WAL are skipped", st.place, LSN(st.received.Load()), nil)
	}
	st.src.log.Warn("the server says", "severity", m.Severity, "code", m.Code, "message", m.Message, "detail", m.Detail, "hint", m.Hint)
	return nil
}
