package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/internal/invariant"
)

// Join handles JoinGroup. The reply, a *kmsg.JoinGroupResponse, comes when the generation begins.
func (c *Coordinator) Join(now time.Time, client Client, req *kmsg.JoinGroupRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errJoin(e, req.MemberID)) }
	session := ms(req.SessionTimeoutMillis)
	switch {
	case !c.loaded:
		refuse(kerr.NotCoordinator)
		return
	case req.Group == "":
		refuse(kerr.InvalidGroupID)
		return
	case session < c.o.SessionTimeoutMin || session > c.o.SessionTimeoutMax:
		refuse(kerr.InvalidSessionTimeout)
		return
	}
	if g := c.consumers[req.Group]; g != nil {
		c.joinConsumer(now, g, client, req, to)
		return
	}
	g := c.group(req.Group)
	if g == nil {
		if req.MemberID != "" {
			refuse(kerr.UnknownMemberID)
			return
		}
		if g = c.groupOrNew(req.Group); g == nil {
			refuse(kerr.CoordinatorNotAvailable)
			return
		}
	}
	switch {
	case g.state == dead:
		refuse(kerr.CoordinatorNotAvailable)
	case !g.supports(req.ProtocolType, req.Protocols):
		refuse(kerr.InconsistentGroupProtocol)
	case req.MemberID == "":
		c.joinNew(now, g, client, req, to)
	default:
		c.joinKnown(now, g, client, req, to)
	}
	g.check()
}

// joinNew handles a join without a member id: a new dynamic member, or a static one that started anew.
func (c *Coordinator) joinNew(now time.Time, g *group, client Client, req *kmsg.JoinGroupRequest, to any) {
	instance := deref(req.InstanceID)
	prefix := client.ID
	if instance != "" {
		prefix = instance
	}
	if old, ok := g.static[instance]; ok && instance != "" {
		id := c.o.NewMemberID(prefix)
		c.takeSeat(now, g, g.byID[old], id, client, req, to)
		return
	}
	if len(g.members)+len(g.pending) >= c.o.MembersMax {
		c.reply(to, errJoin(kerr.GroupMaxSizeReached, req.MemberID))
		return
	}
	id := c.o.NewMemberID(prefix)
	// KIP-394: from v4 a dynamic member first gets its id and joins again with it, so that a client that gave up waiting
	// leaves no member behind.
	if instance == "" && req.Version >= 4 {
		p := &pendingMember{id: id}
		p.session.fire = func(now time.Time) {
			delete(g.pending, id)
			c.maybeCompleteJoin(now, g)
		}
		g.pending[id] = p
		c.timers.set(&p.session, now.Add(ms(req.SessionTimeoutMillis)))
		c.reply(to, errJoin(kerr.MemberIDRequired, id))
		return
	}
	c.admit(now, g, id, client, req, to)
}

// joinKnown handles a join that names a member id.
func (c *Coordinator) joinKnown(now time.Time, g *group, client Client, req *kmsg.JoinGroupRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errJoin(e, req.MemberID)) }
	if p := g.pending[req.MemberID]; p != nil {
		if req.InstanceID != nil {
			refuse(kerr.UnknownMemberID) // ids of pending members are only given to dynamic ones
			return
		}
		c.timers.stop(&p.session)
		delete(g.pending, p.id)
		c.admit(now, g, p.id, client, req, to)
		return
	}
	m, e := g.member(req.MemberID, req.InstanceID)
	if e != nil {
		refuse(e)
		return
	}
	switch g.state {
	case preparing:
		c.rejoin(now, g, m, client, req, to)
	case completing:
		if m.matches(req.Protocols) {
			// The member missed the answer to its join: it gets it again.
			c.answerNow(g, m, to)
			return
		}
		c.rejoin(now, g, m, client, req, to)
	case stable:
		if g.leader == m.id || !m.matches(req.Protocols) {
			// The leader rejoins to have partitions assigned anew (topics changed), a member because its subscription changed.
			c.rejoin(now, g, m, client, req, to)
			return
		}
		c.answerNow(g, m, to)
	default:
		refuse(kerr.UnknownMemberID)
	}
}

// member finds a member by id, and checks the instance id it claims (KIP-345).
func (g *group) member(id string, instance *string) (*member, *kerr.Error) {
	if instance != nil {
		seat, ok := g.static[*instance]
		if !ok {
			return nil, kerr.UnknownMemberID
		}
		if seat != id {
			return nil, kerr.FencedInstanceID
		}
	}
	m := g.byID[id]
	if m == nil {
		return nil, kerr.UnknownMemberID
	}
	return m, nil
}

// admit adds a member and starts, or goes on with, a rebalance.
func (c *Coordinator) admit(now time.Time, g *group, id string, client Client, req *kmsg.JoinGroupRequest, to any) {
	m := &member{
		id: id, instance: deref(req.InstanceID), client: client,
		sessionFor: ms(req.SessionTimeoutMillis), rebalance: rebalanceFor(req),
		protocols: copyProtocols(req.Protocols), isNew: true, joinTo: to, joinVersion: req.Version,
	}
	if len(g.members) == 0 {
		g.protocolType = req.ProtocolType
	}
	c.addMember(g, m)
	// A member in its first join cannot send heartbeats, and its connection is silent: without this limit, clients that gave
	// up would pile up as members.
	c.timers.set(&m.session, now.Add(c.o.NewMemberTimeout))
	if g.initial {
		g.joined = true
	}
	c.rebalanceOrComplete(now, g)
}

// rejoin takes a member's new subscription and starts, or goes on with, a rebalance.
func (c *Coordinator) rejoin(now time.Time, g *group, m *member, client Client, req *kmsg.JoinGroupRequest, to any) {
	c.update(g, m, client, req, to)
	c.rebalanceOrComplete(now, g)
}

func (c *Coordinator) update(g *group, m *member, client Client, req *kmsg.JoinGroupRequest, to any) {
	g.setProtocols(m, copyProtocols(req.Protocols))
	m.client = client
	m.sessionFor, m.rebalance = ms(req.SessionTimeoutMillis), rebalanceFor(req)
	// A join that is still outstanding was given up by its client: its connection is gone or will not read on.
	c.answerJoin(g, m, errJoin(kerr.RebalanceInProgress, m.id))
	m.joinTo, m.joinVersion = to, req.Version
	g.awaiting++
}

// takeSeat lets a static member that lost its member id, since it was restarted, have its old seat (KIP-345): nobody else notices, as long
// as the group is stable and the protocol stays the same.
func (c *Coordinator) takeSeat(now time.Time, g *group, m *member, id string, client Client, req *kmsg.JoinGroupRequest, to any) {
	oldID, oldLeader := m.id, g.leader
	old := *m
	c.replaceStatic(g, m, id)
	c.update(g, m, client, req, to)
	c.heard(now, g, m)
	if g.state != stable || g.choose() != g.protocol {
		if g.state == empty {
			invariant.Check(false, "G3: empty group %q has static member %q", g.name, m.instance)
		}
		c.rebalanceOrComplete(now, g)
		return
	}
	// Durable before the answer: after a restart the new id must be the one that is known, and the old one fenced.
	generation := g.generation
	c.write(groupWrite(g), func(now time.Time, err *kerr.Error) {
		if g.state != stable || g.generation != generation || g.byID[id] != m || m.joinTo == nil {
			return // fenced, removed or in a rebalance meanwhile: answered then or with it
		}
		if err == nil {
			c.answerSeat(now, g, m, oldLeader)
			return
		}
		c.answerJoin(g, m, errJoin(err, id))
		c.replaceStatic(g, m, oldID)
		g.setProtocols(m, old.protocols)
		m.client, m.sessionFor, m.rebalance = old.client, old.sessionFor, old.rebalance
	})
}

// answerSeat tells a static member that it is back in its seat. A leader that knows KIP-814 (v9) is told that it leads and may skip the
// assignment; an older one is told the old leader's id, so that it takes itself for a follower and fetches its assignment.
func (c *Coordinator) answerSeat(now time.Time, g *group, m *member, oldLeader string) {
	r := g.joinAnswer(m)
	if m.joinVersion >= 9 {
		r.SkipAssignment = g.leader == m.id
		if r.SkipAssignment {
			r.Members = g.joinMembers()
		}
	} else {
		r.LeaderID = oldLeader
		r.Members = nil
	}
	c.heard(now, g, m)
	c.answerJoin(g, m, r)
}

// rebalanceOrComplete starts a rebalance, or completes the one under way if everybody is here.
func (c *Coordinator) rebalanceOrComplete(now time.Time, g *group) {
	if g.state == preparing {
		c.maybeCompleteJoin(now, g)
		return
	}
	c.prepare(now, g)
}

// prepare starts a rebalance.
func (c *Coordinator) prepare(now time.Time, g *group) {
	if g.state == completing {
		for _, m := range g.members {
			m.assignment = nil
			c.answerSync(m, errSync(kerr.RebalanceInProgress))
		}
	}
	c.timers.stop(&g.syncing)
	g.storing = false
	fresh := g.state == empty
	g.become(now, preparing)
	if fresh && c.o.InitialRebalanceDelay > 0 {
		g.initial, g.joined = true, false
		g.delayLeft = max(0, g.rebalanceTimeout()-c.o.InitialRebalanceDelay)
		c.timers.set(&g.rebalance, now.Add(c.o.InitialRebalanceDelay))
		return
	}
	c.timers.set(&g.rebalance, now.Add(g.rebalanceTimeout()))
	c.maybeCompleteJoin(now, g)
}

func (c *Coordinator) maybeCompleteJoin(now time.Time, g *group) {
	if g.state == preparing && !g.initial && g.awaiting == len(g.members) && len(g.pending) == 0 {
		c.completeJoin(now, g)
	}
}

// rebalanceTimedOut ends the join phase, or prolongs the initial delay when somebody joined during it.
func (c *Coordinator) rebalanceTimedOut(now time.Time, g *group) {
	if g.initial {
		if g.joined && g.delayLeft > 0 {
			d := min(c.o.InitialRebalanceDelay, g.delayLeft)
			g.joined, g.delayLeft = false, g.delayLeft-d
			c.timers.set(&g.rebalance, now.Add(d))
			return
		}
		g.initial = false
	}
	if g.state == preparing {
		c.completeJoin(now, g)
	}
	g.check()
}

// completeJoin begins the next generation with the members that joined, and drops the dynamic ones that did not. Static members keep
// their seats until their session runs out.
func (c *Coordinator) completeJoin(now time.Time, g *group) {
	for i := len(g.members) - 1; i >= 0; i-- {
		if m := g.members[i]; m.joinTo == nil && m.instance == "" {
			c.removeMember(g, m)
		}
	}
	if len(g.members) > 0 && !g.electJoined() {
		// Only static members, none of which has rejoined: wait until they do or their sessions run out.
		c.timers.set(&g.rebalance, now.Add(g.rebalanceTimeout()))
		return
	}
	c.timers.stop(&g.rebalance)
	g.generation++
	if len(g.members) == 0 {
		g.protocol = ""
		g.become(now, empty)
		c.writeGone(g, notTold)
		return
	}
	g.protocol = g.choose()
	g.become(now, completing)
	for _, m := range g.members {
		if m.synced = m.joinTo == nil; m.synced {
			continue // a static member that is away: its session decides
		}
		m.isNew = false
		c.heard(now, g, m)
		c.answerJoin(g, m, g.joinAnswer(m))
	}
	c.timers.set(&g.syncing, now.Add(g.rebalanceTimeout()))
}

// electJoined makes sure that the leader is one who joined.
func (g *group) electJoined() bool {
	if m := g.byID[g.leader]; m != nil && m.joinTo != nil {
		return true
	}
	for _, m := range g.members {
		if m.joinTo != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

// sessionTimedOut removes a member that was not heard of in time. One that waits for an answer is not away, unless it is in its first join.
func (c *Coordinator) sessionTimedOut(now time.Time, g *group, m *member) {
	if g.byID[m.id] != m || (!m.isNew && (m.joinTo != nil || m.syncTo != nil)) {
		return
	}
	c.dropMember(now, g, m)
	g.check()
}

// dropMember removes a member and lets the group go on without it.
func (c *Coordinator) dropMember(now time.Time, g *group, m *member) {
	c.answerJoin(g, m, errJoin(kerr.UnknownMemberID, m.id))
	c.answerSync(m, errSync(kerr.UnknownMemberID))
	c.removeMember(g, m)
	c.afterLeave(now, g)
	if !m.isNew {
		c.writeGone(g, notTold)
	}
}

func (c *Coordinator) afterLeave(now time.Time, g *group) {
	switch g.state {
	case stable, completing:
		c.prepare(now, g)
	case preparing:
		c.maybeCompleteJoin(now, g)
	}
}

func (c *Coordinator) answerNow(g *group, m *member, to any) {
	c.reply(to, g.joinAnswer(m))
}

func (c *Coordinator) answerJoin(g *group, m *member, r *kmsg.JoinGroupResponse) {
	if m.joinTo == nil {
		return
	}
	c.reply(m.joinTo, r)
	m.joinTo = nil
	g.awaiting--
}

// joinAnswer is the answer to a join in the current generation; only the leader sees the members.
func (g *group) joinAnswer(m *member) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.Generation, r.ProtocolType, r.Protocol = g.generation, kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol)
	r.LeaderID, r.MemberID = g.leader, m.id
	if g.leader == m.id {
		r.Members = g.joinMembers()
	}
	return r
}

func (g *group) joinMembers() []kmsg.JoinGroupResponseMember {
	out := make([]kmsg.JoinGroupResponseMember, len(g.members))
	for i, m := range g.members {
		out[i] = kmsg.JoinGroupResponseMember{MemberID: m.id, InstanceID: orNil(m.instance), ProtocolMetadata: m.metadata(g.protocol)}
	}
	return out
}

func errJoin(e *kerr.Error, memberID string) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.ErrorCode, r.Generation, r.MemberID = code(e), -1, memberID
	return r
}

func rebalanceFor(req *kmsg.JoinGroupRequest) time.Duration {
	if req.Version < 1 || req.RebalanceTimeoutMillis < 0 {
		return ms(req.SessionTimeoutMillis)
	}
	return ms(req.RebalanceTimeoutMillis)
}

// check panics when the group breaks one of its invariants.
func (g *group) check() {
	if g.state == dead {
		return
	}
	waiting := 0
	for _, m := range g.members {
		if m.joinTo != nil {
			waiting++
		}
		invariant.Check(m.syncTo == nil || g.state == completing, "G5: group %q: member %q waits for a sync in %v", g.name, m.id, g.state)
	}
	invariant.Check(waiting == g.awaiting, "G2: group %q: %d wait for a join, counted %d", g.name, waiting, g.awaiting)
	invariant.Check(g.state != empty || len(g.members) == 0, "G3: group %q: empty with %d members", g.name, len(g.members))
	invariant.Check(g.state == empty || g.state == preparing || len(g.members) > 0, "G3: group %q: %v without members", g.name, g.state)
	invariant.Check((g.leader == "") == (len(g.members) == 0) && (g.leader == "" || g.byID[g.leader] != nil), "G4: group %q: leader %q", g.name, g.leader)
}
