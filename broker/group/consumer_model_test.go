package group_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// TestModel_consumerGroups runs members of the consumer protocol against the coordinator while writes are delayed, fail and are lost in crashes,
// answers are lost, topics come, grow and go, and clocks run. The coordinator checks G6 and G7 after every write; the model checks, from what
// the members were told, that no partition is with two of them at once (G6), that epochs only grow (G7), that every request is answered once, and
// that the group settles with every partition assigned once it is left alone. In the mixed runs some members speak the classic protocol, and change it
// when they are restarted, so that the group changes between a classic and a consumer group.
func TestModel_consumerGroups(t *testing.T) {
	t.Parallel()
	seeds := 60
	if testing.Short() {
		seeds = 30
	}
	for name, mixed := range map[string]bool{"consumer": false, "mixed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range seeds {
				m := newConsumerModel(t, uint64(i), mixed)
				for range 600 {
					m.step()
				}
				m.settle()
				if t.Failed() {
					t.Fatalf("repeat with seed %d", i)
				}
			}
		})
	}
}

const (
	modelSession   = 45 * time.Second
	modelRebalance = 60 * time.Second
)

type place struct {
	topic     [16]byte
	partition int32
}

// consumer is a member as its client sees it.
type consumer struct {
	instance string
	id       string
	epoch    int32 // 0: joins next
	gone     int   // steps to stay away
	topics   []string
	regex    string
	owned    map[place]bool
	wanted   map[place]bool // what it was last told to have; nil: as owned
	since    time.Time      // since when it is to give something up
	full     bool           // says everything with its next heartbeat
	call     int            // of the heartbeat it waits for; 0: none
	leaving  bool           // that heartbeat is its last
	unsure   bool           // an answer was lost
	lost     time.Time      // when the first of those heartbeats was sent: it may have been told then to give something up
	sent     time.Time
	alive    time.Time // when it sent the last heartbeat that was answered
	old      *classicState
}

type consumerModel struct {
	*script
	t       *testing.T
	rnd     *rand.Rand
	members []*consumer
	calls   int
	mixed   bool
	open    map[int]*consumer
	epoch   int32         // of the group, as last seen
	applied []group.Write // the coordinator was not told yet
}

func newConsumerModel(t *testing.T, seed uint64, mixed bool) *consumerModel {
	m := &consumerModel{
		mixed:  mixed,
		script: newScript(group.Options{Consumer: group.ConsumerOptions{SessionTimeout: modelSession}}),
		t:      t, rnd: rand.New(rand.NewPCG(seed, 848)), open: map[int]*consumer{},
	}
	m.hold = true
	m.parts["t"], m.parts["u"] = 4, 3
	for i := range 5 {
		c := &consumer{owned: map[place]bool{}}
		if i < 2 {
			c.instance = fmt.Sprint("static", i)
		}
		m.subscribe(c)
		m.restart(c)
		m.members = append(m.members, c)
	}
	return m
}

// names are the topics that a member subscribes to, there or not.
func (c *consumer) names() []string {
	if c.regex != "" {
		return []string{"t", "u"}
	}
	return c.topics
}

func (m *consumerModel) subscribe(c *consumer) {
	c.topics, c.regex = [][]string{{"t"}, {"t", "u"}, {"t", "u", "v"}}[m.rnd.IntN(3)], ""
	if m.rnd.IntN(4) == 0 {
		c.topics, c.regex = []string{}, "[tu]"
	}
	c.full = true
	if c.old != nil {
		c.old.rejoin = true
	}
}

func (m *consumerModel) step() {
	switch r := m.rnd.IntN(100); {
	case r < 55:
		m.act(m.members[m.rnd.IntN(len(m.members))])
	case r < 78:
		m.write(m.rnd.IntN(15) == 0)
	case r < 90:
		m.pass(time.Duration(m.rnd.IntN(4000)) * time.Millisecond)
	case r < 92: // the connection breaks: the answer is lost
		if c := m.members[m.rnd.IntN(len(m.members))]; c.call != 0 {
			m.lose(c)
		}
	case r < 93: // a client dies
		c := m.members[m.rnd.IntN(len(m.members))]
		delete(m.open, c.call)
		*c = consumer{instance: c.instance, owned: map[place]bool{}, gone: m.rnd.IntN(5), topics: c.topics, regex: c.regex}
		m.restart(c)
	case r < 95:
		m.subscribe(m.members[m.rnd.IntN(len(m.members))])
	case r < 97:
		m.changeTopics()
	case r < 98:
		m.crash()
	default:
		m.leave(m.members[m.rnd.IntN(len(m.members))])
	}
	m.effects()
	m.check()
}

func (m *consumerModel) changeTopics() {
	name := []string{"t", "u", "v"}[m.rnd.IntN(3)]
	if m.rnd.IntN(3) == 0 && !m.mixed {
		m.topics[name]++ // deleted, or made anew; classic members cannot tell the new one from the old one
	} else {
		m.parts[name]++
	}
	if m.parts[name] == 0 {
		m.parts[name] = 2
	}
	m.changes++
}

func (m *consumerModel) lose(c *consumer) {
	delete(m.open, c.call)
	if c.call, c.full, c.unsure = 0, true, true; c.lost.IsZero() {
		c.lost = c.sent
	}
	if c.leaving {
		c.leaving, c.epoch = false, 0
	}
	if c.old != nil {
		c.old.state = ""
	}
}

// act lets a member do its next thing. What it was told to have it does not take while an answer is outstanding or was lost: with the heartbeat
// before it the member has said that it has nothing of it, and others may have been given it since. KIP-848 leaves this to the client.
func (m *consumerModel) act(c *consumer) {
	switch {
	case c.call != 0:
	case c.gone > 0:
		c.gone--
	case c.old != nil:
		m.actClassic(c)
	case c.wanted != nil && !c.unsure && m.rnd.IntN(2) == 0:
		m.adopt(c)
	default:
		m.beat(c)
	}
}

// adopt brings what a member has in line with what it was told: first it lets go, then it takes.
func (m *consumerModel) adopt(c *consumer) {
	lost := false
	for p := range c.owned {
		if !c.wanted[p] {
			delete(c.owned, p)
			lost = true
		}
	}
	c.full = true
	if lost {
		return
	}
	maps.Copy(c.owned, c.wanted)
	c.wanted = nil
}

func (m *consumerModel) beat(c *consumer) {
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Version, r.Group, r.MemberEpoch = 1, "g", c.epoch
	if c.id == "" {
		m.calls++
		c.id = fmt.Sprintf("m%d", m.calls)
	}
	r.MemberID = c.id
	if c.instance != "" {
		r.InstanceID = &c.instance
	}
	if c.epoch == 0 || c.full || m.rnd.IntN(8) == 0 {
		r.RebalanceTimeoutMillis = int32(modelRebalance.Milliseconds())
		r.SubscribedTopicNames, r.SubscribedTopicRegex = c.topics, &c.regex
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for p := range c.owned {
			r.Topics = append(r.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: p.topic, Partitions: []int32{p.partition}})
		}
		c.full = false
	} else {
		r.InstanceID = nil
	}
	m.c.ConsumerHeartbeat(m.now, group.Client{ID: "c"}, r, m.ask(c))
}

func (m *consumerModel) ask(c *consumer) int {
	m.calls++
	c.call, c.sent = m.calls, m.now
	m.open[m.calls] = c
	return m.calls
}

// leave: what a member has it lets go of before it says so.
func (m *consumerModel) leave(c *consumer) {
	if c.call != 0 || c.epoch <= 0 {
		return
	}
	if c.old != nil {
		m.leaveClassic(c)
		return
	}
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.MemberEpoch = 1, "g", c.id, -1
	if c.instance != "" {
		r.InstanceID = &c.instance
		r.MemberEpoch = int32(-1 - m.rnd.IntN(2))
	}
	c.owned, c.wanted, c.leaving = map[place]bool{}, nil, true
	m.c.ConsumerHeartbeat(m.now, group.Client{ID: "c"}, r, m.ask(c))
}

func (m *consumerModel) pass(d time.Duration) {
	m.now = m.now.Add(d)
	m.c.Tick(m.now)
}

// write lets the oldest write be applied, or the coordinator be told of it.
func (m *consumerModel) write(fail bool) {
	switch {
	case len(m.applied) > 0 && (len(m.held) == 0 || m.rnd.IntN(2) == 0):
		w := m.applied[0]
		m.applied = m.applied[1:]
		m.c.Written(m.now, w.ID, nil)
	case len(m.held) == 0:
	default:
		w := m.held[0]
		m.held = m.held[1:]
		if fail {
			m.c.Written(m.now, w.ID, kerr.RequestTimedOut)
			return
		}
		m.applyOne(w)
		m.applied = append(m.applied, w)
	}
}

func (m *consumerModel) applyOne(w group.Write) {
	for _, r := range w.Records {
		if err := m.c.ApplyRecord(m.next, w.ProducerID, r.Key, r.Value); err != nil {
			m.t.Error(err)
		}
		m.next++
	}
}

// crash loses what is not durable and every answer under way.
func (m *consumerModel) crash() {
	m.effects()
	for _, w := range m.held[:m.rnd.IntN(len(m.held)+1)] {
		m.applyOne(w)
	}
	m.held, m.applied = nil, nil
	blob := m.c.Snapshot()
	m.c = group.New(m.o)
	if err := m.c.Restore(blob); err != nil {
		m.t.Error(err)
	}
	if string(m.c.Snapshot()) != string(blob) {
		m.t.Error("the snapshot changes when it is restored")
	}
	m.c.Load(m.now)
	for _, c := range m.members {
		if c.call != 0 {
			m.lose(c)
		}
	}
}

func (m *consumerModel) effects() {
	for {
		e := m.c.Take()
		m.held = append(m.held, e.Writes...)
		for _, r := range e.Replies {
			id := r.To.(int)
			if c := m.open[id]; c != nil {
				delete(m.open, id)
				c.call = 0
				if r, ok := r.Response.(*kmsg.ConsumerGroupHeartbeatResponse); ok {
					m.answer(c, r)
					continue
				}
				m.answerClassic(c, r.Response)
			}
		}
		if len(e.Replies) == 0 {
			return
		}
	}
}

func (m *consumerModel) answer(c *consumer, r *kmsg.ConsumerGroupHeartbeatResponse) {
	anew := func() { c.owned, c.wanted, c.epoch = map[place]bool{}, nil, 0 }
	if c.leaving {
		if c.leaving = false; r.ErrorCode == 0 {
			c.gone = m.rnd.IntN(10)
		}
		anew()
		if m.rnd.IntN(2) == 0 {
			c.id = ""
		}
		return
	}
	switch r.ErrorCode {
	case 0:
		if r.MemberEpoch < c.epoch {
			m.t.Errorf("G7: %s went from epoch %d to %d", c.id, c.epoch, r.MemberEpoch)
		}
		c.epoch, c.alive, c.unsure = r.MemberEpoch, c.sent, false
		if r.Assignment != nil {
			m.assigned(c, r.Assignment)
		}
	case kerr.FencedMemberEpoch.Code:
		anew()
	case kerr.UnknownMemberID.Code, kerr.FencedInstanceID.Code, kerr.GroupIDNotFound.Code, kerr.UnreleasedInstanceID.Code:
		anew()
		c.id = ""
	case kerr.NotCoordinator.Code, kerr.CoordinatorNotAvailable.Code:
		c.full = true
	default:
		m.t.Errorf("%s: %v", c.id, kerr.ErrorForCode(r.ErrorCode))
	}
}

func (m *consumerModel) assigned(c *consumer, a *kmsg.ConsumerGroupHeartbeatResponseAssignment) {
	wanted := map[place]bool{}
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			wanted[place{t.TopicID, p}] = true
		}
	}
	if c.wanted == nil || maps.Equal(c.wanted, c.owned) {
		if c.since = m.now; !c.lost.IsZero() {
			c.since = c.lost
		}
	}
	c.lost = time.Time{}
	if c.wanted = wanted; maps.Equal(wanted, c.owned) {
		c.wanted = nil
	}
}

// holds reports whether the member may rightly believe in what it has: it was heard of within its session, and is not late in letting go.
func (m *consumerModel) holds(c *consumer) bool {
	if c.old != nil {
		return m.now.Sub(c.alive) < classicSession && (c.since.IsZero() || m.now.Sub(c.since) < classicRebalance)
	}
	if !c.lost.IsZero() && m.now.Sub(c.lost) >= modelRebalance {
		return false
	}
	return m.now.Sub(c.alive) < modelSession && (c.wanted == nil || m.now.Sub(c.since) < modelRebalance)
}

func (m *consumerModel) check() {
	owner := map[place]*consumer{}
	for _, c := range m.members {
		if !m.holds(c) {
			continue
		}
		for p := range c.owned {
			if o := owner[p]; o != nil {
				m.t.Fatalf("G6: %s and %s have %s", o.id, c.id, partitions(p.topic, []int32{p.partition}))
			}
			owner[p] = c
		}
	}
	if g := m.c.DescribeConsumer("g"); g.ErrorCode == 0 {
		if g.Epoch < m.epoch {
			m.t.Errorf("G7: the group went from epoch %d to %d", m.epoch, g.Epoch)
		}
		m.epoch = g.Epoch
	} else {
		m.epoch = 0 // it is a classic group
	}
}

// settle leaves the group alone for some minutes.
func (m *consumerModel) settle() {
	for i := range 400 {
		for _, c := range m.members {
			if c.old != nil {
				if i == 200 && c.call == 0 && m.c.DescribeConsumer("g").ErrorCode != 0 {
					c.old.state = "" // as a client that has seen topics change
				}
				c.gone = 0
				m.actClassic(c)
				m.effects()
				continue
			}
			if c.gone = 0; c.call == 0 && c.wanted != nil && !c.unsure {
				m.adopt(c)
			}
			if c.call == 0 {
				m.beat(c)
			}
			m.effects()
		}
		for len(m.held)+len(m.applied) > 0 {
			m.write(false)
			m.effects()
		}
		m.check()
		m.pass(time.Second)
		m.effects()
	}
	g, classic := m.c.DescribeConsumer("g"), m.c.Describe("g", 5)
	if n := len(g.Members) + len(classic.Members); g.State != "Stable" && classic.State != "Stable" || n != len(m.members) || len(m.open) > 0 {
		m.t.Errorf("after a while the group is %s and %s with %d members, %d requests wait", g.State, classic.State, n, len(m.open))
	}
	want, got := map[place]bool{}, map[place]bool{}
	for _, c := range m.members {
		for _, name := range c.names() {
			if id, n, ok := m.metadata().Topic(name); ok {
				for p := range n {
					want[place{id, p}] = true
				}
			}
		}
		maps.Copy(got, c.owned)
	}
	if !maps.Equal(want, got) {
		m.t.Errorf("after a while %d partitions are with members, of %d", len(got), len(want))
	}
}

// A snapshot of version 1 had no consumer groups, and the same entries.
func TestRestore_readsVersion1(t *testing.T) {
	t.Parallel()
	m := newGroupModel(t, 3)
	for range 400 {
		m.step()
	}
	blob := m.c.Snapshot()
	old := append([]byte{1}, blob[1:]...)
	c := group.New(m.o)
	if err := c.Restore(old); err != nil {
		t.Fatal(err)
	}
	if len(blob) < 100 || string(c.Snapshot()) != string(blob) {
		t.Error("version 1 is read as something else")
	}
	for _, version := range []byte{0, 3} {
		if err := group.New(m.o).Restore(append([]byte{version}, blob[1:]...)); err == nil {
			t.Errorf("a snapshot of version %d was taken", version)
		}
	}
}

func TestRestore_refusesDamagedConsumers(t *testing.T) {
	t.Parallel()
	m := newConsumerModel(t, 7, true)
	for range 300 {
		m.step()
	}
	blob := m.c.Snapshot()
	if len(blob) < 200 {
		t.Fatalf("a snapshot of %d bytes", len(blob))
	}
	for i := 1; i < len(blob); i++ {
		if err := group.New(m.o).Restore(blob[:i]); err == nil {
			t.Fatalf("a snapshot cut to %d of %d bytes was taken", i, len(blob))
		}
	}
}
