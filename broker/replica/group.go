package replica

import (
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/bytepool"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/invariant"
)

// group is one raft group as a pure state machine: it is stepped with proposals, messages, ticks and the news that a write is durable,
// and says in effects what is to be written, sent, applied and answered. It has no goroutine, clock or file of its own.
//
// N3: a write's responses are delivered only after it, and every write before it, is durable.
// N4: entries are applied in index order, each once since the last Restore.
type group struct {
	id        GroupID
	replicaID uint64
	rn        *raft.RawNode
	log       *raftLog
	sm        StateMachine

	applied, appliedTerm uint64
	term                 uint64
	leader               bool
	ready                bool // leads, and the entry of its own term is applied: it knows all that was ever acknowledged
	single               bool // the only voter: nobody to send old entries to, nobody to hear from

	proposed  []proposal // accepted by raft, not yet seen in a Ready
	waiting   []proposal // in the log, by ascending index, not yet applied
	appends   []*write   // in flight, in order
	dirty     bool       // something to checkpoint since the last one
	removed   bool
	queued    bool           // the shard pumps it in this round
	published *atomic.Uint64 // term<<1 | leads, for other goroutines; nil in tests
	payloads  *bytepool.Pool // takes back the payloads of a single voter's entries; nil in tests
	onUp      func()         // called once, when up
	upIndex   uint64         // what must be applied for that
}

// up reports whether the group has caught up with what this node knew to be committed when it was opened; a single voter also leads.
func (g *group) up() bool {
	if g.single {
		return g.ready
	}
	return g.applied >= g.upIndex
}

// proposal is what a caller waits for.
type proposal struct {
	data   []byte
	index  uint64
	term   uint64
	placed func() // see Node.ProposePlaced; nil for nobody
	done   func(any, error)
}

// write is one MsgStorageAppend.
type write struct {
	g         *group
	records   []wal.Record
	responses []*pb.Message
	placed    []func() // to be called when it is in the committer's hands
}

// completion is an answer that is due.
type completion struct {
	done   func(any, error)
	result any
	err    error
	bytes  int
}

// effects is what stepping groups asks of the shell.
type effects struct {
	writes      []*write
	applies     []apply
	messages    []outMessage
	completions []completion
	fatal       error
}

type apply struct {
	g *group
	m *pb.Message
}

type outMessage struct {
	g GroupID
	m *pb.Message
}

const (
	electionTicks  = 15
	heartbeatTicks = 2
	// Unapplied entries are handed out by so many bytes at a time: what a restart holds in memory while it applies again.
	applyBytesMax = 4 << 20
	// Uncommitted bytes of one group beyond which proposals are refused. A last resort, like Options.InFlightBytes: a batch refused between
	// two of its producer's makes the later one out of sequence.
	uncommittedBytesMax = 256 << 20
)

func newGroup(id GroupID, replicaID uint64, log *raftLog, applied, appliedTerm uint64, sm StateMachine, lg raft.Logger) (*group, error) {
	g := &group{id: id, replicaID: replicaID, log: log, sm: sm, applied: applied, appliedTerm: appliedTerm, dirty: true}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: replicaID, ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks, Storage: log, Applied: applied,
		AsyncStorageWrites: true, MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: applyBytesMax,
		MaxUncommittedEntriesSize: uncommittedBytesMax, MaxInflightMsgs: 128, MaxInflightBytes: 16 << 20,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: lg,
	})
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", id, err)
	}
	g.rn = rn
	g.term = log.hs.term
	g.configured()
	return g, nil
}

func (g *group) configured() {
	cs := g.log.cs
	g.single = len(cs.GetVoters()) == 1 && len(cs.GetVotersOutgoing()) == 0 && len(cs.GetLearners()) == 0 && cs.GetVoters()[0] == g.replicaID
}

// propose hands p.data to raft; p.done is called once, through effects. The data must not be changed any more.
func (g *group) propose(p proposal, fx *effects) {
	if err := g.proposeErr(p.data); err != nil {
		fx.complete(p, nil, err)
		return
	}
	g.proposed = append(g.proposed, p)
}

func (g *group) proposeErr(data []byte) error {
	if !g.leader {
		return ErrNotLeader
	}
	err := g.rn.Propose(data)
	if errors.Is(err, raft.ErrProposalDropped) {
		return ErrTooManyInFlight // we lead: only the bound on uncommitted bytes drops
	}
	return err
}

func (fx *effects) complete(p proposal, result any, err error) {
	fx.completions = append(fx.completions, completion{done: p.done, result: result, err: err, bytes: len(p.data)})
}

// pump drains what raft is ready to do into fx.
func (g *group) pump(fx *effects) {
	for g.rn.HasReady() {
		rd := g.rn.Ready()
		if rd.SoftState != nil || !raft.IsEmptyHardState(rd.HardState) {
			g.follow(rd, fx)
		}
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				g.append(m, fx)
			case raft.LocalApplyThread:
				fx.applies = append(fx.applies, apply{g, m})
			default:
				fx.messages = append(fx.messages, outMessage{g.id, m})
			}
		}
	}
}

// follow notes who leads. Proposals in flight of a leader that lost its lead are answered at once: they may still be applied, which is
// what ErrNotLeader says.
func (g *group) follow(rd raft.Ready, fx *effects) {
	term, leader := g.term, g.leader
	if !raft.IsEmptyHardState(rd.HardState) {
		g.term = rd.HardState.GetTerm()
	}
	if rd.SoftState != nil {
		g.leader = rd.SoftState.RaftState == raft.StateLeader
	}
	if g.term != term || !g.leader {
		g.ready = false
	}
	if leader && (!g.leader || g.term != term) {
		g.abandon(ErrNotLeader, fx)
	}
	g.announce()
}

func (g *group) abandon(err error, fx *effects) {
	for _, p := range append(g.waiting, g.proposed...) {
		fx.complete(p, nil, err)
	}
	g.waiting, g.proposed = nil, nil
}

// announce tells the state machine, when it asks to know, who leads.
func (g *group) announce() {
	if g.published != nil {
		v := g.term << 1
		if g.leader && g.ready {
			v |= 1
		}
		g.published.Store(v)
	}
	if o, ok := g.sm.(leaderObserver); ok {
		o.leaderChanged(g.term, g.leader && g.ready)
	}
}

type leaderObserver interface {
	leaderChanged(term uint64, leads bool)
}

// append turns a MsgStorageAppend into a write. The entries are served from memory at once.
func (g *group) append(m *pb.Message, fx *effects) {
	w := &write{g: g, responses: m.GetResponses()}
	hs := hardState{term: m.GetTerm(), vote: m.GetVote(), commit: m.GetCommit()}
	if hs.term != 0 {
		// A commit index alone is not written: it is known again once a leader is.
		if hs.term != g.log.hs.term || hs.vote != g.log.hs.vote {
			w.records = append(w.records, wal.Record{Group: uint64(g.id), Kind: kindHardState, Term: hs.term, Payload: hs.payload()})
		}
		g.log.hs = hs
	}
	for _, e := range m.GetEntries() {
		kind := entryKind(e.GetType())
		err := g.log.put(e.GetIndex(), slot{term: e.GetTerm(), ent: e, kind: kind})
		invariant.Check(err == nil, "N1: group %d: %v", g.id, err)
		w.records = append(w.records, wal.Record{Group: uint64(g.id), Kind: kind, Index: e.GetIndex(), Term: e.GetTerm(), Payload: e.Data})
		if placed := g.match(e); placed != nil {
			w.placed = append(w.placed, placed)
		}
	}
	if len(w.records) == 0 && len(g.appends) == 0 {
		g.respond(w, fx)
		return
	}
	g.dirty = true
	g.appends = append(g.appends, w)
	if len(w.records) > 0 {
		fx.writes = append(fx.writes, w)
	}
}

// match gives the oldest proposal its index: only this node proposes while it leads, and a leader's proposals enter its log in order. It
// returns whom to tell that the entry has its place: of a single voter alone, since with others an entry may still be superseded.
func (g *group) match(e *pb.Entry) (placed func()) {
	if !g.leader || e.GetTerm() != g.term || len(e.Data) == 0 || e.GetType() != pb.EntryNormal {
		return nil
	}
	invariant.Check(len(g.proposed) > 0 && len(g.proposed[0].data) == len(e.Data), "N2: group %d: entry %d of term %d is not the proposal that is due", g.id, e.GetIndex(), e.GetTerm())
	p := g.proposed[0]
	p.index, p.term = e.GetIndex(), e.GetTerm()
	g.proposed[0] = proposal{}
	g.proposed = g.proposed[1:]
	g.waiting = append(g.waiting, p)
	if !g.single {
		return nil
	}
	return p.placed
}

// durable says that w stands in the write-ahead log, record by record at pos.
func (g *group) durable(w *write, pos []wal.Pos, fx *effects) {
	invariant.Check(len(g.appends) > 0 && g.appends[0] == w, "N3: group %d: writes became durable out of order", g.id)
	for i, r := range w.records {
		if r.Kind != kindHardState && pos != nil {
			g.log.located(r.Index, r.Term, pos[i])
		}
	}
	g.appends = g.appends[1:]
	g.respond(w, fx)
	for len(g.appends) > 0 && len(g.appends[0].records) == 0 { // waited only for those before it
		w := g.appends[0]
		g.appends = g.appends[1:]
		g.respond(w, fx)
	}
}

func (g *group) respond(w *write, fx *effects) {
	for _, m := range w.responses {
		if m.GetTo() == g.replicaID {
			g.step(m)
			continue
		}
		fx.messages = append(fx.messages, outMessage{g.id, m})
	}
}

// step gives raft a message. Errors are of messages that no longer matter (a peer that was removed, a proposal that raft dropped).
// status describes the group.
func (g *group) status() GroupStatus {
	rs := g.rn.Status()
	st := GroupStatus{Term: g.term, Leader: rs.Lead, Commit: rs.GetCommit(), Last: g.log.last()}
	add := func(id uint64, learner bool) {
		r := ReplicaStatus{ReplicaID: id, Learner: learner}
		if id == g.replicaID {
			r.Match = st.Last
		} else {
			r.Match = rs.Progress[id].Match
		}
		st.Replicas = append(st.Replicas, r)
	}
	for _, id := range g.log.cs.GetVoters() {
		add(id, false)
	}
	for _, id := range g.log.cs.GetLearners() {
		add(id, true)
	}
	return st
}

func (g *group) step(m *pb.Message) { _ = g.rn.Step(m) }

// apply applies one MsgStorageApply.
func (g *group) apply(m *pb.Message, fx *effects) {
	first := len(fx.completions)
	for _, e := range m.GetEntries() {
		i := e.GetIndex()
		invariant.Check(i == g.applied+1, "N4: group %d: entry %d after %d", g.id, i, g.applied)
		result := g.applyOne(e)
		if f, ok := result.(Fatal); ok {
			fx.completions = fx.completions[:first] // nothing of this round may be acknowledged
			fx.fatal = fmt.Errorf("group %d, entry %d: %w", g.id, i, f.Err)
			return
		}
		g.applied, g.appliedTerm = i, e.GetTerm()
		g.answer(e, result, fx)
	}
	g.dirty = true
	if r, ok := g.sm.(rounder); ok {
		r.endRound()
	}
	failpoint.Hit("replica.afterApply")
	if g.single {
		g.log.evict(g.applied)
	} else if g.applied > cachedEntries {
		g.log.evict(g.applied - cachedEntries)
	}
	for _, r := range m.GetResponses() {
		g.step(r)
	}
	if g.single {
		g.recycle(m.GetEntries()) // after the responses: raft counts the entries' bytes once more
	}
}

// recycle gives back the payloads of entries that were applied. Nobody has them any more: raft lets go of what is stable, and the log of what was
// evicted; a single voter sends to nobody, and commits only what is durable, so that the write-ahead log has written them.
func (g *group) recycle(es []*pb.Entry) {
	if g.payloads == nil || failpoint.Bug("wal-not-synced") {
		return
	}
	for _, e := range es {
		if e.GetType() == pb.EntryNormal && e.GetIndex() <= g.log.cachedTo {
			g.payloads.Put(e.Data)
			e.Data = nil
		}
	}
}

// cachedEntries is how many applied entries stay in memory for followers.
const cachedEntries = 512

// rounder is a state machine that publishes what it applied once for many entries.
type rounder interface{ endRound() }

func (g *group) applyOne(e *pb.Entry) any {
	switch e.GetType() {
	case pb.EntryConfChange, pb.EntryConfChangeV2:
		return g.applyConf(e)
	}
	if len(e.Data) == 0 { // a new leader's first entry
		if g.leader && e.GetTerm() == g.term {
			g.ready = true
			g.announce()
		}
		return nil
	}
	return g.sm.Apply(Entry{Index: e.GetIndex(), Term: e.GetTerm(), Payload: e.Data})
}

func (g *group) answer(e *pb.Entry, result any, fx *effects) {
	for len(g.waiting) > 0 && g.waiting[0].index <= e.GetIndex() {
		p := g.waiting[0]
		g.waiting[0] = proposal{}
		g.waiting = g.waiting[1:]
		if p.index == e.GetIndex() && p.term == e.GetTerm() {
			fx.complete(p, result, nil)
		} else {
			fx.complete(p, nil, ErrNotLeader)
		}
	}
}

func (g *group) applyConf(e *pb.Entry) any {
	var cc pb.ConfChangeI
	if e.GetType() == pb.EntryConfChange {
		c := &pb.ConfChange{}
		if err := proto.Unmarshal(e.Data, c); err != nil {
			return Fatal{fmt.Errorf("configuration change: %w: %w", ErrCorrupt, err)}
		}
		cc = c
	} else {
		c := &pb.ConfChangeV2{}
		if err := proto.Unmarshal(e.Data, c); err != nil {
			return Fatal{fmt.Errorf("configuration change: %w: %w", ErrCorrupt, err)}
		}
		cc = c
	}
	g.log.cs = g.rn.ApplyConfChange(cc)
	g.configured()
	return nil
}
