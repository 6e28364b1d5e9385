package replica_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// TestScript_partition runs testdata/partition: the rules of producers, transactions and the log start, one answer per line.
func TestScript_partition(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/partition", func(t *testing.T, path string) {
		s := &partitionScript{mem: vfs.NewMem(), clk: clock.NewFake(epoch)}
		s.open(t)
		datadriven.RunTest(t, path, s.run)
	})
}

type partitionScript struct {
	mem *vfs.Mem
	clk *clock.Fake
	n   *replica.Node
	p   *replica.Partition

	guard replica.TxnGuard
}

func (s *partitionScript) open(t *testing.T) {
	var err error
	s.n, err = replica.Open(replica.Options{FS: s.mem, Dir: "data", NodeID: 1, Manual: true, Clock: s.clk})
	must(t, err)
	s.p = replica.NewPartition(replica.PartitionOptions{FS: s.mem, Dir: "p", Topic: "t", Clock: s.clk, ProducerExpiry: time.Hour})
	must(t, s.n.AddGroup(1, s.p, replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}))
}

func (s *partitionScript) run(t *testing.T, d *datadriven.TestData) string {
	out := "not answered\n"
	answer := func(r replica.ProduceResult) {
		switch {
		case r.Err != nil:
			out = fmt.Sprintln(r.Err.Error()[:strings.IndexByte(r.Err.Error()+":", ':')])
		case r.Duplicate:
			out = fmt.Sprintf("duplicate of offset %d\n", r.Base)
		default:
			out = fmt.Sprintf("offset %d\n", r.Base)
		}
	}
	pid, ep, seq, n := int64(-1), -1, -1, 1
	d.MaybeScanArgs(t, "pid", &pid)
	d.MaybeScanArgs(t, "epoch", &ep)
	d.MaybeScanArgs(t, "seq", &seq)
	d.MaybeScanArgs(t, "n", &n)
	switch d.Cmd {
	case "produce":
		b := record.NewBuilder(record.BuilderOptions{ProducerID: pid, Epoch: int16(ep), Sequence: int32(seq), Transactional: d.HasArg("txn"), Control: d.HasArg("control")})
		for range n {
			b.Add(s.clk.Now().UnixMilli(), nil, []byte("v"), nil)
		}
		o := replica.ProduceOptions{InternalControl: d.HasArg("internal"), OwnEpoch: d.HasArg("own")}
		if d.HasArg("guarded") { // by the guard taken last
			o.Guard = s.guard
		}
		s.p.Produce(b.Build(), o, answer)
	case "guard":
		s.guard = s.p.TxnGuard(pid)
		return ""
	case "commit", "abort":
		write, coordinator := s.p.WriteMarkerV2, 0
		if d.HasArg("v1") {
			write = s.p.WriteMarker
		}
		d.MaybeScanArgs(t, "coordinator", &coordinator)
		write(pid, int16(ep), d.Cmd == "commit", int32(coordinator), answer)
	case "delete":
		var before int64
		d.ScanArgs(t, "before", &before)
		s.p.DeleteRecords(before, func(start int64, err error) { out = fmt.Sprintln("log start", start, err) })
	case "read":
		return s.read(t, d)
	case "epoch-end":
		end, off := s.p.OffsetForEpoch(int32(ep))
		return fmt.Sprintf("epoch %d ends at %d\n", end, off)
	case "advance":
		var by string
		d.ScanArgs(t, "by", &by)
		dur, err := time.ParseDuration(by)
		must(t, err)
		s.clk.Advance(dur)
		return ""
	case "checkpoint":
		must(t, s.n.Checkpoint(context.Background()))
		return ""
	case "restart":
		must(t, s.n.Close())
		s.open(t)
		return s.state()
	case "state":
		return s.state()
	default:
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	s.n.Pump()
	return out
}

func (s *partitionScript) read(t *testing.T, d *datadriven.TestData) string {
	var from int64
	d.ScanArgs(t, "from", &from)
	r, err := s.p.Read(from, 1<<20, d.HasArg("committed"), true)
	if err != nil {
		return fmt.Sprintln(err.Error()[:strings.IndexByte(err.Error()+":", ':')])
	}
	var out strings.Builder
	for b, err := range record.Split(r.Bytes) {
		must(t, err)
		fmt.Fprintf(&out, "[%d, %d] epoch %d", b.BaseOffset(), b.LastOffset(), b.LeaderEpoch())
		if b.Control() {
			fmt.Fprint(&out, " marker")
		}
		if b.Transactional() {
			fmt.Fprintf(&out, " of producer %d epoch %d", b.ProducerID(), b.ProducerEpoch())
		}
		fmt.Fprintln(&out)
	}
	for _, a := range r.Aborted {
		fmt.Fprintf(&out, "aborted: producer %d, [%d, %d]\n", a.ProducerID, a.First, a.Last)
	}
	fmt.Fprintf(&out, "next %d\n", r.Next)
	return out.String()
}

func (s *partitionScript) state() string {
	var out strings.Builder
	fmt.Fprintf(&out, "start %d, stable %d, high watermark %d\n", s.p.LogStart(), s.p.LastStable(), s.p.HighWatermark())
	for _, p := range s.p.Producers() {
		fmt.Fprintf(&out, "producer %d: epoch %d, sequence %d, transaction from %d, coordinator %d\n", p.ProducerID, p.Epoch, p.LastSequence, p.TxnFirstOffset, p.CoordinatorEpoch)
	}
	return out.String()
}

// TestScript_group runs testdata/group: three nodes, one group, every message and sync by hand.
func TestScript_group(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/group", func(t *testing.T, path string) {
		s := &groupScript{}
		for id := range 3 {
			s.nodes = append(s.nodes, &groupNode{id: uint64(id + 1), mem: vfs.NewMem()})
			s.open(t, s.nodes[id])
		}
		datadriven.RunTest(t, path, s.run)
	})
}

type groupNode struct {
	id  uint64
	mem *vfs.Mem
	n   *replica.Node
	sm  *list
}

type groupScript struct {
	nodes []*groupNode
	sent  []*pb.Message
	out   strings.Builder
}

func (s *groupScript) open(t *testing.T, g *groupNode) {
	o := replica.Options{FS: g.mem, Dir: "data", NodeID: int32(g.id), Manual: true, Shards: 1}
	o.SetSend(func(_ replica.GroupID, m *pb.Message) { s.sent = append(s.sent, proto.Clone(m).(*pb.Message)) })
	var err error
	g.n, err = replica.Open(o)
	must(t, err)
	g.sm = &list{}
	must(t, g.n.AddGroup(1, g.sm, replica.GroupConf{ReplicaID: g.id, Voters: []uint64{1, 2, 3}}))
}

func (s *groupScript) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	node := 0
	d.MaybeScanArgs(t, "node", &node)
	var g *groupNode
	if node > 0 {
		g = s.nodes[node-1]
	}
	switch d.Cmd {
	case "campaign":
		g.n.Campaign(1)
		g.n.Pump()
	case "propose":
		var data string
		d.ScanArgs(t, "data", &data)
		g.n.Propose(1, []byte(data), func(r any, err error) { fmt.Fprintf(&s.out, "%s: answered %v, %v\n", data, r, err) })
		if !d.HasArg("hold") {
			g.n.Pump()
		}
	case "forget-leader":
		g.n.ForgetLeader(1)
		g.n.Pump()
	case "step": // one round of the shards and one sync
		g.n.Step()
	case "deliver": // everything, until the nodes in question have nothing to say
		s.deliver(d)
	case "drop":
		s.sent = nil
	case "cut":
		must(t, g.n.Close())
		s.open(t, g)
	case "ticks":
		var n int
		d.ScanArgs(t, "n", &n)
		for range n {
			g.n.Tick()
			g.n.Pump()
		}
	case "checkpoint":
		must(t, g.n.Checkpoint(context.Background()))
	case "state":
		for _, g := range s.nodes {
			term, leads, ready, applied := g.n.Applied(1)
			fmt.Fprintf(&s.out, "%d: term %d, leads %v, ready %v, applied %d %v\n", g.id, term, leads, ready, applied, g.sm.Items)
		}
	default:
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	for _, m := range s.sent {
		if d.Cmd != "state" && d.Cmd != "deliver" {
			fmt.Fprintln(&s.out, describe(m))
		}
	}
	return s.out.String()
}

// deliver hands messages over, in the order they were sent, apart from those from or to a node that is away.
func (s *groupScript) deliver(d *datadriven.TestData) {
	var away []uint64
	for _, v := range []string{"1", "2", "3"} {
		if slices.ContainsFunc(d.CmdArgs, func(a datadriven.CmdArg) bool { return a.Key == "without" && slices.Contains(a.Vals, v) }) {
			away = append(away, uint64(v[0]-'0'))
		}
	}
	for len(s.sent) > 0 {
		m := s.sent[0]
		s.sent = s.sent[1:]
		if slices.Contains(away, m.GetTo()) || slices.Contains(away, m.GetFrom()) {
			continue
		}
		if d.HasArg("trace") {
			fmt.Fprintln(&s.out, describe(m))
		}
		g := s.nodes[m.GetTo()-1]
		g.n.StepMessage(1, m)
		g.n.Pump()
	}
}

func describe(m *pb.Message) string {
	s := fmt.Sprintf("%d→%d %s term %d", m.GetFrom(), m.GetTo(), strings.TrimPrefix(m.GetType().String(), "Msg"), m.GetTerm())
	if m.GetType() == pb.MsgApp || m.GetType() == pb.MsgAppResp {
		s += fmt.Sprintf(" index %d", m.GetIndex())
	}
	if m.GetReject() {
		s += " rejected"
	}
	if es := m.GetEntries(); len(es) > 0 {
		s += fmt.Sprintf(" entries [%d, %d)", es[0].GetIndex(), es[len(es)-1].GetIndex()+1)
	}
	return s
}
