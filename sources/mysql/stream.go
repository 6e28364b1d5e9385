package mysql

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

// Open keeps sources.Source, and R6: a position that does not fit halts. It checks who the server is and that it holds everything after the position, before it asks
// for the binlog.
func (s *Source) Open(ctx context.Context, after outrelay.Position) (sources.Stream, error) {
	at, err := ParsePlace(s.o.Flavor, after)
	if err != nil {
		return nil, err
	}
	if after.Source != s.o.Name {
		return nil, s.fail(outrelay.ErrDataHalt, "position-foreign", "the position belongs to source "+string(after.Source), "", nil)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.hangUp()
	srv, err := s.inspect(ctx, c)
	if err != nil {
		return nil, err
	}
	ask, err := s.checkPosition(ctx, c, srv, &at)
	if err != nil {
		return nil, err
	}
	charsets, err := s.charsets(ctx, c)
	if err != nil {
		return nil, err
	}
	r, err := s.replica(ctx, c, srv)
	if err != nil {
		return nil, err
	}
	d, err := s.dialDump(ctx, c.cfg, srv.tls)
	if err != nil {
		return nil, err
	}
	if err := d.begin(ctx, s, srv, r, ask); err != nil {
		d.close()
		return nil, err
	}
	st := newStream(s, d, srv, at)
	st.charsets = charsets
	st.opened = after
	s.log.Debug("binlog asked for", "server_id", r.id, "behind", ask.String())
	d.watch(s.o.SilenceTimeout, st.drained)
	st.wg.Add(2)
	go st.read()
	go st.beIdle()
	return st, nil
}

// charsets returns the character set of each collation.
func (s *Source) charsets(ctx context.Context, c *conn) (map[uint64]string, error) {
	rows, err := c.rows(ctx, "SELECT ID AS id, CHARACTER_SET_NAME AS name FROM information_schema.COLLATIONS WHERE ID IS NOT NULL")
	if err != nil {
		return nil, s.classify("information_schema.COLLATIONS", err)
	}
	if s.o.Flavor == MariaDB { // since 10.10 one collation may serve several character sets; its numbers stand elsewhere. Older servers lack the column.
		more, err := c.rows(ctx, "SELECT ID AS id, CHARACTER_SET_NAME AS name FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL")
		if err != nil && !isServerError(err, errBadField) {
			return nil, s.classify("information_schema.COLLATION_CHARACTER_SET_APPLICABILITY", err)
		}
		rows = append(rows, more...)
	}
	out := make(map[uint64]string, len(rows))
	for _, r := range rows {
		var id uint64
		if _, err := fmt.Sscan(r["id"], &id); err == nil {
			out[id] = r["name"]
		}
	}
	return out, nil
}

// stream is one running replica.
type stream struct {
	src      *Source
	srv      server
	d        *dump
	q        *queue
	opened   outrelay.Position // what was given to Open
	charsets map[uint64]string

	reader // what the reader goroutine owns

	mu        sync.Mutex // guards delivered
	delivered Place      // the last that Next has handed out; without its history

	taken []item // what Next took from the queue at once; owned by Next's caller
	spare []item
	next  int

	stop      chan struct{} // closed by Close
	readDone  chan struct{}
	closeOnce sync.Once
	wg        sync.WaitGroup
}

func newStream(s *Source, d *dump, srv server, at Place) *stream {
	st := &stream{src: s, srv: srv, d: d, delivered: at, q: newQueue(s.o.Name, at, s.o.PrefetchBytes, s.o.IdleInterval, s.clock.Now()),
		stop: make(chan struct{}), readDone: make(chan struct{})}
	st.delivered.Executed = History{}
	st.q.at.Server = srv.id
	st.reader = newReader(s.named(srv.database), srv, at)
	return st
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
	st.mu.Lock()
	st.delivered = it.place
	st.mu.Unlock()
	st.q.handedOut(it.bytes)
	*it = item{}
	return txn, nil
}

// Confirm keeps sources.Stream. The server is told nothing: it keeps its binlog for as long as it is set to, whoever has read it.
func (st *stream) Confirm(_ context.Context, p outrelay.Position) error {
	if p == st.opened {
		return nil
	}
	place, err := ParsePlace(st.src.o.Flavor, p)
	if err != nil {
		return err
	}
	st.mu.Lock()
	delivered := st.delivered
	st.mu.Unlock()
	switch {
	case p.Source != st.src.o.Name, place.Server != st.srv.id:
		return st.src.fail(outrelay.ErrDataHalt, "confirm-foreign", "position "+p.Token+" is not of this stream", "", nil)
	case place.after(&delivered):
		return st.src.fail(outrelay.ErrDataHalt, "confirm-ahead", fmt.Sprintf("position %s was never yielded by this stream", place.String()), "", nil)
	}
	return nil
}

// Close keeps sources.Stream.
func (st *stream) Close() error {
	st.closeOnce.Do(func() {
		close(st.stop)
		st.q.fail(st.src.fail(outrelay.ErrTransient, "stream-closed", "the stream was closed", "", nil))
		st.d.close()
	})
	st.wg.Wait()
	return nil
}

// beIdle is the idler goroutine: it pushes bare positions when they are due, so that a source whose tables are quiet moves on while others write.
func (st *stream) beIdle() {
	defer st.wg.Done()
	clk := st.src.clock
	for {
		var due <-chan time.Time
		stopTimer := func() bool { return true }
		if at, ok := st.q.bareDue(); ok {
			now := clk.Now()
			if st.q.pushBare(now) {
				continue
			}
			t := clk.NewTimer(max(at.Sub(now), 0))
			due, stopTimer = t.C(), t.Stop
		}
		select {
		case <-due:
		case <-st.q.stir:
		case <-st.readDone:
			stopTimer()
			return
		case <-st.stop:
			stopTimer()
			return
		}
		stopTimer()
	}
}

// placeText names where the stream is, for errors.
func (st *stream) placeText() string {
	st.q.mu.Lock()
	defer st.q.mu.Unlock()
	return st.q.at.String()
}
