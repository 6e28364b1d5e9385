package broker

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/replica"
)

// core is what the group and the transaction coordinator have in common.
type core[E any] interface {
	Loaded() bool
	Unload(now time.Time)
	Tick(now time.Time)
	NextDeadline() (time.Time, bool)
	Take() E
}

// coordShard runs the coordinator of one partition of an internal topic: it gives the pure core its lock, its time and its lead, and carries
// out its effects.
//
// mu covers the core alone and is never held while an effect is carried out: proposing may apply entries of this very partition, and
// their observer takes mu. Effects go out in the order in which they were decided, by whoever comes first and finds nobody at it.
type coordShard[E any, C core[E]] struct {
	s     *Server
	topic string
	index int32
	load  func(c C, now time.Time, epoch int32)
	send  func(e E) // carries out effects; must not block

	mu      sync.Mutex
	core    C
	epoch   int32 // of the lead that the core was loaded for
	closed  bool
	out     []E  // effects not yet carried out, in order
	sending bool // somebody carries them out
}

// do calls f with the core, loaded if this node leads the partition, and carries out what follows.
func (sh *coordShard[E, C]) do(f func(now time.Time, c C)) {
	now := sh.s.clock.Now()
	sh.mu.Lock()
	sh.lead(now)
	f(now, sh.core)
	sh.flush()
}

// lead loads or unloads the core as the partition's lead came or went. Called with mu held.
func (sh *coordShard[E, C]) lead(now time.Time) {
	epoch, leads := sh.leader()
	if sh.core.Loaded() && (!leads || epoch != sh.epoch) {
		sh.core.Unload(now)
	}
	if leads && !sh.core.Loaded() && !sh.closed {
		sh.epoch = epoch
		sh.load(sh.core, now, epoch)
	}
}

func (sh *coordShard[E, C]) leader() (epoch int32, leads bool) {
	p, err := sh.s.lookup(sh.topic, sh.index)
	if err != nil {
		return 0, false
	}
	return sh.s.node.Leader(p.group)
}

// flush carries out the core's effects. Called with mu held; returns without it.
func (sh *coordShard[E, C]) flush() {
	sh.out = append(sh.out, sh.core.Take())
	next, timed := sh.core.NextDeadline()
	if sh.sending {
		sh.mu.Unlock()
		return
	}
	sh.sending = true
	for len(sh.out) > 0 {
		sh.mu.Unlock()
		sh.s.together(sh.sendSome)
		sh.mu.Lock()
	}
	sh.sending = false
	sh.mu.Unlock()
	if timed {
		sh.s.ticker.want(next)
	}
}

// sendSome carries out what was decided so far, and what that made possible: a decision that has its place in the log sends markers, which
// then share its sync.
func (sh *coordShard[E, C]) sendSome() {
	for range 2 {
		sh.mu.Lock()
		out := sh.out
		sh.out = nil
		sh.mu.Unlock()
		for _, e := range out {
			sh.send(e)
		}
	}
}

// together is replica.Node.Together, also for a server whose storage did not open.
func (s *Server) together(fn func()) {
	if s.node == nil {
		fn()
		return
	}
	s.node.Together(fn)
}

// tick does what is due and returns when the next thing is.
func (sh *coordShard[E, C]) tick() (next time.Time, ok bool) {
	sh.do(func(now time.Time, c C) {
		c.Tick(now)
		next, ok = c.NextDeadline()
	})
	return next, ok
}

// close answers whoever waits, and coordinates no more.
func (sh *coordShard[E, C]) close() {
	now := sh.s.clock.Now()
	sh.mu.Lock()
	sh.closed = true
	sh.core.Unload(now)
	sh.flush()
}

// wrote hands the outcome of a write to the core. When the lead is in doubt the core starts anew from what was applied: the
// write may or may not come yet.
func (sh *coordShard[E, C]) wrote(r replica.ProduceResult, written func(now time.Time, c C, err *kerr.Error)) {
	var err *kerr.Error
	if r.Err != nil {
		err = kafkaError(r.Err)
	}
	sh.do(func(now time.Time, c C) {
		written(now, c, err)
		if err == kerr.NotLeaderForPartition {
			c.Unload(now)
		}
	})
}

// tickEvery is the longest time between two looks at the coordinators, tickFloor the shortest.
const (
	tickEvery = 5 * time.Second
	tickFloor = 5 * time.Millisecond
)

// coordTicker wakes the coordinators when something is due.
type coordTicker struct {
	mu   sync.Mutex
	at   time.Time     // when it looks next
	wake chan struct{} // at came nearer
}

// want makes sure that the coordinators are looked at no later than t.
func (tk *coordTicker) want(t time.Time) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	if !t.Before(tk.at) {
		return
	}
	tk.at = t
	select {
	case tk.wake <- struct{}{}:
	default:
	}
}

func (tk *coordTicker) set(at time.Time) {
	tk.mu.Lock()
	tk.at = at
	tk.mu.Unlock()
}

func (tk *coordTicker) until(now time.Time) time.Duration {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	return tk.at.Sub(now)
}

// runTicker ticks the coordinators until the server closes.
func (s *Server) runTicker() {
	for {
		now := s.clock.Now()
		s.ticker.set(now.Add(tickEvery))
		soonest := now.Add(tickEvery)
		for _, tick := range s.ticks {
			if next, ok := tick(); ok && next.Before(soonest) {
				soonest = next
			}
		}
		if floor := now.Add(tickFloor); soonest.Before(floor) {
			soonest = floor // what is due again and again does not keep a core busy
		}
		s.ticker.set(soonest)
		if !s.sleepTicker() {
			return
		}
	}
}

// sleepTicker sleeps until the coordinators want to be looked at; false when the server closes.
func (s *Server) sleepTicker() bool {
	for {
		wait := s.ticker.until(s.clock.Now())
		if wait <= 0 {
			return true
		}
		t := s.clock.NewTimer(wait)
		select {
		case <-t.C():
			return true
		case <-s.ticker.wake:
			t.Stop()
		case <-s.ctx.Done():
			t.Stop()
			return false
		}
	}
}
