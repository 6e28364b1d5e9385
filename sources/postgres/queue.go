package postgres

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
)

// queue carries transactions from the reader to Next. It holds a bounded number of bytes, counted until Next has handed them out.
type queue struct {
	bytesMax int64
	idle     time.Duration // a bare position at most this often

	bytes atomic.Int64  // pushed and not yet handed out
	full  atomic.Bool   // the reader waits for room
	ready chan struct{} // capacity 1: something was pushed, or the queue has failed
	room  chan struct{} // capacity 1: bytes has shrunk

	pushed bool // something was pushed and not announced; the reader goroutine owns it

	mu      sync.Mutex // guards all below
	items   []item
	place   Place     // after the last item pushed
	through LSN       // everything up to here has been read; at least place.LSN between transactions
	inParts bool      // the last item is a part that others follow
	last    time.Time // when the last item was pushed
	err     error     // why nothing follows
}

type item struct {
	txn   outrelay.Txn
	lsn   LSN // of txn.Position
	bytes int64
}

func newQueue(start Place, bytesMax int, idle time.Duration, now time.Time) *queue {
	return &queue{bytesMax: int64(bytesMax), idle: idle, place: start, through: start.LSN, inParts: start.Commit != 0, last: now,
		ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// waitForRoom blocks the reader while the queue is full. It reports false when stop is closed. The caller clears full.
func (q *queue) waitForRoom(stop <-chan struct{}) bool {
	for q.bytes.Load() >= q.bytesMax {
		q.announce()
		q.full.Store(true)
		if q.bytes.Load() < q.bytesMax {
			break
		}
		select {
		case <-q.room:
		case <-stop:
			return false
		}
	}
	return true
}

// announce tells Next of what was pushed. The reader calls it before it waits for anything: once for many transactions.
func (q *queue) announce() {
	if q.pushed {
		q.pushed = false
		signal(q.ready)
	}
}

// push appends a transaction or a part, which ends at place. Next learns of it by announce.
func (q *queue) push(it item, place Place, now time.Time) {
	q.bytes.Add(it.bytes)
	q.mu.Lock()
	q.items = append(q.items, it)
	q.place = place
	q.inParts = !it.txn.Last
	if place.LSN > q.through {
		q.through = place.LSN
	}
	q.last = now
	q.mu.Unlock()
	q.pushed = true
}

// advance says that the server has sent everything up to lsn, between two transactions.
func (q *queue) advance(lsn LSN) {
	q.mu.Lock()
	if lsn > q.through {
		q.through = lsn
	}
	q.mu.Unlock()
}

// finish says that a transaction ended at place without events to push.
func (q *queue) finish(place Place) {
	q.mu.Lock()
	q.inParts = false
	q.place.Commit, q.place.Done = 0, 0
	if place.LSN > q.through {
		q.through = place.LSN
	}
	q.mu.Unlock()
}

// pushBare pushes a bare position when the source has moved on without events, nothing is waiting to be taken, and the last item is
// at least age old.
func (q *queue) pushBare(source outrelay.SourceID, now time.Time, age time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.inParts || q.through <= q.place.LSN || len(q.items) > 0 || now.Sub(q.last) < age {
		return false
	}
	q.place.LSN = q.through
	q.items = append(q.items, item{txn: q.place.txn(source, nil, 0, true), lsn: q.place.LSN})
	q.last = now
	signal(q.ready)
	return true
}

// bareDue returns when a bare position may be pushed; false while there is none to push.
func (q *queue) bareDue() (time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last.Add(q.idle), q.through > q.place.LSN && !q.inParts && len(q.items) == 0 && q.err == nil
}

// fail ends the queue: what was pushed is still handed out, then err.
func (q *queue) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	signal(q.ready)
}

// take moves what is there into into; the error is set once nothing is left.
func (q *queue) take(into []item) ([]item, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return into[:0], q.err
	}
	taken := q.items
	q.items = into[:0]
	return taken, nil
}

// handedOut gives back the room of an item.
func (q *queue) handedOut(bytes int64) {
	q.bytes.Add(-bytes)
	if q.full.Load() {
		signal(q.room)
	}
}
