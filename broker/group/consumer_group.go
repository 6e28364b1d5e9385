package group

import (
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// consumerGroup is what only the leader knows of a consumer group (KIP-848), on top of what the log says of it.
//
// A group takes one step at a time: a request is decided on what was applied, and while its records are being written the requests after it
// wait. So nothing is decided on what may yet fail, a failed write leaves nothing to undo, and after a restart the group is where its
// last answer left it.
type consumerGroup struct {
	name    string
	writing bool
	turns   []turn                    // in order of arrival; bounded by what connections may pipeline
	seats   map[string]*consumerSeat  // by member id
	pending map[string]*pendingMember // classic members that got an id and did not join yet (KIP-394)
	from    *consumerState            // the classic group that it was until now, not written yet as a consumer group; nil otherwise
	seen    uint64                    // version of the metadata that the group's hash stands for
	matches map[string]*regexp.Regexp
}

// turn is a request, or a timeout, that waits for the step before it.
type turn struct {
	run    func(now time.Time)
	refuse func(e *kerr.Error) // answers when there will be no turn
}

// consumerSeat holds the timers of one member.
type consumerSeat struct {
	session   timer // it is fenced when nothing was heard of it for so long
	rebalance timer // it is fenced when it has not revoked, or, a classic member, not joined again by then
	sync      timer // a classic member is fenced when it has not asked for its assignment by then
}

func (c *Coordinator) newConsumerGroup(name string) *consumerGroup {
	g := &consumerGroup{name: name, seats: map[string]*consumerSeat{}, pending: map[string]*pendingMember{}, matches: map[string]*regexp.Regexp{}}
	c.consumers[name] = g
	return g
}

// restoreConsumer begins to coordinate a group that the store has. Its members have one session from now to be heard of.
func (c *Coordinator) restoreConsumer(now time.Time, name string) {
	g := c.newConsumerGroup(name)
	s := c.store.groups[name].consumer
	for _, id := range s.ids() {
		c.heardConsumer(now, g, s.members[id])
		c.timeRevocation(now, g, s.members[id])
	}
}

// stored is what the log says of the group; an empty state when it says nothing.
func (c *Coordinator) stored(name string) *consumerState {
	if g := c.consumers[name]; g != nil && g.from != nil {
		return g.from
	}
	if sg := c.store.groups[name]; sg != nil && sg.consumer != nil {
		return sg.consumer
	}
	return newConsumerState()
}

// await lets a request wait for its turn; false when its turn is now.
func (g *consumerGroup) await(t turn) bool {
	if g.writing {
		g.turns = append(g.turns, t)
	}
	return g.writing
}

// step writes records of a group and then lets the next in line have its turn. Without records then runs at once.
func (c *Coordinator) step(now time.Time, g *consumerGroup, recs []Record, then func(now time.Time, err *kerr.Error)) {
	if len(recs) == 0 {
		then(now, nil)
		return
	}
	g.writing = true
	c.write(Write{Records: recs, ProducerID: -1, ProducerEpoch: -1}, func(now time.Time, err *kerr.Error) {
		g.writing = false
		if err == nil {
			g.from = nil
			c.checkConsumer(g)
		}
		then(now, err)
		c.settle(now, g)
		c.nextTurn(now, g)
	})
}

// settle brings the group in memory in line with what the log says after a write: who is in the group has a session, who is not has no timers,
// and a group that is no consumer group, by the log, is forgotten as one.
func (c *Coordinator) settle(now time.Time, g *consumerGroup) {
	if c.consumers[g.name] != g || !c.loaded {
		return
	}
	sg := c.store.groups[g.name]
	is := sg != nil && sg.consumer != nil
	s := newConsumerState()
	if is {
		s = sg.consumer
	}
	for id, seat := range g.seats {
		if s.members[id] == nil {
			c.timers.stop(&seat.session)
			c.timers.stop(&seat.rebalance)
			c.timers.stop(&seat.sync)
			delete(g.seats, id)
		}
	}
	for _, id := range s.ids() {
		if g.seats[id] == nil {
			c.heardConsumer(now, g, s.members[id])
		}
	}
	if !is {
		delete(c.consumers, g.name)
		for _, p := range g.pending {
			c.timers.stop(&p.session)
		}
		if sg != nil {
			c.groups[g.name] = c.restoreGroup(now, g.name, sg.meta) // it was converted, its offsets are still there, or the conversion failed
		}
	}
}

// nextTurn lets those who wait have their turn, until one of them writes.
func (c *Coordinator) nextTurn(now time.Time, g *consumerGroup) {
	for len(g.turns) > 0 && !g.writing && c.loaded {
		t := g.turns[0]
		g.turns = g.turns[1:]
		t.run(now)
	}
}

// refuseTurns answers those who wait.
func (g *consumerGroup) refuseTurns(e *kerr.Error) {
	turns := g.turns
	g.turns = nil
	for _, t := range turns {
		t.refuse(e)
	}
}

func (g *consumerGroup) seat(id string) *consumerSeat {
	s := g.seats[id]
	if s == nil {
		s = &consumerSeat{}
		g.seats[id] = s
	}
	return s
}

// heardConsumer gives m a whole session from now.
func (c *Coordinator) heardConsumer(now time.Time, g *consumerGroup, m *consumerMember) {
	session, _ := c.o.Consumer.Times(g.name)
	if m.classic != nil {
		session = m.classic.session
	}
	t := &g.seat(m.id).session
	id := m.id
	t.fire = func(now time.Time) { c.consumerTimedOut(now, g, id, t, nil) }
	c.timers.set(t, now.Add(session))
}

// timeRevocation limits how long m may take to revoke partitions: others wait for them.
func (c *Coordinator) timeRevocation(now time.Time, g *consumerGroup, m *consumerMember) {
	t := &g.seat(m.id).rebalance
	if m.classic != nil {
		return // limited by its joins
	}
	if m.state != memberUnrevoked {
		c.timers.stop(t)
		return
	}
	id, epoch := m.id, m.epoch
	t.fire = func(now time.Time) {
		c.consumerTimedOut(now, g, id, t, func(m *consumerMember) bool { return m.state == memberUnrevoked && m.epoch == epoch })
	}
	c.timers.set(t, now.Add(m.rebalance))
}

// consumerTimedOut fences a member whose timer t has run out, unless it was set again or overdue says otherwise when the turn comes.
func (c *Coordinator) consumerTimedOut(now time.Time, g *consumerGroup, id string, t *timer, overdue func(*consumerMember) bool) {
	if c.consumers[g.name] != g || t.index > 0 {
		return
	}
	if g.await(turn{
		run:    func(now time.Time) { c.consumerTimedOut(now, g, id, t, overdue) },
		refuse: func(*kerr.Error) {},
	}) {
		return
	}
	m := c.stored(g.name).members[id]
	if m == nil || overdue != nil && !overdue(m) {
		return
	}
	c.fenceConsumer(now, g, func(now time.Time, err *kerr.Error) {
		if err != nil && c.loaded {
			_, heartbeat := c.o.Consumer.Times(g.name)
			c.timers.set(t, now.Add(heartbeat)) // the log could not take it: again later
		}
	}, m)
}

// fenceConsumer takes members out. When the last of the consumer protocol is among them, the group becomes a classic one, which rebalances.
func (c *Coordinator) fenceConsumer(now time.Time, g *consumerGroup, then func(now time.Time, err *kerr.Error), members ...*consumerMember) {
	p := c.newPlan(g)
	mixed := false
	for _, m := range members {
		p.remove(m)
		mixed = mixed || m.classic == nil
	}
	if mixed && p.now.allClassic() && len(p.now.members) <= c.o.MembersMax {
		p.toClassic()
		g.turns = append([]turn{{
			run:    func(now time.Time) { c.rebalanceConverted(now, g.name) },
			refuse: func(*kerr.Error) {},
		}}, g.turns...)
	} else {
		p.bump()
	}
	c.step(now, g, p.records, then)
}

// check panics when what the log says of the group breaks an invariant.
func (c *Coordinator) checkConsumer(g *consumerGroup) {
	if b := c.stored(g.name).broken(); b != "" {
		panic("BUG: consumer group " + g.name + ": " + b)
	}
}
