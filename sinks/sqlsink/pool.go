// Package sqlsink is what sinks share that apply by SQL and keep offsets in the same database: their connections, the order of their moves, and
// the words for what goes wrong. It knows no protocol and no SQL: those are the sinks' own.
package sqlsink

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed: the sink is closed.
var ErrClosed = errors.New("the sink is closed")

// Conn is a session of a Pool. One goroutine at a time has it.
type Conn interface {
	Dead() bool // whether it is of no more use; known without asking the server
	Close()     // ends it; bounded
}

// Lease is a session in somebody's hands.
type Lease[C Conn] struct {
	Conn C
	lost int // Pool.lost when it was made
}

// Pool holds up to a number of sessions. Its methods may be called concurrently.
type Pool[C Conn] struct {
	open    func(context.Context) (C, error)
	sem     chan struct{} // one token per session in use
	closing chan struct{}

	mu     sync.Mutex // guards what follows
	idle   []*Lease[C]
	lost   int // how often a session broke; sessions from before are not kept
	closed bool
}

// NewPool returns an empty pool of at most connsMax sessions in use, which open makes; open's errors are passed on as they are.
func NewPool[C Conn](connsMax int, open func(context.Context) (C, error)) *Pool[C] {
	return &Pool[C]{open: open, sem: make(chan struct{}, connsMax), closing: make(chan struct{})}
}

// Put adds a session that was made elsewhere, as idle.
func (p *Pool[C]) Put(c C) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, &Lease[C]{Conn: c, lost: p.lost})
}

// Acquire returns an idle session, the one used last, or makes one. It waits while the pool's number is in use. What it returns is to be
// given to Release.
func (p *Pool[C]) Acquire(ctx context.Context) (*Lease[C], error) {
	select {
	case p.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closing:
		return nil, ErrClosed
	}
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		l := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return l, nil
	}
	lost := p.lost
	p.mu.Unlock()
	c, err := p.open(ctx)
	if err != nil {
		<-p.sem
		return nil, err
	}
	return &Lease[C]{Conn: c, lost: lost}, nil
}

// Release gives a session back. A broken one takes the idle ones with it: what cut one has most likely cut all, and
// each would cost a failed batch to find out.
func (p *Pool[C]) Release(l *Lease[C], broken bool) {
	p.mu.Lock()
	if broken {
		p.lost++
	}
	drop := []*Lease[C]{l}
	if !broken && l.lost == p.lost && !p.closed && !l.Conn.Dead() {
		p.idle = append(p.idle, l)
		drop = nil
	}
	if broken || p.closed {
		drop = append(drop, p.idle...)
		p.idle = nil
	}
	p.mu.Unlock()
	<-p.sem
	for _, d := range drop {
		d.Conn.Close()
	}
}

// With runs f on a session. A session that turns out to be dead is replaced once: it may have been idle while the server
// was restarted.
func (p *Pool[C]) With(ctx context.Context, f func(C) error) error {
	for attempt := 0; ; attempt++ {
		l, err := p.Acquire(ctx)
		if err != nil {
			return err
		}
		err = f(l.Conn)
		broken := l.Conn.Dead()
		p.Release(l, broken)
		if err == nil || !broken || attempt > 0 || ctx.Err() != nil {
			return err
		}
	}
}

// Close closes the idle sessions, and those in use when they are given back. A second call is harmless.
func (p *Pool[C]) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	if !p.closed {
		p.closed = true
		close(p.closing)
	}
	p.mu.Unlock()
	for _, l := range idle {
		l.Conn.Close()
	}
}
