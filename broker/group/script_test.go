package group_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// TestScripts runs testdata/*.txt: requests and time in, writes and answers out. Each write is applied at once, unless "hold" says so.
// Rewrite the expectations with: go test ./broker/group -run TestScripts -rewrite
func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScript(group.Options{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

type script struct {
	c       *group.Coordinator
	o       group.Options
	now     time.Time
	start   time.Time
	next    int64 // offset of the next record
	hold    bool
	held    []group.Write
	fail    *kerr.Error
	ids     int
	topics  map[string]byte  // how often each was deleted or made anew; odd means it is gone
	parts   map[string]int32 // partitions of the topics that consumer groups see
	changes uint64           // of topics
	traced  strings.Builder
}

func newScript(o group.Options) *script {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &script{now: start, start: start, topics: map[string]byte{}, parts: map[string]int32{}}
	o.Metadata = s.metadata
	o.NewMemberID = func(prefix string) string {
		s.ids++
		return fmt.Sprintf("%s-%d", prefix, s.ids)
	}
	s.o = o
	s.c = group.New(o)
	s.c.Load(s.now)
	return s
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.traced, format+"\n", args...) }

// drain carries out effects until there are none.
func (s *script) drain() string {
	for {
		e := s.c.Take()
		if len(e.Writes)+len(e.Replies) == 0 {
			break
		}
		for _, w := range e.Writes {
			s.printf("write %d%s", w.ID, ofTxn(w))
			for _, r := range w.Records {
				s.printf("  %s", recordString(r))
			}
			s.held = append(s.held, w)
		}
		for _, r := range e.Replies {
			s.printf("%v <- %s", r.To, responseString(r.Response))
		}
		if !s.hold {
			s.apply()
		}
	}
	out := s.traced.String()
	s.traced.Reset()
	return out
}

func (s *script) apply() {
	ws := s.held
	s.held = nil
	for _, w := range ws {
		if s.fail == nil {
			for _, r := range w.Records {
				if err := s.c.ApplyRecord(s.next, w.ProducerID, r.Key, r.Value); err != nil {
					s.printf("apply: %v", err)
				}
				s.next++
			}
		}
		s.c.Written(s.now, w.ID, s.fail)
	}
}

func ofTxn(w group.Write) string {
	if w.ProducerID < 0 {
		return ""
	}
	return fmt.Sprintf(" producer=%d/%d", w.ProducerID, w.ProducerEpoch)
}

// args are a command's key=value pairs.
type args map[string]string

func (a args) str(key string, def string) string {
	if v, ok := a[key]; ok {
		return v
	}
	return def
}

func (a args) num(t *testing.T, key string, def int) int {
	t.Helper()
	v, ok := a[key]
	if !ok {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s=%s: %v", key, v, err)
	}
	return n
}

func (a args) opt(key string) *string {
	if v, ok := a[key]; ok {
		return &v
	}
	return nil
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	a := args{}
	for _, ca := range d.CmdArgs {
		a[ca.Key] = strings.Join(ca.Vals, ",")
	}
	to := a.str("as", a.str("member", a.str("instance", "client")))
	g := a.str("group", "g")
	switch d.Cmd {
	case "options":
		s.o.InitialRebalanceDelay = time.Duration(a.num(t, "delay", 0)) * time.Millisecond
		s.o.MembersMax = a.num(t, "members", 0)
		s.o.Consumer.MembersMax = a.num(t, "consumers", 0)
		s.o.OffsetRetention = time.Duration(a.num(t, "retention", 0)) * time.Second
		s.c = group.New(s.o)
		s.c.Load(s.now)
	case "join":
		s.c.Join(s.now, group.Client{ID: a.str("client", "c"), Host: "/h"}, s.join(t, g, a), to)
	case "sync":
		s.c.Sync(s.now, s.sync(t, g, a), to)
	case "heartbeat":
		r := kmsg.NewHeartbeatRequest()
		r.Group, r.MemberID, r.Generation, r.InstanceID = g, a.str("member", ""), int32(a.num(t, "gen", 1)), a.opt("instance")
		s.c.Heartbeat(s.now, &r, to)
	case "leave":
		s.c.Leave(s.now, s.leave(t, g, a), to)
	case "commit":
		r := kmsg.NewOffsetCommitRequest()
		r.Version, r.Group, r.MemberID = int16(a.num(t, "v", 8)), g, a.str("member", "")
		r.Generation, r.InstanceID = int32(a.num(t, "gen", -1)), a.opt("instance")
		r.RetentionTimeMillis = int64(a.num(t, "retention", -1))
		for _, p := range tps(t, a.str("offsets", "t/0:1")) {
			md := a.str("metadata", "")
			r.Topics = append(r.Topics, kmsg.OffsetCommitRequestTopic{Topic: p.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{
				{Partition: p.partition, Offset: p.offset, LeaderEpoch: 3, Metadata: &md}}})
		}
		s.c.Commit(s.now, &r, s.known, to)
	case "txncommit":
		r := kmsg.NewTxnOffsetCommitRequest()
		r.Version, r.Group, r.MemberID = int16(a.num(t, "v", 5)), g, a.str("member", "")
		r.Generation, r.InstanceID = int32(a.num(t, "gen", -1)), a.opt("instance")
		r.ProducerID, r.ProducerEpoch, r.TransactionalID = int64(a.num(t, "producer", 1)), 0, "x"
		for _, p := range tps(t, a.str("offsets", "t/0:1")) {
			r.Topics = append(r.Topics, kmsg.TxnOffsetCommitRequestTopic{Topic: p.topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{
				{Partition: p.partition, Offset: p.offset, LeaderEpoch: -1}}})
		}
		s.c.CommitTxn(s.now, &r, s.known, 0, to)
	case "marker":
		s.c.ApplyMarker(int64(a.num(t, "producer", 1)), a.str("end", "commit") == "commit")
	case "fetch":
		r := kmsg.NewOffsetFetchRequestGroup()
		r.Group, r.MemberID, r.MemberEpoch = g, a.opt("member"), int32(a.num(t, "epoch", -1))
		for _, p := range tps(t, a.str("offsets", "")) {
			r.Topics = append(r.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: p.topic, Partitions: []int32{p.partition}})
		}
		resp := s.c.FetchOffsets(&r, a.str("stable", "") != "", s.known)
		s.printf("%s", responseString(resp))
	case "deletegroup":
		s.c.DeleteGroup(s.now, g, to)
	case "deleteoffsets":
		r := kmsg.NewOffsetDeleteRequest()
		r.Group = g
		for _, p := range tps(t, a.str("offsets", "")) {
			r.Topics = append(r.Topics, kmsg.OffsetDeleteRequestTopic{Topic: p.topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: p.partition}}})
		}
		s.c.DeleteOffsets(s.now, &r, s.known, to)
	case "deletetopic":
		name := a.str("topic", "t")
		s.topics[name]++
		s.changes++
		if a.str("told", "y") == "y" {
			s.c.TopicDeleted(topicID(name, s.topics[name]-1))
		}
	case "createtopic":
		s.topics[a.str("topic", "t")]++
		s.changes++
	case "describe":
		s.printf("%s", responseString(s.c.Describe(g, int16(a.num(t, "v", 5)))))
	case "list":
		for _, lg := range s.c.List(fields(a.str("states", "")), fields(a.str("types", ""))) {
			s.printf("%s type=%q state=%s kind=%s", lg.Group, lg.ProtocolType, lg.GroupState, lg.GroupType)
		}
	case "tick":
		dur, err := time.ParseDuration(a.str("by", "1s"))
		if err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(dur)
		s.c.Tick(s.now)
	case "hold":
		s.hold = true
	case "apply":
		s.hold = false
		s.fail = nil
		if code := a.num(t, "fail", 0); code != 0 {
			s.fail = kerr.TypedErrorForCode(int16(code))
		}
		s.apply()
		out := s.drain()
		s.fail = nil
		return out
	case "unload":
		s.c.Unload(s.now)
	case "load":
		s.c.Load(s.now)
	case "restart": // what was not applied is lost; the store comes back from a snapshot
		blob := s.c.Snapshot()
		s.held, s.hold = nil, false
		s.c = group.New(s.o)
		if err := s.c.Restore(blob); err != nil {
			t.Fatal(err)
		}
		s.c.Load(s.now)
	default:
		if !s.consumer(t, d, a, g, to) {
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
		}
	}
	return s.drain()
}

func (s *script) known(tp group.TopicPartition) ([16]byte, bool) {
	n := s.topics[tp.Topic]
	return topicID(tp.Topic, n), n%2 == 0 && tp.Partition < 16
}

func topicID(name string, n byte) (id [16]byte) {
	copy(id[1:], name)
	id[0] = n + 1
	return id
}

func (s *script) join(t *testing.T, g string, a args) *kmsg.JoinGroupRequest {
	t.Helper()
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.InstanceID = int16(a.num(t, "v", 3)), g, a.str("member", ""), a.opt("instance")
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = int32(a.num(t, "session", 10_000)), int32(a.num(t, "rebalance", 30_000))
	r.ProtocolType = a.str("type", "consumer")
	for _, p := range fields(a.str("protocols", "range")) {
		name, topics, ok := strings.Cut(p, ":")
		md := []byte("raw")
		if ok {
			m := kmsg.NewConsumerMemberMetadata()
			m.Topics = strings.Split(topics, "+")
			if v, ok := a["owned"]; ok {
				m.Version = 1
				for _, p := range tps(t, v) {
					m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: p.topic, Partitions: []int32{p.partition}})
				}
			}
			md = m.AppendTo(nil)
		}
		r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: md})
	}
	return r
}

func (s *script) sync(t *testing.T, g string, a args) *kmsg.SyncGroupRequest {
	t.Helper()
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.Group, r.MemberID, r.Generation, r.InstanceID = 5, g, a.str("member", ""), int32(a.num(t, "gen", 1)), a.opt("instance")
	r.ProtocolType, r.Protocol = a.opt("type"), a.opt("protocol")
	for _, as := range fields(a.str("assign", "")) {
		id, what, _ := strings.Cut(as, ":")
		r.GroupAssignment = append(r.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: classicAssignment(t, what)})
	}
	return r
}

func (s *script) leave(t *testing.T, g string, a args) *kmsg.LeaveGroupRequest {
	t.Helper()
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.Group, r.MemberID = int16(a.num(t, "v", 5)), g, a.str("member", "")
	for _, m := range fields(a.str("members", "")) {
		id, instance, static := strings.Cut(m, "@")
		lm := kmsg.LeaveGroupRequestMember{MemberID: id}
		if static {
			lm.InstanceID = &instance
		}
		r.Members = append(r.Members, lm)
	}
	return r
}

func fields(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

type tpo struct {
	topic     string
	partition int32
	offset    int64
}

// tps parses topic/partition:offset, comma separated.
func tps(t *testing.T, s string) (out []tpo) {
	t.Helper()
	for _, f := range fields(s) {
		tp, off, _ := strings.Cut(f, ":")
		topic, p, _ := strings.Cut(tp, "/")
		pn, err := strconv.Atoi(p)
		if err != nil {
			t.Fatalf("offset %q: %v", f, err)
		}
		on, _ := strconv.Atoi(off)
		out = append(out, tpo{topic, int32(pn), int64(on)})
	}
	return out
}
