// Package run starts, supervises and stops the long-running parts of a process. It never restarts a part that failed for a reason
// that waiting does not mend.
package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Service is a part of the process that runs until it is told to stop.
type Service struct {
	Name string
	// Run blocks until ctx ends (then returns nil or ctx's error) or the part fails.
	Run func(ctx context.Context) error
}

// Group runs services and stops them in the reverse order of their start. The first that fails stops the rest.
// The zero value is not usable; use New.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex // guards services and stopped
	services []*running
	stopped  bool
}

type running struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a group whose services end when ctx does.
func New(ctx context.Context) *Group {
	c, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: c, cancel: cancel}
}

// Start runs s in a goroutine that the group waits for. It does nothing once Stop was called.
func (g *Group) Start(s Service) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	// A service's own context is not derived from the group's: on a failure or a signal, services still end one by one, last first.
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.ctx))
	r := &running{name: s.Name, cancel: cancel, done: make(chan struct{})}
	g.services = append(g.services, r)
	go func() {
		defer close(r.done)
		err := s.Run(ctx)
		switch {
		case err != nil && !errors.Is(err, context.Canceled):
			g.cancel(fmt.Errorf("%s: %w", s.Name, err))
		case ctx.Err() == nil:
			g.cancel(fmt.Errorf("%s: ended by itself: %w", s.Name, ErrEnded))
		}
	}()
}

// ErrEnded: a service returned without an error though nobody had asked it to stop.
var ErrEnded = errors.New("service ended")

// Wait blocks until the group's context ends or a service fails, and returns the cause; nil when the context was cancelled.
func (g *Group) Wait() error {
	<-g.ctx.Done()
	if err := context.Cause(g.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Stop ends the services, the last started first, waiting for each; all of them share the grace. It returns the names of those that
// were still running when the grace was over. A second call is harmless and returns nothing.
func (g *Group) Stop(grace time.Duration) (late []string) {
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return nil
	}
	g.stopped = true
	services := g.services
	g.mu.Unlock()
	g.cancel(context.Canceled)
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	expired := false
	for i := len(services) - 1; i >= 0; i-- {
		services[i].cancel()
		if expired {
			continue
		}
		select {
		case <-services[i].done:
		case <-deadline.C:
			expired = true
		}
	}
	for _, s := range services {
		select {
		case <-s.done:
		default:
			late = append(late, s.name)
		}
	}
	return late
}
