package broker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
)

func produceN(t testing.TB, cl *kgo.Client, topic string, n int) {
	t.Helper()
	for i := range n {
		cl.Produce(t.Context(), &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A group goes on where it stopped, also after the broker lost its power.
func TestGroup_commitsSurviveCrash(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 100)

	g := newClient(t, n, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
	seen := map[string]int{}
	for _, r := range collect(t, g, 100) {
		seen[string(r.Value)]++
	}
	if err := g.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.CrashRestart()
	produceN(t, cl, "t", 20)
	for _, r := range collect(t, g, 20) {
		seen[string(r.Value)]++
	}
	if err := g.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.Close()
	for i := range 100 {
		want := 1
		if i < 20 {
			want = 2
		}
		if got := seen[fmt.Sprint(i)]; got != want {
			t.Errorf("record %d came %d times, want %d", i, got, want)
		}
	}
	lag, err := kadm.NewClient(newClient(t, n)).Lag(t.Context(), "g") // kgo does not retry this one on a connection that died
	if err != nil {
		t.Fatal(err)
	}
	if l := lag["g"].Lag.Total(); l != 0 || lag["g"].State != "Empty" {
		t.Errorf("lag %d in state %s", l, lag["g"].State)
	}
}

// Several members share the partitions; those of one that leaves go to the others. All balancers that clients have.
func TestGroup_members(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 1)
	adm := kadm.NewClient(cl)
	for name, b := range map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(), "cooperative": kgo.CooperativeStickyBalancer(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var members []*kgo.Client
			for range 3 {
				m := newClient(t, n, kgo.ConsumerGroup(name), kgo.ConsumeTopics("t"), kgo.Balancers(b), kgo.HeartbeatInterval(50*time.Millisecond))
				members = append(members, m)
				go poll(t.Context(), m)
			}
			awaitShares(t, adm, name, 3)
			members[0].Close()
			awaitShares(t, adm, name, 2)
		})
	}
}

func poll(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil && !cl.PollFetches(ctx).IsClientClosed() {
	}
}

// awaitShares waits until the group is stable with so many members, which have all 16 partitions between them.
func awaitShares(t *testing.T, adm *kadm.Client, group string, members int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var last string
	for ctx.Err() == nil {
		gs, err := adm.DescribeGroups(ctx, group)
		if err == nil {
			g := gs[group]
			owned := map[int32]bool{}
			idle := 0
			for _, m := range g.Members {
				a, ok := m.Assigned.AsConsumer()
				k := 0
				if ok {
					for _, at := range a.Topics {
						for _, p := range at.Partitions {
							owned[p] = true
							k++
						}
					}
				}
				if k == 0 {
					idle++
				}
			}
			last = fmt.Sprintf("%s, %d members, %d idle, %d partitions", g.State, len(g.Members), idle, len(owned))
			if g.State == "Stable" && len(g.Members) == members && len(owned) == 16 && idle == 0 {
				return
			}
		}
		wait(ctx, 20*time.Millisecond)
	}
	t.Fatalf("group %s: %s", group, last)
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	tm := time.NewTimer(d)
	defer tm.Stop()
	select {
	case <-tm.C:
	case <-ctx.Done():
	}
}

// A static member that is killed and started again is back in its seat: the generation stays (KIP-345). It has its seat also when the
// broker was killed in between.
func TestGroup_staticSeat(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 1)
	adm := kadm.NewClient(cl)
	start := func(instance string) *kgo.Client {
		m := newClient(t, n, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.InstanceID(instance), kgo.HeartbeatInterval(50*time.Millisecond))
		go poll(t.Context(), m)
		return m
	}
	a, b := start("a"), start("b")
	awaitShares(t, adm, "g", 2)
	_, generation := a.GroupMetadata()

	b.Close() // a static member does not leave
	b = start("b")
	awaitGeneration(t, b, generation)
	if _, now := a.GroupMetadata(); now != generation {
		t.Errorf("generation %d, want %d still", now, generation)
	}
	// After a crash of the broker the seats are there, or a third member id would be: nobody waits for a session to run out. The
	// generation may go up, since clients rejoin when a heartbeat fails.
	n.CrashRestart()
	b.Close()
	b = start("b")
	awaitShares(t, adm, "g", 2)
	b.Close()
	if _, err := adm.LeaveGroup(t.Context(), kadm.LeaveGroup("g").Reason("test").InstanceIDs("b")); err != nil {
		t.Fatal(err)
	}
	awaitShares(t, adm, "g", 1)
}

func awaitGeneration(t *testing.T, cl *kgo.Client, want int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if id, generation := cl.GroupMetadata(); id != "" && generation >= 0 {
			if generation != want {
				t.Fatalf("generation %d, want %d", generation, want)
			}
			return
		}
		wait(ctx, 10*time.Millisecond)
	}
	t.Fatal("the member did not get in")
}

// Members keep their group over restarts of the broker.
func TestGroup_dynamicMembersSurviveRestart(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 1)
	adm := kadm.NewClient(cl)
	for range 2 {
		m := newClient(t, n, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.HeartbeatInterval(50*time.Millisecond))
		go poll(t.Context(), m)
	}
	awaitShares(t, adm, "g", 2)
	n.CrashRestart()
	awaitShares(t, adm, "g", 2)
	n.Restart()
	awaitShares(t, adm, "g", 2)
}

// What tools do: list, describe, set offsets, delete offsets and groups.
func TestGroup_tools(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 10)
	adm := kadm.NewClient(cl)
	ctx := t.Context()

	if os, err := adm.FetchOffsets(ctx, "never"); err != nil || len(os) != 0 {
		t.Errorf("offsets of a group that never was: %v, %v", os, err)
	}
	if gs, err := adm.ListGroups(ctx); err != nil || len(gs) != 0 {
		t.Errorf("groups: %v, %v", gs, err)
	}
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: "t", Partition: 3, At: 2, LeaderEpoch: -1, Metadata: "m"})
	if err := adm.CommitAllOffsets(ctx, "g", os); err != nil {
		t.Fatal(err)
	}
	got, err := adm.FetchOffsets(ctx, "g")
	if o, _ := got.Lookup("t", 3); err != nil || o.At != 2 || o.Metadata != "m" {
		t.Errorf("offset %+v, %v", o, err)
	}
	gs, err := adm.ListGroups(ctx)
	if g := gs["g"]; err != nil || g.State != "Empty" {
		t.Errorf("group %+v, %v", g, err)
	}
	if gs, err := adm.ListGroups(ctx, "Stable"); err != nil || len(gs) != 0 {
		t.Errorf("stable groups %v, %v", gs, err)
	}
	if _, err := adm.DeleteOffsets(ctx, "g", os.TopicsSet()); err != nil {
		t.Error(err)
	}
	if got, err := adm.FetchOffsets(ctx, "g"); err != nil || len(got) != 0 {
		t.Errorf("offsets %v, %v", got, err)
	}
	if err := adm.CommitAllOffsets(ctx, "g", os); err != nil {
		t.Fatal(err)
	}
	if rs, err := adm.DeleteGroups(ctx, "g", "never"); !errors.Is(rs["never"].Err, kerr.GroupIDNotFound) || rs["g"].Err != nil {
		t.Errorf("delete: %v, %v", rs, err)
	}
	if gs, err := adm.ListGroups(ctx); err != nil || len(gs) != 0 {
		t.Errorf("groups: %v, %v", gs, err)
	}
}

// A topic that is deleted and made anew begins without the offsets of the old one.
func TestGroup_deletedTopic(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	ctx := t.Context()
	for range 2 {
		adm := kadm.NewClient(newClient(t, n)) // another each time: a client remembers the topic's id for a while
		if _, err := adm.CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
			t.Fatal(err)
		}
		if got, err := adm.FetchOffsets(ctx, "g"); err != nil || len(got) != 0 {
			t.Fatalf("offsets %v, %v", got, err)
		}
		os := kadm.Offsets{}
		os.Add(kadm.Offset{Topic: "t", Partition: 0, At: 5, LeaderEpoch: -1})
		if err := adm.CommitAllOffsets(ctx, "g", os); err != nil {
			t.Fatal(err)
		}
		if _, err := adm.DeleteTopic(ctx, "t"); err != nil {
			t.Fatal(err)
		}
	}
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: "t", Partition: 0, At: 5, LeaderEpoch: -1})
	if err := kadm.NewClient(newClient(t, n)).CommitAllOffsets(ctx, "g", os); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("commit for a topic that is gone: %v", err)
	}
}

// Every version of the group requests answers in its own shape.
func TestGroup_everyVersion(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	for v := range int16(7) {
		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorKey, fc.CoordinatorKeys = "g", []string{"g"}
		r := request[*kmsg.FindCoordinatorResponse](c, fc, v)
		if v < 4 && (r.ErrorCode != 0 || r.NodeID != 1) || v >= 4 && (r.Coordinators[0].ErrorCode != 0 || r.Coordinators[0].NodeID != 1) {
			t.Errorf("FindCoordinator v%d: %+v", v, r)
		}
	}
	fc := kmsg.NewPtrFindCoordinatorRequest()
	fc.CoordinatorType, fc.CoordinatorKeys = 2, []string{"g:t:0"}
	if r := request[*kmsg.FindCoordinatorResponse](c, fc, 6); r.Coordinators[0].ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("FindCoordinator of share groups: %+v", r)
	}
	for v := range int16(10) { // v10 of offsets is TestOffsets_byTopicID
		group := fmt.Sprint("g", v)
		j := kmsg.NewPtrJoinGroupRequest()
		j.Group, j.SessionTimeoutMillis, j.RebalanceTimeoutMillis, j.ProtocolType = group, 10_000, 10_000, "consumer"
		j.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("x")}}
		jr := request[*kmsg.JoinGroupResponse](c, j, v)
		if v >= 4 {
			if jr.ErrorCode != kerr.MemberIDRequired.Code {
				t.Errorf("JoinGroup v%d: %+v", v, jr)
			}
			j.MemberID = jr.MemberID
			jr = request[*kmsg.JoinGroupResponse](c, j, v)
		}
		if jr.ErrorCode != 0 || jr.Generation != 1 || jr.LeaderID != jr.MemberID || len(jr.Members) != 1 || *jr.Protocol != "range" {
			t.Fatalf("JoinGroup v%d: %+v", v, jr)
		}
		s := kmsg.NewPtrSyncGroupRequest()
		s.Group, s.Generation, s.MemberID = group, 1, jr.MemberID
		if v >= 5 {
			s.ProtocolType, s.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
		}
		s.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: jr.MemberID, MemberAssignment: []byte("a")}}
		if r := request[*kmsg.SyncGroupResponse](c, s, min(v, 5)); r.ErrorCode != 0 || string(r.MemberAssignment) != "a" {
			t.Errorf("SyncGroup v%d: %+v", v, r)
		}
		h := kmsg.NewPtrHeartbeatRequest()
		h.Group, h.Generation, h.MemberID = group, 1, jr.MemberID
		if r := request[*kmsg.HeartbeatResponse](c, h, min(v, 4)); r.ErrorCode != 0 {
			t.Errorf("Heartbeat v%d: %+v", v, r)
		}
		commitEveryVersion(t, c, group, jr.MemberID, v)
		d := kmsg.NewPtrDescribeGroupsRequest()
		d.Groups, d.IncludeAuthorizedOperations = []string{group}, true
		if r := request[*kmsg.DescribeGroupsResponse](c, d, min(v, 6)); r.Groups[0].State != "Stable" || string(r.Groups[0].Members[0].MemberAssignment) != "a" {
			t.Errorf("DescribeGroups v%d: %+v", v, r)
		}
		l := kmsg.NewPtrLeaveGroupRequest()
		l.Group, l.MemberID, l.Members = group, jr.MemberID, []kmsg.LeaveGroupRequestMember{{MemberID: jr.MemberID}}
		if r := request[*kmsg.LeaveGroupResponse](c, l, min(v, 5)); r.ErrorCode != 0 {
			t.Errorf("LeaveGroup v%d: %+v", v, r)
		}
		lg := kmsg.NewPtrListGroupsRequest()
		if r := request[*kmsg.ListGroupsResponse](c, lg, min(v, 5)); len(r.Groups) != int(v)+1 {
			t.Errorf("ListGroups v%d: %+v", v, r)
		}
	}
}

func commitEveryVersion(t *testing.T, c *rawConn, group, member string, v int16) {
	t.Helper()
	oc := kmsg.NewPtrOffsetCommitRequest()
	oc.Group, oc.Generation, oc.MemberID = group, 1, member
	oc.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 7, LeaderEpoch: 2, Metadata: kmsg.StringPtr("m")}}}}
	want := int16(0)
	if v == 0 { // it has no member id, and the group has members
		want = kerr.UnknownMemberID.Code
	}
	if r := request[*kmsg.OffsetCommitResponse](c, oc, v); r.Topics[0].Partitions[0].ErrorCode != want {
		t.Errorf("OffsetCommit v%d: %+v", v, r)
	}
	of := kmsg.NewPtrOffsetFetchRequest()
	of.Group, of.RequireStable = group, true
	of.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0, 5}}}
	og := kmsg.NewOffsetFetchRequestGroup()
	og.Group, og.Topics = group, []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0, 5}}}
	of.Groups = append(of.Groups, og)
	r := request[*kmsg.OffsetFetchResponse](c, of, v)
	var at, none int64
	if v >= 8 {
		ps := r.Groups[0].Topics[0].Partitions
		at, none = ps[0].Offset, ps[1].Offset
	} else {
		ps := r.Topics[0].Partitions
		at, none = ps[0].Offset, ps[1].Offset
	}
	if v > 0 && at != 7 || none != -1 {
		t.Errorf("OffsetFetch v%d: %+v", v, r)
	}
}

// TestOffsets_byTopicID: from v10 on a topic is named by its id, so that nothing is committed for one that was deleted and created again.
func TestOffsets_byTopicID(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	id := createTopic(t, c, "t", 2).TopicID
	fc := kmsg.NewPtrFindCoordinatorRequest() // makes the topic of offsets
	fc.CoordinatorKeys = []string{"g"}
	if r := request[*kmsg.FindCoordinatorResponse](c, fc, 4); r.Coordinators[0].ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	nothing := [16]byte{7}
	commit := func(id [16]byte, partitions ...int32) map[int32]int16 {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation = "g", -1
		of := func(id [16]byte, partitions []int32) (rt kmsg.OffsetCommitRequestTopic) {
			rt.TopicID = id
			for _, p := range partitions {
				rp := kmsg.NewOffsetCommitRequestTopicPartition()
				rp.Partition, rp.Offset = p, 40+int64(p)
				rt.Partitions = append(rt.Partitions, rp)
			}
			return rt
		}
		req.Topics = append(req.Topics, of(id, partitions), of(nothing, []int32{100}))
		codes := map[int32]int16{}
		for _, rt := range request[*kmsg.OffsetCommitResponse](c, req, 10).Topics {
			if rt.TopicID != id && rt.TopicID != nothing {
				t.Errorf("an answer for topic id %x", rt.TopicID)
			}
			for _, p := range rt.Partitions {
				codes[p.Partition] = p.ErrorCode
			}
		}
		return codes
	}
	type found struct {
		at   int64
		code int16
	}
	fetch := func(ids ...[16]byte) map[[16]byte]found {
		req := kmsg.NewPtrOffsetFetchRequest()
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group = "g"
		for _, id := range ids {
			rg.Topics = append(rg.Topics, kmsg.OffsetFetchRequestGroupTopic{TopicID: id, Partitions: []int32{1}})
		}
		req.Groups = append(req.Groups, rg)
		out := map[[16]byte]found{}
		for _, rt := range request[*kmsg.OffsetFetchResponse](c, req, 10).Groups[0].Topics {
			for _, p := range rt.Partitions {
				if p.Partition == 1 {
					out[rt.TopicID] = found{p.Offset, p.ErrorCode}
				}
			}
		}
		return out
	}
	unknown := kerr.UnknownTopicID.Code
	if got, want := commit(nothing, 1), map[int32]int16{1: unknown, 100: unknown}; !maps.Equal(got, want) {
		t.Errorf("ids that name nothing: %v", got)
	}
	lg := request[*kmsg.ListGroupsResponse](c, kmsg.NewPtrListGroupsRequest(), 4)
	if len(lg.Groups) != 0 {
		t.Errorf("a group was made: %+v", lg.Groups)
	}
	if got, want := commit(id, 0, 1, 9), map[int32]int16{0: 0, 1: 0, 9: kerr.UnknownTopicOrPartition.Code, 100: unknown}; !maps.Equal(got, want) {
		t.Errorf("commit: %v", got)
	}
	if got, want := fetch(id, nothing), map[[16]byte]found{id: {41, 0}, nothing: {-1, unknown}}; !maps.Equal(got, want) {
		t.Errorf("fetch: %v", got)
	}
	if got, want := fetch(), map[[16]byte]found{id: {41, 0}}; !maps.Equal(got, want) {
		t.Errorf("all of the group: %v", got)
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TimeoutMillis = 10_000
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: id}}
	if code := request[*kmsg.DeleteTopicsResponse](c, del, 6).Topics[0].ErrorCode; code != 0 {
		t.Fatalf("delete: %d", code)
	}
	again := createTopic(t, c, "t", 2).TopicID
	if got := commit(id, 0); got[0] != unknown {
		t.Errorf("commit for the topic that is gone: %v", got)
	}
	if got, want := fetch(again, id), map[[16]byte]found{again: {-1, 0}, id: {-1, unknown}}; !maps.Equal(got, want) {
		t.Errorf("fetch of both: %v", got)
	}
}
