package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// upgrade makes a classic group a consumer group, since a member of the consumer protocol joins. Its members stay, as classic members of the
// consumer group, with the partitions they have; who waits in a rebalance is told to join again. It is written with the joining member's own
// records; offsets stay as they are.
func (c *Coordinator) upgrade(g *group) (*consumerGroup, *kerr.Error) {
	if g.state == dead {
		return nil, kerr.CoordinatorNotAvailable
	}
	from := newConsumerState()
	if len(g.members) > 0 {
		var ok bool
		if from, ok = g.asConsumers(c.o.Metadata()); !ok || len(g.members) >= c.o.Consumer.MembersMax {
			return nil, kerr.GroupIDNotFound
		}
	}
	for _, m := range g.members {
		c.answerJoin(g, m, errJoin(kerr.RebalanceInProgress, m.id))
		c.answerSync(m, errSync(kerr.RebalanceInProgress))
	}
	c.forget(g)
	n := c.newConsumerGroup(g.name)
	if g.protocolType != "" {
		n.from = from
	}
	return n, nil
}

// asConsumers is a classic group with members as the state of a consumer group; ok is false when its members are no consumers, or their
// subscriptions or assignments cannot be read. In a rebalance a member is taken to have what it was assigned and what it said it had when it
// joined (KIP-429): it lets go of it by joining again.
func (g *group) asConsumers(topics Metadata) (s *consumerState, ok bool) {
	if g.protocolType != consumerProtocol {
		return nil, false
	}
	s = newConsumerState()
	s.epoch, s.targetEpoch = g.generation, g.generation
	subs := make([]kmsg.ConsumerMemberMetadata, len(g.members))
	for i, m := range g.members {
		if subs[i].ReadFrom(m.protocols[0].metadata) != nil {
			return nil, false
		}
		s.put(&consumerMember{
			id: m.id, known: true, instance: m.instance, client: m.client, rebalance: m.rebalance, topics: subs[i].Topics,
			epoch: g.generation, previous: g.generation, assigned: slots{},
			rack: deref(subs[i].Rack), classic: &classicPart{session: m.sessionFor, protocols: m.protocols},
		})
	}
	give := func(m *member, topic string, partitions []int32) {
		id, n, known := topics.Topic(topic)
		for _, p := range partitions {
			if at := (slot{id, p}); known && p >= 0 && p < n && s.owners[at] == "" {
				s.members[m.id].assigned[at] = g.generation
				s.owners[at] = m.id
			}
		}
	}
	for i, m := range g.members {
		for _, o := range subs[i].OwnedPartitions {
			give(m, o.Topic, o.Partitions)
		}
	}
	for _, m := range g.members {
		var has kmsg.ConsumerMemberAssignment
		if len(m.assignment) > 0 && has.ReadFrom(m.assignment) != nil {
			return nil, false
		}
		for _, t := range has.Topics {
			give(m, t.Topic, t.Partitions)
		}
		s.target[m.id] = s.members[m.id].assigned
	}
	return s, true
}

// replaceByClassic makes a consumer group without members a classic one, since a classic member joins: what is known of it is deleted, apart from
// its offsets, and then the member has its turn.
func (c *Coordinator) replaceByClassic(now time.Time, g *consumerGroup, join turn) {
	c.step(now, g, c.stored(g.name).tombstones(g.name), func(_ time.Time, err *kerr.Error) {
		if err != nil {
			join.refuse(err)
			return
		}
		g.turns = append([]turn{join}, g.turns...)
	})
}

// allClassic reports whether there are members, all of the classic protocol.
func (s *consumerState) allClassic() bool {
	for _, m := range s.members {
		if m.classic == nil {
			return false
		}
	}
	return len(s.members) > 0
}

// toClassic makes the group a classic one, when only classic members are left: their assignments become those of a stable generation, whose
// number is the group's epoch. When the records are applied, the classic group is restored from them.
func (p *plan) toClassic() {
	v := kmsg.NewGroupMetadataValue()
	v.Version, v.ProtocolType, v.Generation = 3, consumerProtocol, p.now.epoch
	v.CurrentStateTimestamp = -1
	name := p.now.sharedProtocol()
	v.Protocol = &name
	for i, id := range p.now.ids() {
		m := p.now.members[id]
		if i == 0 {
			v.Leader = &id
		}
		mm := kmsg.NewGroupMetadataValueMember()
		mm.MemberID, mm.InstanceID, mm.ClientID, mm.ClientHost = id, orNil(m.instance), m.client.ID, m.client.Host
		mm.RebalanceTimeoutMillis, mm.SessionTimeoutMillis = int32(m.rebalance.Milliseconds()), int32(m.classic.session.Milliseconds())
		mm.Subscription, mm.Assignment = m.classic.metadata(name), m.classicAssignment(p.topics)
		v.Members = append(v.Members, mm)
	}
	p.add(p.now.tombstones(p.g.name)...)
	p.add(Record{Key: groupKey(p.g.name), Value: v.AppendTo(nil)})
}

// sharedProtocol is a protocol that all classic members know; there is one, since who joined without was refused.
func (s *consumerState) sharedProtocol() string {
	votes := map[string]int{}
	for _, m := range s.members {
		for _, p := range m.classic.protocols {
			votes[p.name]++
		}
	}
	first := s.members[s.ids()[0]].classic.protocols
	for _, p := range first {
		if votes[p.name] == len(s.members) {
			return p.name
		}
	}
	return first[0].name
}

func (p *classicPart) metadata(name string) []byte {
	for _, pr := range p.protocols {
		if pr.name == name {
			return pr.metadata
		}
	}
	return []byte{}
}

// rebalanceConverted begins a rebalance of a group that has just become a classic one since a member left it.
func (c *Coordinator) rebalanceConverted(now time.Time, name string) {
	if g := c.groups[name]; g != nil && g.state == stable {
		c.prepare(now, g)
		g.check()
	}
}
