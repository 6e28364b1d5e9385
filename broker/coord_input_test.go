package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
)

func joinRequest(group string, protocols ...kmsg.JoinGroupRequestProtocol) *kmsg.JoinGroupRequest {
	j := kmsg.NewPtrJoinGroupRequest()
	j.Group, j.SessionTimeoutMillis, j.RebalanceTimeoutMillis, j.ProtocolType, j.Protocols = group, 10_000, 10_000, "consumer", protocols
	return j
}

func findCoordinators(c *rawConn) {
	c.t.Helper()
	for kind := range int8(2) {
		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorType, fc.CoordinatorKeys = kind, []string{"x"}
		if r := request[*kmsg.FindCoordinatorResponse](c, fc, 4); r.Coordinators[0].ErrorCode != 0 {
			c.t.Fatalf("FindCoordinator: %+v", r)
		}
	}
}

// B82: what a member says of itself is limited, and within the limits it is kept.
func TestJoinGroup_badMembers(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	findCoordinators(dialRaw(t, n))
	a := kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: []byte("m")}
	for _, tc := range []struct {
		name string
		join *kmsg.JoinGroupRequest
		want int16
	}{
		{"empty group id", joinRequest("", a), kerr.InvalidGroupID.Code},
		{"no protocols", joinRequest("g"), kerr.InconsistentGroupProtocol.Code},
		{"no protocol type", func() *kmsg.JoinGroupRequest { j := joinRequest("g", a); j.ProtocolType = ""; return j }(), kerr.InconsistentGroupProtocol.Code},
		{"session timeout of 1 ms", func() *kmsg.JoinGroupRequest { j := joinRequest("g", a); j.SessionTimeoutMillis = 1; return j }(), kerr.InvalidSessionTimeout.Code},
		{"session timeout of 24 days", func() *kmsg.JoinGroupRequest { j := joinRequest("g", a); j.SessionTimeoutMillis = 1<<31 - 1; return j }(), kerr.InvalidSessionTimeout.Code},
		{"unknown member", func() *kmsg.JoinGroupRequest { j := joinRequest("g", a); j.MemberID = "who"; return j }(), kerr.UnknownMemberID.Code},
		{"group id of 32,767 bytes", joinRequest(strings.Repeat("g", 1<<15-1), a), 0},
		{"metadata of 1 MB", joinRequest("large", kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: make([]byte, 1<<20)}), 0},
	} {
		c := dialRaw(t, n)
		// v3: without MEMBER_ID_REQUIRED, so that the first answer is the last.
		if r := request[*kmsg.JoinGroupResponse](c, tc.join, 3); r.ErrorCode != tc.want {
			t.Errorf("%s: error %d, want %d", tc.name, r.ErrorCode, tc.want)
		}
	}
}

// B82: a group id of 64 KiB is no string of the protocol. Were it taken, a commit would be acknowledged that no record can hold.
func TestNames_beyondTheProtocolClose(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	long := strings.Repeat("g", 64<<10)
	findCoordinators(dialRaw(t, n))
	createTopic(t, dialRaw(t, n), "t", 1)
	oc := kmsg.NewPtrOffsetCommitRequest()
	oc.Group, oc.Generation = long, -1
	oc.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5}}}}
	in := initProducer(long)
	for _, tc := range []struct {
		req     kmsg.Request
		version int16
	}{{joinRequest(long), 9}, {oc, 8}, {in, 4}} {
		c := dialRaw(t, n)
		c.send(tc.req, tc.version)
		c.closed()
	}
	alive(t, n)
}

// The longest names that there can be live through a restart: what was acknowledged is there.
func TestNames_longestAreKept(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	long := strings.Repeat("n", 1<<15-1)
	findCoordinators(c)
	createTopic(t, c, "t", 1)
	oc := kmsg.NewPtrOffsetCommitRequest()
	oc.Group, oc.Generation = long, -1
	oc.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5}}}}
	if code := request[*kmsg.OffsetCommitResponse](c, oc, 8).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("commit: error %d", code)
	}
	if r := request[*kmsg.InitProducerIDResponse](c, initProducer(long), 4); r.ErrorCode != 0 {
		t.Fatalf("InitProducerId: error %d", r.ErrorCode)
	}
	// A client id of that length, too: member ids begin with it.
	joined := dialRaw(t, n)
	req := joinRequest("g", kmsg.JoinGroupRequestProtocol{Name: "range"})
	req.SetVersion(3)
	frame := append([]byte{0, 11, 0, 3, 0, 0, 0, 1, 0x7f, 0xff}, long...)
	frame = req.AppendTo(frame)
	if _, err := joined.Write(sized(uint32(len(frame)), frame...)); err != nil {
		t.Fatal(err)
	}
	_, b := joined.receive()
	if r := decode[*kmsg.JoinGroupResponse](t, req, b); r.ErrorCode != 0 || len(r.MemberID) > 1100 || !strings.HasPrefix(r.MemberID, "nnn") {
		t.Errorf("join: error %d, member id of %d bytes", r.ErrorCode, len(r.MemberID))
	}
	n.CrashRestart()
	c = dialRaw(t, n)
	of := kmsg.NewPtrOffsetFetchRequest()
	of.Group, of.Topics = long, []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	if sp := request[*kmsg.OffsetFetchResponse](c, of, 7).Topics[0].Partitions[0]; sp.Offset != 5 || sp.ErrorCode != 0 {
		t.Errorf("the offset after a restart: %+v", sp)
	}
	d := kmsg.NewPtrDescribeTransactionsRequest()
	d.TransactionalIDs = []string{long}
	if st := request[*kmsg.DescribeTransactionsResponse](c, d, 0).TransactionStates[0]; st.ErrorCode != 0 || st.State != "Empty" {
		t.Errorf("the transactional id after a restart: error %d, %s", st.ErrorCode, st.State)
	}
}

// B83: a commit of an older generation is refused, at the wire too.
func TestOffsetCommit_ofAnOldGeneration(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	findCoordinators(c)
	createTopic(t, c, "t", 1)
	join := joinRequest("g", kmsg.JoinGroupRequestProtocol{Name: "range"})
	first := request[*kmsg.JoinGroupResponse](c, join, 3)
	for v := int16(1); v <= 9; v++ {
		for _, tc := range []struct {
			generation int32
			member     string
			want       int16
		}{
			{first.Generation - 1, first.MemberID, kerr.IllegalGeneration.Code},
			{first.Generation + 1, first.MemberID, kerr.IllegalGeneration.Code},
			{first.Generation, "who", kerr.UnknownMemberID.Code},
			{-1, "", kerr.UnknownMemberID.Code}, // only members commit to a group that has some
		} {
			oc := kmsg.NewPtrOffsetCommitRequest()
			oc.Group, oc.Generation, oc.MemberID = "g", tc.generation, tc.member
			oc.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5}}}}
			if code := request[*kmsg.OffsetCommitResponse](c, oc, v).Topics[0].Partitions[0].ErrorCode; code != tc.want {
				t.Errorf("v%d, %s: error %d, want %d", v, fmt.Sprint(tc.generation, " ", tc.member), code, tc.want)
			}
		}
	}
}
