package postgres

import (
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// How often the server is told at most: of a new confirmed position, when it asks, and how often an idle source then yields.
const (
	confirmInterval = 100 * time.Millisecond
	replyInterval   = 10 * time.Millisecond
	urgentIdle      = time.Second
	writeTimeout    = 30 * time.Second
)

// write is the writer goroutine: it owns the connection's write side and sends standby status from its own timer, whether or not
// anybody calls Next, so that backpressure never costs the connection.
func (st *stream) write() {
	defer st.wg.Done()
	defer st.conn.Close() // ends the reader
	o, clk := &st.src.o, st.src.clock
	sentAt, sentFlush, pinged := clk.Now(), LSN(0), false
	urgentSince := time.Time{}
	for {
		now := clk.Now()
		if st.urgent.Swap(false) && urgentSince.IsZero() {
			urgentSince = now
		}
		due := sentAt.Add(o.KeepaliveInterval)
		if LSN(st.flush.Load()) > sentFlush {
			due = earlier(due, sentAt.Add(confirmInterval))
		}
		if !urgentSince.IsZero() {
			due = earlier(due, sentAt.Add(replyInterval))
		}
		idle := o.IdleInterval
		if !urgentSince.IsZero() {
			// A server that asks is shutting down, or has a commit that waits for us: it needs the confirmation soon.
			idle = min(idle, urgentIdle)
		}
		if at, ok := st.q.bareDue(); ok {
			at = at.Add(idle - o.IdleInterval)
			if !at.After(now) {
				st.q.pushBare(o.Name, now, idle)
			} else {
				due = earlier(due, at)
			}
		}
		if !due.After(now) {
			// Asking for an answer every interval shows that the connection lives, and brings a position in a database
			// that is so busy that the server never sends a keepalive by itself.
			ping := !sentAt.Add(o.KeepaliveInterval).After(now) || !pinged
			if err := st.sendStatus(ping); err != nil {
				st.q.fail(st.streamError(err))
				return
			}
			sentAt, sentFlush, pinged, urgentSince = now, LSN(st.flush.Load()), true, time.Time{}
			if st.silent(now) {
				st.q.fail(st.src.fail(outrelay.ErrTransient, "server-silent", "the server has sent nothing for "+o.SilenceTimeout.String(), "", nil))
				return
			}
			continue
		}
		t := clk.NewTimer(due.Sub(now))
		select {
		case <-t.C():
		case <-st.wake:
		case <-st.readDone:
			t.Stop()
			return
		case <-st.stop:
			t.Stop()
			st.farewell()
			return
		}
		t.Stop()
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (st *stream) silent(now time.Time) bool {
	return !st.q.full.Load() && now.Sub(time.Unix(0, st.heard.Load())) > st.src.o.SilenceTimeout
}

func (st *stream) sendStatus(reply bool) error {
	flush := LSN(st.flush.Load())
	received := max(LSN(st.received.Load()), flush)
	var buf [statusBytes]byte
	b := appendStatus(buf[:0], received, flush, pgoutput.Micros(st.src.clock.Now()), reply)
	if err := st.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := st.conn.Write(b)
	return err
}

// farewell tells the server the last confirmed position and ends the session, so that the slot is free at once.
func (st *stream) farewell() {
	flush := LSN(st.flush.Load())
	b := appendStatus(nil, max(LSN(st.received.Load()), flush), flush, pgoutput.Micros(st.src.clock.Now()), false)
	b, _ = (&pgproto3.CopyDone{}).Encode(b)
	b, _ = (&pgproto3.Terminate{}).Encode(b)
	if st.conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = st.conn.Write(b)
	}
}
