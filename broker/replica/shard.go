package replica

import (
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/failpoint"
)

// shard owns some of the node's groups: everything that touches them runs in its rounds, one round at a time.
//
// A round is driven by the shard's own goroutine, or by a proposer that finds the shard idle: that spares a proposal made alone one
// hand-over between goroutines. Whoever set busy drives; mu guards inbox and busy alone and is never held during a round.
type shard struct {
	n *Node

	mu    sync.Mutex
	inbox []event
	busy  bool
	wake  chan struct{} // cap 1

	// Owned by the driver.
	spare  []event
	groups map[GroupID]*group
	active []*group // to pump in this round
	fx     effects
	// A round on the committer's goroutine may not submit: its writes wait here for the next round.
	onCommitter bool
	deferred    []*write
}

// event is one thing to do in a round. Exactly one of its kinds is set.
type event struct {
	// A proposal: p. A message: msg.
	g   GroupID
	p   proposal
	msg *pb.Message

	// Writes that became durable, or did not.
	writes []*write
	pos    []wal.Pos
	err    error

	call func(s *shard)
	tick bool
}

func newShard(n *Node) *shard {
	return &shard{n: n, wake: make(chan struct{}, 1), groups: map[GroupID]*group{}}
}

// push queues ev. With inline set the caller drives one round itself when nobody else does; it must not be the committer.
func (s *shard) push(ev event, inline bool) {
	s.mu.Lock()
	s.inbox = append(s.inbox, ev)
	if s.busy {
		s.mu.Unlock()
		return
	}
	if !inline || s.n.o.Manual {
		s.mu.Unlock()
		s.signal()
		return
	}
	s.busy = true
	evs := s.take()
	s.mu.Unlock()
	s.round(evs)
	s.mu.Lock()
	s.busy = false
	more := len(s.inbox) > 0
	s.mu.Unlock()
	if more {
		s.signal()
	}
}

// deliver queues the news of a sync, on the committer's goroutine. When one proposal is all that the node has in flight, nobody waits for the
// committer, and it drives the round itself: the answer then goes out without another goroutine being woken.
func (s *shard) deliver(ev event) {
	s.mu.Lock()
	if s.busy || len(s.inbox) > 0 || s.n.o.Manual || s.n.proposals.Load() > 1 {
		s.inbox = append(s.inbox, ev)
		s.mu.Unlock()
		s.signal()
		return
	}
	s.busy = true
	s.mu.Unlock()
	s.onCommitter = true
	s.round([]event{ev})
	s.onCommitter = false
	s.mu.Lock()
	more := len(s.inbox) > 0 || len(s.deferred) > 0
	s.busy = false
	s.mu.Unlock()
	if more {
		s.signal()
	}
}

func (s *shard) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take swaps the inbox for an empty one. Called with mu held, by the driver.
func (s *shard) take() []event {
	evs := s.inbox
	s.inbox = s.spare[:0]
	s.spare = nil
	return evs
}

// run is the shard's goroutine.
func (s *shard) run(stop <-chan struct{}) {
	for {
		select {
		case <-s.wake:
			s.drive()
		case <-stop:
			return
		}
	}
}

// drive runs rounds until nothing is queued, and reports whether it ran any. It gives way to another driver, who looks at the inbox
// again before leaving.
func (s *shard) drive() bool {
	s.mu.Lock()
	if s.busy || len(s.inbox) == 0 && len(s.deferred) == 0 {
		s.mu.Unlock()
		return false
	}
	s.busy = true
	for len(s.inbox) > 0 || len(s.deferred) > 0 {
		evs := s.take()
		s.mu.Unlock()
		s.round(evs)
		s.mu.Lock()
	}
	s.busy = false
	s.mu.Unlock()
	return true
}

func (s *shard) round(evs []event) {
	if !s.onCommitter && len(s.deferred) > 0 {
		s.fx.writes = append(s.fx.writes, s.deferred...)
		s.deferred = nil
		s.submit()
	}
	for i := range evs {
		s.handle(&evs[i])
	}
	clear(evs)
	if s.spare == nil {
		s.spare = evs[:0]
	}
	for len(s.active) > 0 || len(s.fx.completions) > 0 {
		s.advance()
	}
}

func (s *shard) handle(ev *event) {
	switch {
	case ev.call != nil:
		ev.call(s)
	case ev.writes != nil:
		s.durable(ev)
	case ev.tick:
		for _, g := range s.groups {
			if !g.single {
				g.rn.Tick()
				s.touch(g)
			}
		}
	case ev.msg != nil:
		if g := s.groups[ev.g]; g != nil {
			g.step(ev.msg)
			s.touch(g)
		}
	default:
		s.propose(ev)
	}
}

func (s *shard) propose(ev *event) {
	g := s.groups[ev.g]
	switch {
	case s.n.failed():
		s.fx.complete(ev.p, nil, ErrClosed)
	case g == nil:
		s.fx.complete(ev.p, nil, ErrUnknownGroup)
	default:
		g.propose(ev.p, &s.fx)
		s.touch(g)
	}
}

func (s *shard) durable(ev *event) {
	if ev.err != nil || s.n.failed() {
		if ev.err != nil {
			s.n.fail(ev.err)
		}
		s.abandonAll()
		return
	}
	pos := ev.pos
	for _, w := range ev.writes {
		p := pos
		if pos != nil {
			p, pos = pos[:len(w.records)], pos[len(w.records):]
		}
		if !w.g.removed {
			w.g.durable(w, p, &s.fx)
			s.touch(w.g)
		}
	}
}

func (s *shard) abandonAll() {
	for _, g := range s.groups {
		g.abandon(ErrClosed, &s.fx)
	}
}

// touch makes the round pump g.
func (s *shard) touch(g *group) {
	if !g.queued {
		g.queued = true
		s.active = append(s.active, g)
	}
}

// advance pumps the active groups, hands their writes to the committer before anything is applied, so that the disk works
// meanwhile, then applies and answers.
func (s *shard) advance() {
	fx := &s.fx
	for _, g := range s.active {
		g.queued = false
		if !g.removed {
			g.pump(fx)
		}
	}
	clear(s.active)
	s.active = s.active[:0]
	s.submit()
	s.send()
	for i, a := range fx.applies {
		fx.applies[i] = apply{}
		if a.g.removed || fx.fatal != nil {
			continue
		}
		a.g.apply(a.m, fx)
		if a.g.onUp != nil && a.g.up() {
			a.g.onUp()
			a.g.onUp = nil
		}
		s.touch(a.g)
	}
	fx.applies = fx.applies[:0]
	s.answer()
	if fx.fatal != nil {
		s.n.fail(fx.fatal)
		fx.fatal = nil
		s.abandonAll()
		clear(s.active)
		s.active = s.active[:0]
		s.answer()
	}
}

// submit hands the round's writes to the committer as one batch.
func (s *shard) submit() {
	if len(s.fx.writes) == 0 {
		return
	}
	if s.onCommitter {
		s.deferred = append(s.deferred, s.fx.writes...)
		clear(s.fx.writes)
		s.fx.writes = s.fx.writes[:0]
		return
	}
	writes := append([]*write(nil), s.fx.writes...)
	clear(s.fx.writes)
	s.fx.writes = s.fx.writes[:0]
	n := 0
	for _, w := range writes {
		n += len(w.records)
	}
	recs := make([]wal.Record, 0, n)
	for _, w := range writes {
		recs = append(recs, w.records...)
	}
	if failpoint.Bug("wal-not-synced") {
		s.push(event{writes: writes}, false)
		s.n.hold(wal.Batch{Records: recs, Done: func([]wal.Pos, error) {}})
		return
	}
	s.n.submit(wal.Batch{Records: recs, Done: func(pos []wal.Pos, err error) {
		ev := event{writes: writes, err: err}
		if err == nil {
			ev.pos = append([]wal.Pos(nil), pos...)
		}
		var last wal.Pos
		if len(ev.pos) > 0 {
			last = ev.pos[len(ev.pos)-1]
		}
		s.deliver(ev)
		if last != (wal.Pos{}) {
			s.n.synced(last) // only now: the shard knows of it, or will before whoever asks it next
		}
	}})
	for _, w := range writes {
		for _, placed := range w.placed {
			placed()
		}
	}
}

func (s *shard) send() {
	for i, m := range s.fx.messages {
		if s.n.o.send != nil {
			s.n.o.send(m.g, m.m)
		}
		s.fx.messages[i] = outMessage{}
	}
	s.fx.messages = s.fx.messages[:0]
}

func (s *shard) answer() {
	for i := 0; i < len(s.fx.completions); i++ { // done may not add: it queues events
		c := s.fx.completions[i]
		s.fx.completions[i] = completion{}
		c.done(c.result, c.err)
		s.n.finished(c.bytes)
	}
	s.fx.completions = s.fx.completions[:0]
}
