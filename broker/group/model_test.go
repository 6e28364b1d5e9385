package group_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// TestModel_groups runs members against the coordinator while writes are delayed, fail and are lost in crashes, and clocks run. The
// coordinator checks its own invariants (G2–G5) at every step; the model checks that every request is answered once, that no partition has two
// owners in one generation, that acknowledged offsets are found, that who was told that it has left is not brought back, and that the group settles
// once it is left alone.
func TestModel_groups(t *testing.T) {
	t.Parallel()
	seeds := 100
	if testing.Short() {
		seeds = 40
	}
	for i := range seeds {
		m := newGroupModel(t, uint64(i))
		for range 500 {
			m.step()
		}
		m.settle()
		if t.Failed() {
			t.Fatalf("repeat with seed %d", i)
		}
	}
}

// client is a member as its client sees it.
type client struct {
	instance   string
	id         string
	generation int32
	leader     bool
	members    []string
	state      string // "", "joining", "joined", "syncing", "member"
	call       int    // of the request it waits for; 0: none
	asked      time.Time
}

type groupModel struct {
	*script
	t       *testing.T
	rnd     *rand.Rand
	clients []*client
	calls   int
	open    map[int]*client // requests that were not answered
	offers  map[string]map[string]bool
	acked   int64 // the largest offset whose commit was acknowledged
	sent    int64
	commits map[int]int64
	leaves  map[int]string  // member ids that ask to leave
	left    map[string]bool // those that were told that they have
}

func newGroupModel(t *testing.T, seed uint64) *groupModel {
	o := group.Options{}
	if seed%3 == 0 {
		o.InitialRebalanceDelay = 3 * time.Second
	}
	m := &groupModel{
		script: newScript(o), t: t, rnd: rand.New(rand.NewPCG(seed, 2)), open: map[int]*client{}, offers: map[string]map[string]bool{},
		commits: map[int]int64{}, leaves: map[int]string{}, left: map[string]bool{},
	}
	m.hold = true
	for i := range 5 {
		c := &client{generation: -1}
		if i < 2 {
			c.instance = fmt.Sprint("static", i)
		}
		m.clients = append(m.clients, c)
	}
	return m
}

func (m *groupModel) step() {
	switch r := m.rnd.IntN(100); {
	case r < 60:
		m.act(m.clients[m.rnd.IntN(len(m.clients))])
	case r < 80:
		m.write(m.rnd.IntN(15) == 0)
	case r < 92:
		m.pass(time.Duration(m.rnd.IntN(3000)) * time.Millisecond)
	case r < 95: // a client dies; its connection answers nobody
		c := m.clients[m.rnd.IntN(len(m.clients))]
		delete(m.open, c.call)
		*c = client{instance: c.instance, generation: -1}
	case r < 97:
		m.commit()
	case r < 98:
		m.crash()
	default:
		c := m.clients[m.rnd.IntN(len(m.clients))]
		if c.id != "" && c.call == 0 {
			l := kmsg.NewPtrLeaveGroupRequest()
			l.Version, l.Group = 5, "g"
			l.Members = []kmsg.LeaveGroupRequestMember{{MemberID: c.id}}
			call := m.ask(c)
			m.leaves[call] = c.id
			m.c.Leave(m.now, l, call)
			c.state, c.id = "", ""
		}
	}
	m.effects()
}

func (m *groupModel) ask(c *client) int {
	m.calls++
	c.call, c.asked = m.calls, m.now
	m.open[m.calls] = c
	return m.calls
}

func (m *groupModel) act(c *client) {
	if c.call != 0 {
		return
	}
	switch c.state {
	case "":
		j := kmsg.NewPtrJoinGroupRequest()
		j.Version, j.Group, j.MemberID, j.ProtocolType = 9, "g", c.id, "consumer"
		j.SessionTimeoutMillis, j.RebalanceTimeoutMillis = 10_000, 15_000
		if c.instance != "" {
			j.InstanceID = &c.instance
		}
		j.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("x")}}
		m.c.Join(m.now, group.Client{ID: "c"}, j, m.ask(c))
		c.state = "joining"
	case "joined":
		s := kmsg.NewPtrSyncGroupRequest()
		s.Version, s.Group, s.MemberID, s.Generation = 5, "g", c.id, c.generation
		for _, id := range c.members {
			s.GroupAssignment = append(s.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte("for " + id)})
		}
		m.c.Sync(m.now, s, m.ask(c))
		c.state = "syncing"
	case "member":
		if m.rnd.IntN(20) == 0 {
			c.state = "" // rejoins
			return
		}
		h := kmsg.NewHeartbeatRequest()
		h.Group, h.MemberID, h.Generation = "g", c.id, c.generation
		m.c.Heartbeat(m.now, &h, m.ask(c))
	}
}

// commit is an administrator's: to a group of its own.
func (m *groupModel) commit() {
	m.sent++
	r := kmsg.NewOffsetCommitRequest()
	r.Version, r.Group, r.Generation = 8, "admin", -1
	r.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: m.sent}}}}
	m.calls++
	m.commits[m.calls] = m.sent
	m.c.Commit(m.now, &r, m.known, m.calls)
}

func (m *groupModel) pass(d time.Duration) {
	m.now = m.now.Add(d)
	m.c.Tick(m.now)
}

// write lets the oldest write happen.
func (m *groupModel) write(fail bool) {
	if len(m.held) == 0 {
		return
	}
	w := m.held[0]
	m.held = m.held[1:]
	if fail {
		m.c.Written(m.now, w.ID, kerr.RequestTimedOut)
		return
	}
	m.applyOne(w)
	m.c.Written(m.now, w.ID, nil)
}

func (m *groupModel) applyOne(w group.Write) {
	for _, r := range w.Records {
		if err := m.c.ApplyRecord(m.next, w.ProducerID, r.Key, r.Value); err != nil {
			m.t.Error(err)
		}
		m.next++
	}
}

// crash loses what is not durable and every answer under way.
func (m *groupModel) crash() {
	m.effects()
	for _, w := range m.held[:m.rnd.IntN(len(m.held)+1)] {
		m.applyOne(w)
	}
	m.held = nil
	blob := m.c.Snapshot()
	m.c = group.New(m.o)
	if err := m.c.Restore(blob); err != nil {
		m.t.Error(err)
	}
	if string(m.c.Snapshot()) != string(blob) {
		m.t.Error("the snapshot changes when it is restored")
	}
	m.c.Load(m.now)
	for id, c := range m.open {
		delete(m.open, id)
		c.call = 0
		if c.state == "joining" || c.state == "syncing" {
			c.state = ""
		}
	}
	clear(m.commits)
	clear(m.leaves)
	for _, dm := range m.c.Describe("g", 5).Members {
		if m.left[dm.MemberID] {
			m.t.Errorf("%s is back: it was told that it has left", dm.MemberID)
		}
	}
	r := kmsg.NewOffsetFetchRequestGroup()
	r.Group, r.Topics = "admin", []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}
	if got := m.c.FetchOffsets(&r, true, m.known).Topics[0].Partitions[0].Offset; m.acked > 0 && got < m.acked {
		m.t.Errorf("offset %d was acknowledged, %d is found", m.acked, got)
	}
}

func (m *groupModel) effects() {
	e := m.c.Take()
	m.held = append(m.held, e.Writes...)
	for _, r := range e.Replies {
		id := r.To.(int)
		if o, ok := m.commits[id]; ok {
			delete(m.commits, id)
			if r.Response.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode == 0 {
				m.acked = max(m.acked, o)
			}
			continue
		}
		if l, ok := r.Response.(*kmsg.LeaveGroupResponse); ok && l.ErrorCode == 0 && l.Members[0].ErrorCode == 0 {
			m.left[m.leaves[id]] = true
		}
		if c := m.open[id]; c != nil {
			delete(m.open, id)
			c.call = 0
			m.answer(c, r.Response)
		}
	}
}

func (m *groupModel) answer(c *client, response any) {
	switch r := response.(type) {
	case *kmsg.JoinGroupResponse:
		c.state, c.members = "", nil
		switch r.ErrorCode {
		case 0:
			c.state, c.id, c.generation = "joined", r.MemberID, r.Generation
			if r.LeaderID == r.MemberID && !r.SkipAssignment {
				for _, jm := range r.Members {
					c.members = append(c.members, jm.MemberID)
				}
			}
		case kerr.MemberIDRequired.Code:
			c.id = r.MemberID
		case kerr.UnknownMemberID.Code, kerr.FencedInstanceID.Code:
			c.id = ""
		}
	case *kmsg.SyncGroupResponse:
		c.state = ""
		switch r.ErrorCode {
		case 0:
			c.state = "member"
			m.offered(c, string(r.MemberAssignment))
		case kerr.UnknownMemberID.Code, kerr.FencedInstanceID.Code:
			c.id = ""
		}
	case *kmsg.HeartbeatResponse:
		if r.ErrorCode != 0 {
			c.state = ""
			if r.ErrorCode != kerr.RebalanceInProgress.Code {
				c.id = ""
			}
		}
	}
}

// offered notes who was given what: one assignment goes to one member of a generation, or, for a static seat, to its next holder.
func (m *groupModel) offered(c *client, what string) {
	if what == "" {
		return
	}
	holder := c.id
	if c.instance != "" {
		holder = c.instance
	}
	key := fmt.Sprint(c.generation, " ", what)
	if m.offers[key] == nil {
		m.offers[key] = map[string]bool{}
	}
	if m.offers[key][holder] = true; len(m.offers[key]) > 1 {
		m.t.Errorf("generation %d: %q was given to %v", c.generation, what, m.offers[key])
	}
}

// settle leaves the group alone: all live clients end up as members of one generation, and every request was answered.
func (m *groupModel) settle() {
	for range 1500 {
		for _, c := range m.clients {
			m.act(c)
			m.effects()
		}
		m.write(false)
		m.effects()
		m.pass(20 * time.Millisecond)
		m.effects()
	}
	for i, c := range m.clients {
		if c.call != 0 && m.now.Sub(c.asked) > 20*time.Second {
			m.t.Errorf("client %d in %q waits for an answer since %v", i, c.state, m.now.Sub(c.asked))
		}
	}
}

func TestRestore_refusesDamage(t *testing.T) {
	t.Parallel()
	m := newGroupModel(t, 3)
	for range 400 {
		m.step()
	}
	blob := m.c.Snapshot()
	for i := 1; i < len(blob); i++ {
		if err := group.New(m.o).Restore(blob[:i]); err == nil {
			t.Fatalf("a snapshot cut to %d of %d bytes was taken", i, len(blob))
		}
	}
	if err := group.New(m.o).Restore(append(blob, 0)); err == nil {
		t.Fatal("a snapshot with a byte too many was taken")
	}
}
