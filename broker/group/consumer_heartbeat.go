package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConsumerHeartbeat handles ConsumerGroupHeartbeat (KIP-848): a member joins (epoch 0), says that it is there and what it has, or leaves
// (epoch -1, or -2 for a static member that comes back). The reply, a *kmsg.ConsumerGroupHeartbeatResponse, comes when what it says is durable.
func (c *Coordinator) ConsumerHeartbeat(now time.Time, client Client, req *kmsg.ConsumerGroupHeartbeatRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errConsumer(e, "")) }
	if !c.loaded {
		refuse(kerr.NotCoordinator)
		return
	}
	if e, text := checkHeartbeat(req); e != nil {
		c.reply(to, errConsumer(e, text))
		return
	}
	g := c.consumers[req.Group]
	if g == nil {
		var e *kerr.Error
		if g, e = c.consumerFor(req); e != nil {
			refuse(e)
			return
		}
	}
	if g.await(turn{run: func(now time.Time) { c.ConsumerHeartbeat(now, client, req, to) }, refuse: refuse}) {
		return
	}
	switch req.MemberEpoch {
	case epochLeave, epochStaticLeave:
		c.consumerLeave(now, g, req, to)
	default:
		c.consumerBeat(now, g, client, req, to)
	}
}

// checkHeartbeat says what is wrong with a request in itself.
func checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) (*kerr.Error, string) {
	isEmpty := func(s *string) bool { return s != nil && *s == "" }
	bad := func(text string) (*kerr.Error, string) { return kerr.InvalidRequest, text }
	switch {
	case req.Group == "":
		return bad("GroupId can't be empty.")
	case isEmpty(req.InstanceID):
		return bad("InstanceId can't be empty.")
	case isEmpty(req.RackID):
		return bad("RackId can't be empty.")
	case req.MemberID == "" && (req.Version >= 1 || req.MemberEpoch != 0):
		return bad("MemberId can't be empty.")
	case req.MemberEpoch < epochStaticLeave:
		return bad("MemberEpoch is invalid.")
	case req.MemberEpoch == epochStaticLeave && req.InstanceID == nil:
		return bad("InstanceId can't be null.")
	case req.ServerAssignor != nil && assignor(*req.ServerAssignor) == nil:
		return kerr.UnsupportedAssignor, "ServerAssignor " + *req.ServerAssignor + " is not supported. Supported assignors: uniform, range."
	case req.MemberEpoch != 0:
		return nil, ""
	case req.RebalanceTimeoutMillis < 0:
		return bad("RebalanceTimeoutMs must be provided in first request.")
	case req.Topics == nil || len(req.Topics) > 0:
		return bad("TopicPartitions must be empty when (re-)joining.")
	case req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return bad("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
	}
	return nil, ""
}

// consumerFor returns the consumer group for a request to a name that is none yet: only who joins makes one.
func (c *Coordinator) consumerFor(req *kmsg.ConsumerGroupHeartbeatRequest) (*consumerGroup, *kerr.Error) {
	if req.MemberEpoch != 0 {
		return nil, kerr.GroupIDNotFound
	}
	if g := c.groups[req.Group]; g != nil {
		return c.upgrade(g)
	}
	if len(c.groups)+len(c.consumers) >= c.o.GroupsMax {
		return nil, kerr.CoordinatorNotAvailable
	}
	return c.newConsumerGroup(req.Group), nil
}

// consumerBeat handles the heartbeat of a member that is there or joins.
func (c *Coordinator) consumerBeat(now time.Time, g *consumerGroup, client Client, req *kmsg.ConsumerGroupHeartbeatRequest, to any) {
	if c.quiet(now, g, client, req, to) {
		return
	}
	p := c.newPlan(g)
	m, has, e := p.member(req)
	if e == nil && req.SubscribedTopicRegex != nil {
		if _, err := g.pattern(*req.SubscribedTopicRegex); err != nil {
			e = kerr.InvalidRegularExpression
		}
	}
	if e != nil {
		c.reply(to, errConsumer(e, ""))
		c.settle(now, g)
		return
	}
	old := p.before(m.id)
	said := m.told(client, req)
	changed := p.was.epoch == 0 || !p.seated(m) || !slices.Equal(m.topics, said.topics) || m.regex != said.regex
	p.say(said)
	p.follow(changed)
	stands := said.reconcile(p.now.targetEpoch, p.now.target[m.id], has, func(s slot) bool { return p.now.taken(s, m.id) })
	p.stand(stands)

	r := c.beatAnswer(g, stands)
	if fullBeat(req) || old == nil || !old.assigned.same(stands.assigned) {
		r.Assignment = assignmentOf(stands.assigned)
	}
	version := p.topics.Version()
	c.step(now, g, p.records, func(now time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, errConsumer(err, ""))
			return
		}
		g.seen = version
		c.heardConsumer(now, g, stands)
		if old == nil || !old.sameStand(stands) {
			c.timeRevocation(now, g, stands)
		}
		c.reply(to, r)
	})
}

// quiet answers the heartbeat of a member that has nothing to say and nothing to do, which is nearly every one.
func (c *Coordinator) quiet(now time.Time, g *consumerGroup, client Client, req *kmsg.ConsumerGroupHeartbeatRequest, to any) bool {
	s := c.stored(g.name)
	m := s.members[req.MemberID]
	switch {
	case m == nil, m.classic != nil, m.client != client, m.epoch != req.MemberEpoch, !m.reconciled(s.targetEpoch),
		s.epoch != s.targetEpoch, g.seen != c.o.Metadata().Version():
		return false
	case req.InstanceID != nil, req.RackID != nil, req.RebalanceTimeoutMillis >= 0, req.SubscribedTopicNames != nil,
		req.SubscribedTopicRegex != nil, req.ServerAssignor != nil:
		return false
	}
	c.heardConsumer(now, g, m)
	c.reply(to, c.beatAnswer(g, m))
	return true
}

// beatAnswer tells a member its epoch, and when to be heard of again.
func (c *Coordinator) beatAnswer(g *consumerGroup, m *consumerMember) *kmsg.ConsumerGroupHeartbeatResponse {
	_, heartbeat := c.o.Consumer.Times(g.name)
	r := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	r.MemberID, r.MemberEpoch, r.HeartbeatIntervalMillis = kmsg.StringPtr(m.id), m.epoch, int32(heartbeat.Milliseconds())
	return r
}

// fullBeat reports whether a request says all there is to say, as a member does that joins or has met an error: it is told its assignment.
func fullBeat(req *kmsg.ConsumerGroupHeartbeatRequest) bool {
	return req.MemberEpoch == 0 ||
		req.RebalanceTimeoutMillis >= 0 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && req.Topics != nil
}

// member finds who sent a heartbeat, or makes a place for who joins, and says what it has.
func (p *plan) member(req *kmsg.ConsumerGroupHeartbeatRequest) (*consumerMember, owns, *kerr.Error) {
	has := ownsOf(req.Topics)
	id, s := req.MemberID, p.now
	var seat *consumerMember
	if req.InstanceID != nil {
		seat = s.members[s.static[*req.InstanceID]]
	}
	if req.MemberEpoch > 0 {
		m := s.members[id]
		switch {
		case req.InstanceID != nil && seat == nil, m == nil && seat == nil:
			return nil, has, kerr.UnknownMemberID
		case seat != nil && seat.id != id:
			return nil, has, kerr.FencedInstanceID
		}
		return m, has, m.checkEpoch(req.MemberEpoch, has)
	}
	m := s.members[id]
	switch {
	case seat != nil && seat.id != id && seat.epoch != epochStaticLeave && seat.classic == nil:
		return nil, has, kerr.UnreleasedInstanceID
	case seat != nil && seat.id != id:
		return p.replace(seat, id), has, nil
	case m != nil: // it starts anew, and has nothing
		again := *m
		again.epoch, again.previous = 0, 0
		return &again, has, nil
	case len(s.members) >= p.c.o.Consumer.MembersMax:
		return nil, has, kerr.GroupMaxSizeReached
	case id == "":
		id = p.c.o.NewMemberID("")
	}
	return &consumerMember{id: id}, has, nil
}

// seated reports whether m, or the static member whose seat it took, was in the group before.
func (p *plan) seated(m *consumerMember) bool {
	return p.was.members[m.id] != nil || m.instance != "" && p.was.static[m.instance] != ""
}

// checkEpoch lets the member's epoch pass, and the one before it when the member has nothing beyond its assignment: the answer with the
// new epoch may have been lost. Any other means that the member's idea of its partitions is not ours.
func (m *consumerMember) checkEpoch(epoch int32, has owns) *kerr.Error {
	if epoch == m.epoch || epoch == m.previous && epoch < m.epoch && has.within(m.assigned) {
		return nil
	}
	return kerr.FencedMemberEpoch
}

// told returns m with what the request says; what it leaves out stays.
func (m *consumerMember) told(client Client, req *kmsg.ConsumerGroupHeartbeatRequest) *consumerMember {
	n := *m
	n.known, n.client, n.classic = true, client, nil
	set := func(to *string, v *string) {
		if v != nil {
			*to = *v
		}
	}
	set(&n.instance, req.InstanceID)
	set(&n.rack, req.RackID)
	set(&n.assignor, req.ServerAssignor)
	set(&n.regex, req.SubscribedTopicRegex)
	if req.RebalanceTimeoutMillis >= 0 {
		n.rebalance = ms(req.RebalanceTimeoutMillis)
	}
	if req.SubscribedTopicNames != nil {
		n.topics = slices.Sorted(slices.Values(req.SubscribedTopicNames))
		n.topics = slices.Compact(n.topics)
	}
	return &n
}

// consumerLeave handles the heartbeat of a member that leaves.
func (c *Coordinator) consumerLeave(now time.Time, g *consumerGroup, req *kmsg.ConsumerGroupHeartbeatRequest, to any) {
	s := c.stored(g.name)
	m := s.members[req.MemberID]
	if req.InstanceID != nil {
		seat := s.static[*req.InstanceID]
		if m = s.members[seat]; m != nil && m.id != req.MemberID {
			c.reply(to, errConsumer(kerr.FencedInstanceID, ""))
			return
		}
	}
	if m == nil {
		c.reply(to, errConsumer(kerr.UnknownMemberID, ""))
		return
	}
	r := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	r.MemberID, r.MemberEpoch = kmsg.StringPtr(m.id), req.MemberEpoch
	then := func(_ time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, errConsumer(err, ""))
			return
		}
		if seat := g.seats[m.id]; seat != nil {
			c.timers.stop(&seat.rebalance)
		}
		c.reply(to, r)
	}
	if req.MemberEpoch == epochLeave {
		c.fenceConsumer(now, g, then, m)
		return
	}
	p := c.newPlan(g)
	away := *m
	away.epoch, away.revoking = epochStaticLeave, nil
	p.stand(&away)
	c.step(now, g, p.records, then)
}

func assignmentOf(s slots) *kmsg.ConsumerGroupHeartbeatResponseAssignment {
	a := new(kmsg.NewConsumerGroupHeartbeatResponseAssignment())
	for _, ps := range groupSlots(s) {
		t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		t.TopicID = ps[0].topic
		for _, p := range ps {
			t.Partitions = append(t.Partitions, p.partition)
		}
		a.Topics = append(a.Topics, t)
	}
	return a
}

func errConsumer(e *kerr.Error, text string) *kmsg.ConsumerGroupHeartbeatResponse {
	if text == "" {
		text = e.Description
	}
	r := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	r.ErrorCode, r.ErrorMessage = e.Code, &text
	return r
}
