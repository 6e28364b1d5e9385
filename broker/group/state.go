package group

import (
	"bytes"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type state int

const (
	empty state = iota
	preparing
	completing
	stable
	dead
)

// String returns the state's name as DescribeGroups and ListGroups give it.
func (s state) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}[s]
}

// group is one classic group.
//
// What holds between calls (checked by check):
//
//	G2  awaiting = number of members with a join outstanding; votes counts each protocol of each member once
//	G3  Empty means no members; no members means Empty, or PreparingRebalance while pending ids hold it up
//	G4  a leader is set exactly when there are members, and is one of them
//	G5  a member waits for a sync only in CompletingRebalance
type group struct {
	name         string
	state        state
	stateSinceMs int64 // of the last change to Empty or another state; -1 unknown
	generation   int32
	protocolType string // "" until the first member, and for groups that only commit offsets
	protocol     string // chosen for the generation
	leader       string

	members  []*member // in order of joining: the first one leads when the leader goes
	byID     map[string]*member
	static   map[string]string         // instance id → member id
	pending  map[string]*pendingMember // got an id, not joined yet (KIP-394)
	votes    map[string]int            // protocol → members that know it
	awaiting int

	rebalance timer // completes the join phase whoever is missing
	syncing   timer // removes members that do not sync
	initial   bool  // in the delay before the first generation
	joined    bool  // someone joined during the current delay
	delayLeft time.Duration
	storing   bool // the assignment of this generation is being written
	gone      leaving
}

// pendingMember is an id that was given out by KIP-394 and must be used before its session runs out.
type pendingMember struct {
	id      string
	session timer
}

type member struct {
	id, instance         string // instance "" means dynamic
	client               Client
	sessionFor           time.Duration
	rebalance            time.Duration
	protocols            []protocol
	assignment           []byte
	isNew                bool // in its first join: it cannot send heartbeats yet
	synced               bool // asked for its assignment in this generation
	joinTo, syncTo       any  // whom to answer; nil when nobody waits
	joinVersion          int16
	syncPType, syncProto *string
	session              timer
}

type protocol struct {
	name     string
	metadata []byte
}

func (c *Coordinator) newGroup(name string) *group {
	g := &group{
		name: name, stateSinceMs: -1,
		byID: map[string]*member{}, static: map[string]string{}, pending: map[string]*pendingMember{}, votes: map[string]int{},
	}
	g.rebalance.fire = func(now time.Time) { c.rebalanceTimedOut(now, g) }
	g.syncing.fire = func(now time.Time) { c.syncTimedOut(now, g) }
	return g
}

// restoreGroup builds a group from its metadata record; meta is nil for a group that only has offsets.
func (c *Coordinator) restoreGroup(now time.Time, name string, meta *kmsg.GroupMetadataValue) *group {
	g := c.newGroup(name)
	if meta == nil {
		return g
	}
	g.protocolType, g.generation, g.stateSinceMs = meta.ProtocolType, meta.Generation, meta.CurrentStateTimestamp
	if meta.Protocol != nil {
		g.protocol = *meta.Protocol
	}
	for i := range meta.Members {
		mm := &meta.Members[i]
		m := &member{
			id: mm.MemberID, instance: deref(mm.InstanceID), client: Client{ID: mm.ClientID, Host: mm.ClientHost},
			sessionFor: ms(mm.SessionTimeoutMillis), rebalance: ms(mm.RebalanceTimeoutMillis),
			protocols: []protocol{{name: g.protocol, metadata: mm.Subscription}}, assignment: mm.Assignment, synced: true,
		}
		if mm.RebalanceTimeoutMillis < 0 {
			m.rebalance = m.sessionFor
		}
		c.addMember(g, m)
		c.heard(now, g, m)
		g.state = stable
	}
	if meta.Leader != nil && g.byID[*meta.Leader] != nil {
		g.leader = *meta.Leader
	}
	if meta.Leader == nil && len(g.members) > 0 { // see left.go
		c.prepare(now, g)
	}
	return g
}

func (g *group) become(now time.Time, s state) {
	g.state, g.stateSinceMs = s, now.UnixMilli()
}

func (c *Coordinator) addMember(g *group, m *member) {
	m.session.fire = func(now time.Time) { c.sessionTimedOut(now, g, m) }
	g.members = append(g.members, m)
	g.byID[m.id] = m
	if m.instance != "" {
		g.static[m.instance] = m.id
	}
	for _, p := range m.protocols {
		g.votes[p.name]++
	}
	if m.joinTo != nil {
		g.awaiting++
	}
	if g.leader == "" {
		g.leader = m.id
	}
}

func (g *group) unvote(m *member) {
	for _, p := range m.protocols {
		if g.votes[p.name]--; g.votes[p.name] == 0 {
			delete(g.votes, p.name)
		}
	}
}

// removeMember takes m out. Whoever waits for it must have been answered.
func (c *Coordinator) removeMember(g *group, m *member) {
	c.timers.stop(&m.session)
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	delete(g.byID, m.id)
	if m.instance != "" && g.static[m.instance] == m.id {
		delete(g.static, m.instance)
	}
	g.unvote(m)
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

// replaceStatic gives a static member's seat to a new member id. Whoever waits under the old id is fenced (KIP-345).
func (c *Coordinator) replaceStatic(g *group, m *member, id string) {
	c.answerJoin(g, m, errJoin(kerr.FencedInstanceID, m.id))
	c.answerSync(m, errSync(kerr.FencedInstanceID))
	delete(g.byID, m.id)
	if g.leader == m.id {
		g.leader = id
	}
	m.id = id
	g.byID[id] = m
	g.static[m.instance] = id
}

func (g *group) setProtocols(m *member, ps []protocol) {
	g.unvote(m)
	m.protocols = ps
	for _, p := range ps {
		g.votes[p.name]++
	}
}

// supports reports whether a member with these protocols can be in the group: they must share one that all know.
func (g *group) supports(protocolType string, ps []kmsg.JoinGroupRequestProtocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(ps) > 0
	}
	if protocolType != g.protocolType {
		return false
	}
	for _, p := range ps {
		if g.votes[p.Name] == len(g.members) {
			return true
		}
	}
	return false
}

// choose returns the protocol that most members prefer among those that all know; ties go to the one named first by the earliest member.
func (g *group) choose() string {
	ballots := map[string]int{}
	best := ""
	for _, m := range g.members {
		for _, p := range m.protocols {
			if g.votes[p.name] == len(g.members) {
				ballots[p.name]++
				break
			}
		}
	}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if ballots[p.name] > ballots[best] {
				best = p.name
			}
		}
	}
	return best
}

func (g *group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.name == protocol {
			return p.metadata
		}
	}
	return []byte{}
}

func (m *member) matches(ps []kmsg.JoinGroupRequestProtocol) bool {
	return slices.EqualFunc(m.protocols, ps, func(a protocol, b kmsg.JoinGroupRequestProtocol) bool {
		return a.name == b.Name && bytes.Equal(a.metadata, b.Metadata)
	})
}

// heard gives m a whole session from now.
func (c *Coordinator) heard(now time.Time, g *group, m *member) {
	c.timers.set(&m.session, now.Add(m.sessionFor))
}

func copyProtocols(ps []kmsg.JoinGroupRequestProtocol) []protocol {
	out := make([]protocol, len(ps))
	for i, p := range ps {
		out[i] = protocol{name: p.Name, metadata: slices.Clone(p.Metadata)}
	}
	return out
}

func ms(n int32) time.Duration { return time.Duration(n) * time.Millisecond }

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
