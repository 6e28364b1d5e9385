package group

import (
	"maps"
	"slices"
	"time"
)

// slot is a partition by its topic's id, so that a topic that was made anew under the same name is another one.
type slot struct {
	topic     [16]byte
	partition int32
}

// slots is a set of partitions, each with the epoch at which it was assigned (KIP-1251); 0 where that does not matter.
type slots map[slot]int32

// sorted returns the partitions by topic id and partition.
func (s slots) sorted() []slot {
	out := make([]slot, 0, len(s))
	for p := range s {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b slot) int {
		if c := slices.Compare(a.topic[:], b.topic[:]); c != 0 {
			return c
		}
		return int(a.partition) - int(b.partition)
	})
	return out
}

// same reports whether both hold the same partitions, whatever their epochs.
func (s slots) same(o slots) bool {
	return maps.EqualFunc(s, o, func(int32, int32) bool { return true })
}

// memberState is where a member stands between its current and its target assignment; the numbers are those of Kafka's records.
type memberState int8

const (
	memberStable     memberState = 0   // it has what it is to have
	memberUnrevoked  memberState = 1   // it was told to give partitions up and has not confirmed it
	memberUnreleased memberState = 2   // partitions it is to have are still with another member
	memberUnknown    memberState = 127 // a state of a later version
)

// The epochs with which a member leaves.
const (
	epochLeave       = -1
	epochStaticLeave = -2 // it comes back, and its partitions are kept for it until its session runs out
)

// consumerMember is a member of a consumer group (KIP-848). It never changes: a change makes a new one.
type consumerMember struct {
	id string

	// What the member said of itself.
	known                           bool   // it said so: there is a record of it
	instance, rack, assignor, regex string // "" means none
	client                          Client
	topics                          []string // subscribed by name, sorted
	rebalance                       time.Duration
	classic                         *classicPart // nil: it speaks the consumer protocol

	// Where it stands.
	epoch, previous    int32 // previous is accepted too: the answer that raised the epoch may have been lost
	state              memberState
	assigned, revoking slots
}

// classicPart is what a member that speaks the classic protocol has on top (KIP-848, online migration).
type classicPart struct {
	session   time.Duration
	protocols []protocol
}

// reconciled reports whether the member has all it is to have as of the target assignment of that epoch.
func (m *consumerMember) reconciled(targetEpoch int32) bool {
	return m.state == memberStable && m.epoch == targetEpoch
}

// sameSelf reports whether both say the same of themselves.
func (m *consumerMember) sameSelf(o *consumerMember) bool {
	return m.known == o.known && m.instance == o.instance && m.rack == o.rack && m.assignor == o.assignor && m.regex == o.regex &&
		m.client == o.client && slices.Equal(m.topics, o.topics) && m.rebalance == o.rebalance && m.classic.same(o.classic)
}

func (p *classicPart) same(o *classicPart) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.session == o.session && slices.EqualFunc(p.protocols, o.protocols, func(a, b protocol) bool {
		return a.name == b.name && string(a.metadata) == string(b.metadata)
	})
}

// sameStand reports whether both stand at the same place.
func (m *consumerMember) sameStand(o *consumerMember) bool {
	return m.epoch == o.epoch && m.previous == o.previous && m.state == o.state &&
		maps.Equal(m.assigned, o.assigned) && maps.Equal(m.revoking, o.revoking)
}

// consumerState is what the log says of one consumer group.
//
// What holds between writes (checked by check):
//
//	G6  a partition is with one member at a time, be it assigned or about to be revoked
//	G7  the epoch of the target assignment, and of every member, is at most the group's
type consumerState struct {
	epoch       int32 // grows with every change of members, subscriptions or topics
	hash        int64 // of the topics subscribed to, as of epoch; 0 means none
	targetEpoch int32 // the epoch that target was made for
	members     map[string]*consumerMember
	static      map[string]string // instance id → member id
	target      map[string]slots  // by member id
	owners      map[slot]string   // partition → member that has it
}

func newConsumerState() *consumerState {
	return &consumerState{
		members: map[string]*consumerMember{}, static: map[string]string{}, target: map[string]slots{}, owners: map[slot]string{},
	}
}

// clone copies s so that the copy's maps can be changed; members and targets are shared and never change.
func (s *consumerState) clone() *consumerState {
	c := *s
	c.members, c.static, c.target, c.owners = maps.Clone(s.members), maps.Clone(s.static), maps.Clone(s.target), maps.Clone(s.owners)
	return &c
}

func (s *consumerState) ids() []string { return slices.Sorted(maps.Keys(s.members)) }

// put sets a member, in place of the one with its id.
func (s *consumerState) put(m *consumerMember) {
	if old := s.members[m.id]; old != nil {
		s.release(old)
		if old.instance != "" && s.static[old.instance] == m.id {
			delete(s.static, old.instance)
		}
	}
	s.members[m.id] = m
	if m.instance != "" {
		s.static[m.instance] = m.id
	}
	for p := range m.assigned {
		s.owners[p] = m.id
	}
	for p := range m.revoking {
		s.owners[p] = m.id
	}
}

// remove takes a member out, with its target.
func (s *consumerState) remove(id string) {
	m := s.members[id]
	if m == nil {
		return
	}
	s.release(m)
	if m.instance != "" && s.static[m.instance] == id {
		delete(s.static, m.instance)
	}
	delete(s.members, id)
	delete(s.target, id)
}

func (s *consumerState) release(m *consumerMember) {
	for _, ps := range []slots{m.assigned, m.revoking} {
		for p := range ps {
			if s.owners[p] == m.id {
				delete(s.owners, p)
			}
		}
	}
}

// taken reports whether a member other than id has the partition.
func (s *consumerState) taken(p slot, id string) bool {
	o, ok := s.owners[p]
	return ok && o != id
}

// phase returns the state's name as ListGroups and ConsumerGroupDescribe give it.
func (s *consumerState) phase() string {
	switch {
	case len(s.members) == 0:
		return "Empty"
	case s.epoch > s.targetEpoch:
		return "Assigning"
	}
	for _, m := range s.members {
		if !m.reconciled(s.targetEpoch) {
			return "Reconciling"
		}
	}
	return "Stable"
}

// broken says which invariant does not hold, or "".
func (s *consumerState) broken() string {
	if s.targetEpoch > s.epoch {
		return "G7: the target's epoch is ahead"
	}
	seen := map[slot]string{}
	for _, id := range s.ids() {
		m := s.members[id]
		if m.epoch > s.epoch {
			return "G7: the epoch of " + id + " is ahead"
		}
		for _, ps := range []slots{m.assigned, m.revoking} {
			for p := range ps {
				if o, twice := seen[p]; twice {
					return "G6: " + o + " and " + id + " have one partition"
				}
				seen[p] = id
			}
		}
	}
	return ""
}
