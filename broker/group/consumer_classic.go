package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members that speak the classic protocol in a consumer group, while its members are moved from one protocol to the other one by one (KIP-848, online
// migration). A JoinGroup is for them what a full heartbeat is for the others: it says what the member subscribes to and has, and is answered
// at once, with the member's epoch as generation. Nobody leads. SyncGroup hands out what the member is to have now, and Heartbeat says
// when there is reason to join again.

// consumerProtocol is the protocol type of consumers in the classic protocol.
const consumerProtocol = "consumer"

// joinConsumer handles JoinGroup in a consumer group.
func (c *Coordinator) joinConsumer(now time.Time, g *consumerGroup, client Client, req *kmsg.JoinGroupRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errJoin(e, req.MemberID)) }
	again := turn{run: func(now time.Time) { c.Join(now, client, req, to) }, refuse: refuse}
	if g.await(again) {
		return
	}
	s := c.stored(g.name)
	if len(s.members) == 0 {
		c.replaceByClassic(now, g, again)
		return
	}
	sub, ok := s.classicSubscription(req)
	if !ok {
		refuse(kerr.InconsistentGroupProtocol)
		return
	}
	id := req.MemberID
	if id == "" {
		id = c.o.NewMemberID(classicPrefix(client, req))
		if req.InstanceID == nil && req.Version >= 4 {
			c.reply(to, errJoin(c.awaitClassic(now, g, id, req), id))
			return
		}
	}
	p := c.newPlan(g)
	m, e := p.classicMember(req, id)
	if e != nil {
		refuse(e)
		return
	}
	said := m.joined(client, req, sub)
	changed := !p.seated(m) || !slices.Equal(m.topics, said.topics) || m.regex != said.regex
	p.say(said)
	p.follow(changed)
	stands := said.reconcile(p.now.targetEpoch, p.now.target[id], p.ownsNamed(sub), func(s slot) bool { return p.now.taken(s, id) })
	p.stand(stands)
	if p.removed[p.was.static[said.instance]] && p.now.allClassic() {
		p.toClassic() // the last one of the consumer protocol was a static member, and has come back as a classic one
	}
	c.step(now, g, p.records, func(now time.Time, err *kerr.Error) {
		if err != nil {
			refuse(err)
			return
		}
		g.seen = p.topics.Version()
		if pm := g.pending[id]; pm != nil {
			c.timers.stop(&pm.session)
			delete(g.pending, id)
		}
		c.heardConsumer(now, g, stands)
		c.timers.stop(&g.seat(id).rebalance)
		c.timeClassic(now, g, stands, &g.seat(id).sync)
		r := kmsg.NewPtrJoinGroupResponse()
		r.Generation, r.MemberID = stands.epoch, id
		r.ProtocolType, r.Protocol = kmsg.StringPtr(consumerProtocol), kmsg.StringPtr(stands.classic.protocols[0].name)
		c.reply(to, r)
	})
}

// awaitClassic expects a dynamic member that was given an id to join with it (KIP-394).
func (c *Coordinator) awaitClassic(now time.Time, g *consumerGroup, id string, req *kmsg.JoinGroupRequest) *kerr.Error {
	if len(c.stored(g.name).members)+len(g.pending) >= c.o.Consumer.MembersMax {
		return kerr.GroupMaxSizeReached
	}
	pm := &pendingMember{id: id}
	pm.session.fire = func(time.Time) { delete(g.pending, id) }
	g.pending[id] = pm
	c.timers.set(&pm.session, now.Add(ms(req.SessionTimeoutMillis)))
	return kerr.MemberIDRequired
}

func classicPrefix(client Client, req *kmsg.JoinGroupRequest) string {
	if req.InstanceID != nil {
		return *req.InstanceID
	}
	return client.ID
}

// classicSubscription reads what a classic member subscribes to; ok is false when it cannot be in the group: it is no consumer, or shares no
// protocol with the other classic members.
func (s *consumerState) classicSubscription(req *kmsg.JoinGroupRequest) (sub kmsg.ConsumerMemberMetadata, ok bool) {
	votes, voters := map[string]int{}, 0
	for _, m := range s.members {
		if m.classic == nil {
			continue
		}
		voters++
		for _, p := range m.classic.protocols {
			votes[p.name]++
		}
	}
	shared := slices.ContainsFunc(req.Protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return votes[p.Name] == voters })
	if req.ProtocolType != consumerProtocol || !shared {
		return sub, false
	}
	return sub, sub.ReadFrom(req.Protocols[0].Metadata) == nil
}

// classicMember finds who joins, or makes a place.
func (p *plan) classicMember(req *kmsg.JoinGroupRequest, id string) (*consumerMember, *kerr.Error) {
	m := p.now.members[id]
	if req.InstanceID != nil {
		seat := p.now.members[p.now.static[*req.InstanceID]]
		switch {
		case req.MemberID == "" && seat != nil:
			return p.replace(seat, id), nil
		case req.MemberID != "" && seat == nil:
			return nil, kerr.UnknownMemberID
		case req.MemberID != "" && seat.id != id:
			return nil, kerr.FencedInstanceID
		case seat != nil:
			return seat, nil
		}
	}
	switch {
	case m != nil:
		return m, nil
	case req.InstanceID == nil && req.MemberID != "" && p.g.pending[id] == nil:
		return nil, kerr.UnknownMemberID // it was fenced, and is to let go of what it had
	case len(p.now.members) >= p.c.o.Consumer.MembersMax:
		return nil, kerr.GroupMaxSizeReached
	}
	return &consumerMember{id: id}, nil
}

// joined returns m with what a JoinGroup says.
func (m *consumerMember) joined(client Client, req *kmsg.JoinGroupRequest, sub kmsg.ConsumerMemberMetadata) *consumerMember {
	n := *m
	n.known, n.client, n.regex, n.rebalance = true, client, "", rebalanceFor(req)
	if req.InstanceID != nil {
		n.instance = *req.InstanceID
	}
	if sub.Rack != nil {
		n.rack = *sub.Rack
	}
	n.topics = slices.Compact(slices.Sorted(slices.Values(sub.Topics)))
	n.classic = &classicPart{session: ms(req.SessionTimeoutMillis), protocols: copyProtocols(req.Protocols)}
	return &n
}

// ownsNamed is what a classic member says it has: nothing, unless it rebalances cooperatively (KIP-429).
func (p *plan) ownsNamed(sub kmsg.ConsumerMemberMetadata) owns {
	o := owns{said: true, ps: slots{}}
	for _, t := range sub.OwnedPartitions {
		id, _, ok := p.topics.Topic(t.Topic)
		if !ok {
			continue
		}
		for _, n := range t.Partitions {
			o.ps[slot{id, n}] = 0
		}
	}
	return o
}

// timeClassic fences a classic member that does not do its next thing, join or sync, within its rebalance timeout.
func (c *Coordinator) timeClassic(now time.Time, g *consumerGroup, m *consumerMember, t *timer) {
	id := m.id
	t.fire = func(now time.Time) {
		c.consumerTimedOut(now, g, id, t, func(m *consumerMember) bool { return m.classic != nil })
	}
	c.timers.set(t, now.Add(m.rebalance))
}

// tellToRejoin says that there is a rebalance, and limits how long the member may take to join.
func (c *Coordinator) tellToRejoin(now time.Time, g *consumerGroup, m *consumerMember) *kerr.Error {
	if t := &g.seat(m.id).rebalance; t.index == 0 {
		c.timeClassic(now, g, m, t)
	}
	return kerr.RebalanceInProgress
}

// classicOf finds a classic member of a consumer group by what a request says of it.
func (s *consumerState) classicOf(id string, instance *string) (*consumerMember, *kerr.Error) {
	m := s.members[id]
	if instance != nil {
		seat := s.members[s.static[*instance]]
		if seat != nil && seat.id != id {
			return nil, kerr.FencedInstanceID
		}
		m = seat
	}
	if m == nil || m.classic == nil {
		return nil, kerr.UnknownMemberID
	}
	return m, nil
}

// syncConsumer handles SyncGroup in a consumer group.
func (c *Coordinator) syncConsumer(now time.Time, g *consumerGroup, req *kmsg.SyncGroupRequest, to any) {
	s := c.stored(g.name)
	m, e := s.classicOf(req.MemberID, req.InstanceID)
	switch {
	case e != nil:
	case req.Generation != m.epoch:
		e = kerr.IllegalGeneration
	case req.ProtocolType != nil && *req.ProtocolType != consumerProtocol,
		req.Protocol != nil && *req.Protocol != m.classic.protocols[0].name:
		e = kerr.InconsistentGroupProtocol
	case s.epoch > m.epoch && m.state != memberUnrevoked:
		e = c.tellToRejoin(now, g, m)
	}
	if m != nil && m.classic != nil && req.Generation == m.epoch {
		c.timers.stop(&g.seat(m.id).sync)
		c.heardConsumer(now, g, m)
	}
	if e != nil {
		c.reply(to, errSync(e))
		return
	}
	r := kmsg.NewPtrSyncGroupResponse()
	r.ProtocolType, r.Protocol, r.MemberAssignment = req.ProtocolType, req.Protocol, m.classicAssignment(c.o.Metadata())
	c.reply(to, r)
}

// classicAssignment is what m is to have, in the consumers' own format and the version that m uses.
func (m *consumerMember) classicAssignment(topics Metadata) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	var sub kmsg.ConsumerMemberMetadata
	if sub.ReadFrom(m.classic.protocols[0].metadata) == nil {
		a.Version = sub.Version
	}
	for _, ps := range groupSlots(m.assigned) {
		name, ok := topics.TopicName(ps[0].topic)
		if !ok {
			continue
		}
		t := kmsg.ConsumerMemberAssignmentTopic{Topic: name}
		for _, p := range ps {
			t.Partitions = append(t.Partitions, p.partition)
		}
		a.Topics = append(a.Topics, t)
	}
	return a.AppendTo(nil)
}

// heartbeatConsumer handles Heartbeat in a consumer group. The member is to join again when the group has gone on, when it has partitions to
// revoke, or when those it waits for are free.
func (c *Coordinator) heartbeatConsumer(now time.Time, g *consumerGroup, req *kmsg.HeartbeatRequest) *kerr.Error {
	s := c.stored(g.name)
	m, e := s.classicOf(req.MemberID, req.InstanceID)
	switch {
	case e != nil:
		return e
	case req.Generation != m.epoch:
		return kerr.IllegalGeneration
	}
	c.heardConsumer(now, g, m)
	if m.epoch < s.epoch || m.state == memberUnrevoked || m.state == memberUnreleased && !s.waits(m) {
		return c.tellToRejoin(now, g, m)
	}
	return nil
}

// waits reports whether all that m lacks of its target is with others.
func (s *consumerState) waits(m *consumerMember) bool {
	for p := range s.target[m.id] {
		if _, has := m.assigned[p]; !has && !s.taken(p, m.id) {
			return false
		}
	}
	return true
}

// leaveConsumer handles LeaveGroup in a consumer group: classic members leave so, and an administrator frees a static seat, whoever has it.
func (c *Coordinator) leaveConsumer(now time.Time, g *consumerGroup, members []kmsg.LeaveGroupRequestMember, reply func([]kmsg.LeaveGroupResponseMember, *kerr.Error)) {
	s := c.stored(g.name)
	var out []kmsg.LeaveGroupResponseMember
	var gone []*consumerMember
	for _, lm := range members {
		m, e := s.classicOf(lm.MemberID, lm.InstanceID)
		if seat := s.static[deref(lm.InstanceID)]; lm.MemberID == "" && seat != "" {
			m, e = s.members[seat], nil
		}
		if e == nil && slices.Contains(gone, m) {
			e = kerr.UnknownMemberID
		}
		if e == nil {
			gone = append(gone, m)
		}
		out = append(out, kmsg.LeaveGroupResponseMember{MemberID: lm.MemberID, InstanceID: lm.InstanceID, ErrorCode: code(e)})
	}
	if len(gone) == 0 {
		reply(out, nil)
		return
	}
	c.fenceConsumer(now, g, func(_ time.Time, err *kerr.Error) { reply(out, err) }, gone...)
}
