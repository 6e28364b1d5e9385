package wal

import (
	"log/slog"
	"sync"
)

// Batch is what one Submit makes durable, in one sync. A Batch without records is a barrier: it is done when all submitted before it is.
type Batch struct {
	Records []Record
	// Done is called once, from the committer's goroutine, in the order of the Submits: with the positions of Records when they are durable, or with an error that wraps
	// ErrPoisoned (the process must exit), ErrTooLarge or ErrInvalid (this batch alone was refused). pos is valid until it returns. It must not block, and must
	// not call Submit: the next sync waits for it. Nil is allowed.
	Done func(pos []Pos, err error)
}

// CommitterOptions configures a Committer. The zero value works.
type CommitterOptions struct {
	// QueueBytesMax is how many bytes may be submitted and not yet done; beyond it Submit blocks. A larger batch is taken when nothing else is there. Default 16 MiB.
	QueueBytesMax int64
	Logger        *slog.Logger
}

// Committer makes batches of many callers durable together: group commit without timers. While one sync is on its way, what is submitted gathers, already encoded, for the next one:
// a lone caller waits for no one, and a thousand share a sync.
type Committer struct {
	w   *WAL
	o   CommitterOptions
	end sync.WaitGroup
	// prepare wakes the goroutine that prepares spare files; it holds one wake-up.
	prepare chan struct{}

	mu     sync.Mutex // before WAL.mu
	work   sync.Cond  // something was submitted, or closed
	room   sync.Cond  // bytes went down, or closed
	next   round      // guarded by mu
	bytes  int64      // guarded by mu; submitted and not done
	closed bool       // guarded by mu

	plugs, unplugs, blocked int // guarded by mu; plugs that hold, plugs that went, callers that wait for room
}

// round is what one sync makes durable.
type round struct {
	items []item
	pos   []Pos
	bytes int64
}

type item struct {
	done     func([]Pos, error)
	from, to int // of round.pos
	err      error
}

// NewCommitter starts a committer. It is the only user of w's Append and Sync until Close.
func NewCommitter(w *WAL, o CommitterOptions) *Committer {
	if o.QueueBytesMax <= 0 {
		o.QueueBytesMax = 16 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Committer{w: w, o: o, prepare: make(chan struct{}, 1)}
	c.work.L, c.room.L = &c.mu, &c.mu
	c.end.Go(c.run)
	c.end.Go(c.prepareSpares)
	return c
}

// Submit queues b and returns; b.Records is the caller's again, the payloads must not change until b is done. It blocks while the queue is full. It may be called concurrently; what one goroutine
// submits is done in that order. After Close, Done is called at once with ErrClosed, from the caller's goroutine.
func (c *Committer) Submit(b Batch) {
	size := int64(0)
	for i := range b.Records {
		size += sizeOf(len(b.Records[i].Payload))
	}
	c.mu.Lock()
	for !c.closed && c.bytes > 0 && c.bytes+size > c.o.QueueBytesMax {
		c.blocked++
		c.work.Signal() // a plug gives way to a full queue
		c.room.Wait()
		c.blocked--
	}
	if c.closed {
		c.mu.Unlock()
		if b.Done != nil {
			b.Done(nil, ErrClosed)
		}
		return
	}
	defer c.mu.Unlock()
	from := len(c.next.pos)
	var err error
	c.next.pos, err = c.w.AppendTo(c.next.pos, b.Records...)
	c.next.items = append(c.next.items, item{done: b.Done, from: from, to: len(c.next.pos), err: err})
	c.next.bytes += size
	c.bytes += size
	if c.plugs == 0 {
		c.work.Signal() // else Unplug does
	}
}

// Plug holds the next sync back until Unplug, so that what is submitted meanwhile shares it: the first of several batches would otherwise set off alone and
// let the others wait for its sync and theirs. It is for a caller who has the batches at hand: it must Unplug soon, and not wait for a batch to be done before. It
// may be called concurrently. A sync that is due waits for as many Unplugs as there were plugs then, so that plugs one after the other do not put it off for ever, and
// not while the queue is full.
func (c *Committer) Plug() {
	c.mu.Lock()
	c.plugs++
	c.mu.Unlock()
}

// Unplug undoes one Plug.
func (c *Committer) Unplug() {
	c.mu.Lock()
	c.plugs--
	c.unplugs++
	if len(c.next.items) > 0 {
		c.work.Signal()
	}
	c.mu.Unlock()
}

func (c *Committer) run() {
	defer close(c.prepare)
	var r round
	for c.take(&r) {
		err := c.w.Sync()
		for i := range r.items {
			it := &r.items[i]
			if it.done == nil {
				continue
			}
			switch {
			case it.err != nil:
				it.done(nil, it.err)
			case err != nil:
				it.done(nil, err)
			default:
				it.done(r.pos[it.from:it.to:it.to], nil)
			}
		}
		if err == nil && c.w.SpareWanted() {
			select {
			case c.prepare <- struct{}{}:
			default:
			}
		}
	}
}

// take ends the round r and waits for the next one; false when the committer was closed and all is done.
func (c *Committer) take(r *round) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes -= r.bytes
	c.room.Broadcast()
	clear(r.items) // let go of what Done holds
	for len(c.next.items) == 0 {
		if c.closed {
			return false
		}
		c.work.Wait()
	}
	for due := c.unplugs + c.plugs; c.plugs > 0 && c.unplugs < due && c.blocked == 0 && !c.closed; {
		c.work.Wait()
	}
	*r, c.next = c.next, round{items: r.items[:0], pos: r.pos[:0]}
	return true
}

func (c *Committer) prepareSpares() {
	for range c.prepare {
		for more := true; more && !c.isClosed(); {
			var err error
			if more, err = c.w.Prepare(); err != nil {
				c.o.Logger.Warn("write-ahead log: no spare file, the next one will grow as it is written", "err", err)
			}
		}
	}
}

func (c *Committer) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close refuses new batches, waits until those submitted are done, and ends the goroutines. It does not close the WAL. A second call does nothing.
func (c *Committer) Close() {
	c.mu.Lock()
	c.closed = true
	c.work.Broadcast()
	c.room.Broadcast()
	c.mu.Unlock()
	c.end.Wait()
}
