package mysql

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
)

// queue carries transactions from the reader to Next, and knows where the stream is. It holds a bounded number of bytes, counted until Next has handed
// them out.
type queue struct {
	source   outrelay.SourceID
	bytesMax int64
	idle     time.Duration // a bare position at most this often

	bytes atomic.Int64  // pushed and not yet handed out
	full  atomic.Bool   // the reader waits for room
	ready chan struct{} // capacity 1: something was pushed, or the queue has failed
	room  chan struct{} // capacity 1: bytes has shrunk
	stir  chan struct{} // capacity 1: a bare position may have become due

	pushed bool // something was pushed and not announced; the reader goroutine owns it

	mu      sync.Mutex // guards all below
	items   []item
	at      Place     // where the reader is: after the last transaction, or within one after a part
	moved   bool      // at lies behind the last item's position
	inParts bool      // the last item is a part that others follow
	last    time.Time // when the last item was pushed
	err     error     // why nothing follows
}

type item struct {
	txn   outrelay.Txn
	place Place // of txn.Position, for what Confirm compares; its history is not kept
	bytes int64
}

func newQueue(source outrelay.SourceID, start Place, bytesMax int, idle time.Duration, now time.Time) *queue {
	return &queue{source: source, bytesMax: int64(bytesMax), idle: idle, at: start, inParts: start.Done > 0, last: now,
		ready: make(chan struct{}, 1), room: make(chan struct{}, 1), stir: make(chan struct{}, 1)}
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

// push moves to where move leads and appends what ends there. Next learns of it by announce.
func (q *queue) push(events []outrelay.Event, bytes int64, part int, last bool, now time.Time, move func(*Place)) {
	q.mu.Lock()
	move(&q.at)
	it := q.itemLocked(events, part, last)
	it.bytes += bytes
	q.bytes.Add(it.bytes)
	q.items = append(q.items, it)
	q.inParts, q.moved, q.last = !last, false, now
	q.mu.Unlock()
	q.pushed = true
}

// itemLocked makes an item that ends where the stream is.
func (q *queue) itemLocked(events []outrelay.Event, part int, last bool) item {
	token := q.at.Token()
	place := q.at
	place.Executed = History{} // it goes on changing
	return item{place: place, bytes: int64(len(token)), txn: outrelay.Txn{
		Position: outrelay.Position{Source: q.source, Token: token}, Place: q.at.String(), CommittedAt: q.at.CommittedAt, Events: events, Part: part, Last: last,
	}}
}

// advance moves past a transaction that has nothing to push.
func (q *queue) advance(move func(*Place)) {
	q.mu.Lock()
	first := !q.moved
	move(&q.at)
	q.moved, q.inParts = true, false
	q.mu.Unlock()
	if first {
		signal(q.stir)
	}
}

// advanceWithin moves past a transaction of others while one of ours is yielded in part: no bare position may come between.
func (q *queue) advanceWithin(move func(*Place)) {
	q.mu.Lock()
	move(&q.at)
	q.mu.Unlock()
}

// pushBare pushes a bare position when the source has moved on without events, nothing is waiting to be taken, and the last item is old enough.
func (q *queue) pushBare(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.inParts || !q.moved || len(q.items) > 0 || now.Sub(q.last) < q.idle {
		return false
	}
	it := q.itemLocked(nil, 0, true)
	it.bytes = 0
	q.items = append(q.items, it)
	q.moved, q.last = false, now
	signal(q.ready)
	return true
}

// bareDue returns when a bare position may be pushed; false while there is none to push.
func (q *queue) bareDue() (time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last.Add(q.idle), q.moved && !q.inParts && len(q.items) == 0 && q.err == nil
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
	if q.moved {
		signal(q.stir)
	}
	return taken, nil
}

// handedOut gives back the room of an item.
func (q *queue) handedOut(bytes int64) {
	q.bytes.Add(-bytes)
	if q.full.Load() {
		signal(q.room)
	}
}
