package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Sync handles SyncGroup. The reply, a *kmsg.SyncGroupResponse, comes when the leader's assignment is durable.
func (c *Coordinator) Sync(now time.Time, req *kmsg.SyncGroupRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errSync(e)) }
	if !c.loaded {
		refuse(kerr.NotCoordinator)
		return
	}
	if req.Group == "" {
		refuse(kerr.InvalidGroupID)
		return
	}
	if g := c.consumers[req.Group]; g != nil {
		if !g.await(turn{run: func(now time.Time) { c.Sync(now, req, to) }, refuse: refuse}) {
			c.syncConsumer(now, g, req, to)
		}
		return
	}
	g := c.group(req.Group)
	if g == nil {
		refuse(kerr.UnknownMemberID)
		return
	}
	m, e := g.member(req.MemberID, req.InstanceID)
	switch {
	case e != nil:
		refuse(e)
	case req.Generation != g.generation:
		refuse(kerr.IllegalGeneration)
	case req.ProtocolType != nil && *req.ProtocolType != g.protocolType, req.Protocol != nil && *req.Protocol != g.protocol:
		refuse(kerr.InconsistentGroupProtocol) // KIP-559
	case g.state == preparing:
		refuse(kerr.RebalanceInProgress)
	case g.state == stable:
		c.heard(now, g, m)
		m.synced = true
		c.maybeStopSyncing(g)
		c.reply(to, g.syncAnswer(m))
	case g.state == completing:
		c.answerSync(m, errSync(kerr.RebalanceInProgress)) // an older one that its client gave up
		m.syncTo, m.synced = to, true
		if m.id == g.leader {
			c.assign(now, g, req.GroupAssignment)
		}
	default:
		refuse(kerr.UnknownMemberID)
	}
	g.check()
}

// assign takes the leader's assignment. It is handed out when it is durable: otherwise a restart could make members of an older
// generation believe in partitions that a newer one gave away.
func (c *Coordinator) assign(now time.Time, g *group, as []kmsg.SyncGroupRequestGroupAssignment) {
	if g.storing {
		return
	}
	byID := make(map[string][]byte, len(as))
	for _, a := range as {
		byID[a.MemberID] = a.MemberAssignment
	}
	for _, m := range g.members {
		m.assignment = append([]byte{}, byID[m.id]...)
	}
	g.storing = true
	generation := g.generation
	c.write(groupWrite(g), func(now time.Time, err *kerr.Error) {
		if g.state != completing || g.generation != generation {
			return // a rebalance came between; everybody was told
		}
		g.storing = false
		if err != nil {
			for _, m := range g.members {
				m.assignment = nil
				c.answerSync(m, errSync(err))
			}
			c.prepare(now, g)
			return
		}
		g.become(now, stable)
		for _, m := range g.members {
			if m.syncTo != nil {
				c.heard(now, g, m)
				c.answerSync(m, g.syncAnswer(m))
			}
		}
		c.maybeStopSyncing(g)
	})
}

// maybeStopSyncing stops the limit on syncing when all members have synced.
func (c *Coordinator) maybeStopSyncing(g *group) {
	if !slices.ContainsFunc(g.members, func(m *member) bool { return !m.synced }) {
		c.timers.stop(&g.syncing)
	}
}

// syncTimedOut removes the members that joined the generation and did not ask for their assignment within the rebalance timeout.
func (c *Coordinator) syncTimedOut(now time.Time, g *group) {
	if g.state != completing && g.state != stable {
		return
	}
	dropped := false
	for _, m := range slices.Clone(g.members) {
		if !m.synced {
			c.answerJoin(g, m, errJoin(kerr.UnknownMemberID, m.id))
			c.removeMember(g, m)
			dropped = true
		}
	}
	if dropped {
		c.prepare(now, g)
		c.writeGone(g, notTold)
	}
	g.check()
}

// Heartbeat handles Heartbeat. The reply is a *kmsg.HeartbeatResponse.
func (c *Coordinator) Heartbeat(now time.Time, req *kmsg.HeartbeatRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errHeartbeat(e)) }
	if g := c.consumers[req.Group]; g != nil && g.await(turn{run: func(now time.Time) { c.Heartbeat(now, req, to) }, refuse: refuse}) {
		return
	}
	refuse(c.heartbeat(now, req))
}

func errHeartbeat(e *kerr.Error) *kmsg.HeartbeatResponse {
	r := kmsg.NewPtrHeartbeatResponse()
	r.ErrorCode = code(e)
	return r
}

func (c *Coordinator) heartbeat(now time.Time, req *kmsg.HeartbeatRequest) *kerr.Error {
	if !c.loaded {
		return kerr.NotCoordinator
	}
	if req.Group == "" {
		return kerr.InvalidGroupID
	}
	if g := c.consumers[req.Group]; g != nil {
		return c.heartbeatConsumer(now, g, req)
	}
	g := c.group(req.Group)
	if g == nil {
		return kerr.UnknownMemberID
	}
	m, e := g.member(req.MemberID, req.InstanceID)
	if e != nil {
		return e
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	c.heard(now, g, m)
	if g.state == preparing {
		return kerr.RebalanceInProgress
	}
	return nil
}

// Leave handles LeaveGroup, of one member (v0–2) or several (v3+, KIP-345). The reply is a *kmsg.LeaveGroupResponse.
func (c *Coordinator) Leave(now time.Time, req *kmsg.LeaveGroupRequest, to any) {
	members := req.Members
	if req.Version < 3 {
		members = []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}}
	}
	answer := func(out []kmsg.LeaveGroupResponseMember, e *kerr.Error) {
		r := kmsg.NewPtrLeaveGroupResponse()
		switch {
		case e != nil:
			r.ErrorCode = e.Code
		case req.Version < 3:
			r.ErrorCode = out[0].ErrorCode
		default:
			r.Members = out
		}
		c.reply(to, r)
	}
	switch {
	case !c.loaded:
		answer(nil, kerr.NotCoordinator)
		return
	case req.Group == "":
		answer(nil, kerr.InvalidGroupID)
		return
	}
	if g := c.consumers[req.Group]; g != nil {
		if !g.await(turn{run: func(now time.Time) { c.Leave(now, req, to) }, refuse: func(e *kerr.Error) { answer(nil, e) }}) {
			c.leaveConsumer(now, g, members, answer)
		}
		return
	}
	c.leaveClassic(now, c.group(req.Group), members, answer)
}

// leaveClassic takes members out of a classic group, which may be nil. The answer comes when a restart will not bring them back.
func (c *Coordinator) leaveClassic(now time.Time, g *group, members []kmsg.LeaveGroupRequestMember, answer func([]kmsg.LeaveGroupResponseMember, *kerr.Error)) {
	var out []kmsg.LeaveGroupResponseMember
	left, known := false, false
	for _, lm := range members {
		e := kerr.UnknownMemberID
		if g != nil {
			var m *member
			m, e = c.leave(g, lm)
			left = left || m != nil
			known = known || m != nil && !m.isNew
		}
		out = append(out, kmsg.LeaveGroupResponseMember{MemberID: lm.MemberID, InstanceID: lm.InstanceID, ErrorCode: code(e)})
	}
	switch {
	case g == nil:
	case left:
		c.afterLeave(now, g)
		g.check()
	default:
		c.maybeCompleteJoin(now, g) // it may have waited for a pending member only
	}
	if !known {
		answer(out, nil)
		return
	}
	c.writeGone(g, func(err *kerr.Error) { answer(out, err) })
}

// leave takes one member out, and returns it; nil where it was only a pending id, or is unknown.
func (c *Coordinator) leave(g *group, lm kmsg.LeaveGroupRequestMember) (*member, *kerr.Error) {
	id := lm.MemberID
	if id == "" && lm.InstanceID != nil { // an administrator frees a static seat
		seat, ok := g.static[*lm.InstanceID]
		if !ok {
			return nil, kerr.UnknownMemberID
		}
		id = seat
	}
	if p := g.pending[id]; p != nil {
		c.timers.stop(&p.session)
		delete(g.pending, id)
		return nil, nil
	}
	m, e := g.member(id, lm.InstanceID)
	if e != nil {
		return nil, e
	}
	c.answerJoin(g, m, errJoin(kerr.UnknownMemberID, m.id))
	c.answerSync(m, errSync(kerr.UnknownMemberID))
	c.removeMember(g, m)
	return m, nil
}

func (c *Coordinator) answerSync(m *member, r *kmsg.SyncGroupResponse) {
	if m.syncTo == nil {
		return
	}
	c.reply(m.syncTo, r)
	m.syncTo = nil
}

func (g *group) syncAnswer(m *member) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.ProtocolType, r.Protocol, r.MemberAssignment = kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol), m.assignment
	return r
}

func errSync(e *kerr.Error) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.ErrorCode = code(e)
	return r
}
