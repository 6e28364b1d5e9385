package group_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

const (
	classicSession   = 10 * time.Second
	classicRebalance = 15 * time.Second
)

// classicState is what a member of the classic protocol has on top. Its generation is consumer.epoch; consumer.since is when it was asked to do its
// next thing, if it was.
type classicState struct {
	state   string // "": joins next; "joining", "joined", "syncing", "member"
	eager   bool   // lets go of everything before it joins
	rejoin  bool   // its subscription has changed
	members []kmsg.JoinGroupResponseMember
}

// restart lets a process that starts choose its protocol.
func (m *consumerModel) restart(c *consumer) {
	c.old = nil
	if m.mixed && m.rnd.IntN(2) == 0 {
		c.old = &classicState{eager: m.rnd.IntN(2) == 0}
		c.wanted = nil
	}
}

func (m *consumerModel) actClassic(c *consumer) {
	if c.call != 0 {
		return
	}
	if c.old.rejoin && c.old.state == "member" {
		c.old.state = ""
	}
	switch c.old.state {
	case "":
		c.old.rejoin = false
		m.joinClassic(c)
	case "joined":
		r := kmsg.NewPtrSyncGroupRequest()
		r.Version, r.Group, r.MemberID, r.Generation = 5, "g", c.id, c.epoch
		if c.instance != "" {
			r.InstanceID = &c.instance
		}
		r.GroupAssignment = m.lead(c.old.members)
		m.c.Sync(m.now, r, m.ask(c))
		c.old.state = "syncing"
	case "member":
		r := kmsg.NewHeartbeatRequest()
		r.Group, r.MemberID, r.Generation = "g", c.id, c.epoch
		m.c.Heartbeat(m.now, &r, m.ask(c))
	}
}

func (m *consumerModel) joinClassic(c *consumer) {
	md := kmsg.NewConsumerMemberMetadata()
	md.Version, md.Topics = 1, c.names()
	if c.old.eager {
		clear(c.owned)
	}
	for p := range c.owned {
		if id, _, ok := m.metadata().Topic(nameOf(p.topic)); ok && id == p.topic {
			md.OwnedPartitions = append(md.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: nameOf(p.topic), Partitions: []int32{p.partition}})
		}
	}
	j := kmsg.NewPtrJoinGroupRequest()
	j.Version, j.Group, j.MemberID, j.ProtocolType = 9, "g", c.id, "consumer"
	j.SessionTimeoutMillis, j.RebalanceTimeoutMillis = int32(classicSession.Milliseconds()), int32(classicRebalance.Milliseconds())
	if c.instance != "" {
		j.InstanceID = &c.instance
	}
	j.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "p", Metadata: md.AppendTo(nil)}}
	m.c.Join(m.now, group.Client{ID: "c"}, j, m.ask(c))
	c.old.state = "joining"
}

// lead is the assignment of a leader: who says that it has a partition and may, keeps it; what nobody has goes round.
func (m *consumerModel) lead(members []kmsg.JoinGroupResponseMember) (out []kmsg.SyncGroupRequestGroupAssignment) {
	claimed, subs := map[string]string{}, map[string][]string{}
	for _, jm := range members {
		var md kmsg.ConsumerMemberMetadata
		must(md.ReadFrom(jm.ProtocolMetadata))
		for _, t := range md.Topics {
			subs[t] = append(subs[t], jm.MemberID)
		}
		for _, o := range md.OwnedPartitions {
			for _, p := range o.Partitions {
				claimed[fmt.Sprint(o.Topic, p)] = jm.MemberID
			}
		}
	}
	given := map[string]map[string][]int32{}
	turn := 0
	for _, name := range m.metadata().TopicNames() {
		_, n, _ := m.metadata().Topic(name)
		for p := range n {
			to := claimed[fmt.Sprint(name, p)]
			switch {
			case len(subs[name]) == 0, to != "" && !slices.Contains(subs[name], to):
				continue // its owner gives it up first, and joins again
			case to == "":
				to = subs[name][turn%len(subs[name])]
				turn++
			}
			if given[to] == nil {
				given[to] = map[string][]int32{}
			}
			given[to][name] = append(given[to][name], p)
		}
	}
	for _, jm := range members {
		a := kmsg.NewConsumerMemberAssignment()
		for name, ps := range given[jm.MemberID] {
			a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: name, Partitions: ps})
		}
		out = append(out, kmsg.SyncGroupRequestGroupAssignment{MemberID: jm.MemberID, MemberAssignment: a.AppendTo(nil)})
	}
	return out
}

func (m *consumerModel) leaveClassic(c *consumer) {
	clear(c.owned)
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.Group = 5, "g"
	lm := kmsg.LeaveGroupRequestMember{MemberID: c.id}
	if c.instance != "" {
		lm.InstanceID = &c.instance
	}
	r.Members = []kmsg.LeaveGroupRequestMember{lm}
	m.c.Leave(m.now, r, m.ask(c))
	c.old.state, c.id, c.epoch = "", "", 0
}

func (m *consumerModel) answerClassic(c *consumer, response any) {
	if c.old == nil {
		return // of a request before it changed its protocol
	}
	switch r := response.(type) {
	case *kmsg.JoinGroupResponse:
		c.old.state, c.old.members = "", nil
		if m.classicError(c, r.ErrorCode) {
			c.old.state, c.id, c.epoch = "joined", r.MemberID, r.Generation
			c.since = m.now
			if r.LeaderID == r.MemberID && !r.SkipAssignment {
				c.old.members = r.Members
			}
		} else if r.ErrorCode == kerr.MemberIDRequired.Code {
			c.id = r.MemberID
		}
	case *kmsg.SyncGroupResponse:
		ok := m.classicError(c, r.ErrorCode)
		if c.old.state = ""; ok {
			c.old.state, c.since = "member", time.Time{}
			m.syncedClassic(c, r.MemberAssignment)
		}
	case *kmsg.HeartbeatResponse:
		if !m.classicError(c, r.ErrorCode) {
			c.old.state = ""
		}
	case *kmsg.LeaveGroupResponse:
		c.gone = m.rnd.IntN(10)
	}
}

// classicError lets go of what an error says is lost; ok is true when there is none.
func (m *consumerModel) classicError(c *consumer, code int16) (ok bool) {
	switch code {
	case 0:
		c.alive = c.sent
		return true
	case kerr.RebalanceInProgress.Code:
		if c.old.state != "syncing" { // a classic group does not take that for a sign of life
			c.alive = c.sent
		}
		if c.since.IsZero() {
			c.since = m.now
		}
	case kerr.UnknownMemberID.Code, kerr.FencedInstanceID.Code:
		c.owned, c.id = map[place]bool{}, ""
	case kerr.IllegalGeneration.Code:
		c.owned = map[place]bool{}
	case kerr.MemberIDRequired.Code, kerr.NotCoordinator.Code, kerr.CoordinatorNotAvailable.Code:
	default:
		m.t.Errorf("%s: %v", c.id, kerr.ErrorForCode(code))
	}
	return false
}

// syncedClassic takes an assignment; who gives something up joins again, as the cooperative protocol has it (KIP-429).
func (m *consumerModel) syncedClassic(c *consumer, b []byte) {
	var a kmsg.ConsumerMemberAssignment
	if len(b) > 0 {
		must(a.ReadFrom(b))
	}
	had := c.owned
	c.owned = map[place]bool{}
	for _, t := range a.Topics {
		id, _, ok := m.metadata().Topic(t.Topic)
		for _, p := range t.Partitions {
			if ok {
				c.owned[place{id, p}] = true
			}
		}
	}
	for p := range had {
		if !c.owned[p] {
			c.old.state = ""
		}
	}
}
