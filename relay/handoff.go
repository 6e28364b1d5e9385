package relay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
)

// handoff stands between the goroutine that gathers and the one that publishes. There are two gathers: one fills while the other is published. No
// timer batches: what has gathered when the publisher is free goes out at once.
type handoff struct {
	max int // bytes; a gather above it takes no further transaction

	mu      sync.Mutex // held while a transaction is routed into pending, so that a gather holds whole ones
	pending *gather    // nil while the publisher has not given one back
	spare   *gather
	err     error // why no more will come; what is pending is published first

	filled chan struct{} // signals: pending has changed, or err is set
	drawn  chan struct{} // signals: pending was taken

	filling, inFlight atomic.Int64 // commit time of the oldest transaction in pending, and of what is being published; unix ns, 0 is none
}

func newHandoff(bytesMax int) *handoff {
	return &handoff{max: bytesMax, pending: &gather{}, spare: &gather{}, filled: make(chan struct{}, 1), drawn: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// accepts reports whether a transaction or part may join pending. Parts of a large one join only each other.
func (h *handoff) accepts(t *outrelay.Txn) bool {
	p := h.pending
	switch {
	case p == nil:
		return false
	case p.empty():
		return true
	case p.bytes >= h.max:
		return false
	case len(t.Events) == 0 && t.Part == 0 && t.Last && !p.large:
		return true // a bare position
	}
	whole := t.Part == 0 && t.Last
	if whole {
		return !p.large
	}
	return p.large && !p.last && t.Part > 0
}

// put waits until t may join what is pending and then calls fill with it, which adds t's records. When fill fails, nothing of t stays.
func (h *handoff) put(ctx context.Context, t *outrelay.Txn, fill func(*gather) error) error {
	for {
		h.mu.Lock()
		if h.accepts(t) {
			break
		}
		h.mu.Unlock()
		select {
		case <-h.drawn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer h.mu.Unlock()
	g := h.pending
	m := g.mark()
	if err := fill(g); err != nil {
		g.rollback(m)
		return err
	}
	if g.oldest.IsZero() && len(t.Events) > 0 {
		g.oldest = t.CommittedAt
		h.filling.Store(t.CommittedAt.UnixNano())
	}
	g.large = g.large || t.Part > 0 || !t.Last
	g.last = t.Last
	g.pos, g.place, g.hasPos = t.Position, t.Place, true
	if !t.CommittedAt.IsZero() {
		g.at = t.CommittedAt
	}
	signal(h.filled)
	return nil
}

// fail says why no more will come.
func (h *handoff) fail(err error) {
	h.mu.Lock()
	h.err = err
	h.mu.Unlock()
	signal(h.filled)
}

// take returns what has gathered: at once when it holds events, else when idleC fires and a bare position is there. Once
// nothing is left it returns the error given to fail.
func (h *handoff) take(ctx context.Context, idleC <-chan time.Time) (*gather, error) {
	idle := false
	for {
		h.mu.Lock()
		p := h.pending
		if !p.empty() || idle && p.hasPos {
			h.pending, h.spare = h.spare, nil
			h.inFlight.CompareAndSwap(0, h.filling.Swap(0)) // parts before this one may have set it
			h.mu.Unlock()
			signal(h.drawn)
			return p, nil
		}
		err := h.err
		h.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-h.filled:
		case <-idleC:
			idle = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// giveBack returns a gather whose records are acknowledged.
func (h *handoff) giveBack(g *gather) {
	if g.last {
		h.inFlight.Store(0)
	}
	g.reset()
	h.mu.Lock()
	if h.pending == nil {
		h.pending = g
	} else {
		h.spare = g
	}
	h.mu.Unlock()
	signal(h.drawn)
}

// oldest returns the source's commit time of the oldest transaction that was read and is not in the log; zero when there is none.
func (h *handoff) oldest() time.Time {
	at := h.inFlight.Load()
	if at == 0 {
		at = h.filling.Load()
	}
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

// partsInOrder checks that a source keeps its contract on parts: they come one after the other, the last marked.
type partsInOrder struct {
	inside bool
	next   int
}

func (p *partsInOrder) check(t *outrelay.Txn) error {
	if p.inside && t.Part != p.next || !p.inside && t.Part != 0 && p.next != 0 {
		return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "source-contract", Place: "at " + t.Place,
			Cause: fmt.Sprintf("the source yielded part %d where part %d was due", t.Part, p.next), Fix: "this is a bug of the source: report it"}
	}
	p.inside, p.next = !t.Last, t.Part+1
	if t.Last {
		p.next = 1 // only the very first transaction of a stream may begin inside
	}
	return nil
}
