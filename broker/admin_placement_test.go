package broker_test

import (
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

// versions calls test with a connection for every version of a key.
func versions(t *testing.T, key int16, n *brokertest.Node, test func(t *testing.T, c *rawConn, v int16)) {
	t.Helper()
	for _, a := range broker.ServedAPIs() {
		if a.Key != key {
			continue
		}
		for v := a.Min; v <= a.Max; v++ {
			c := dialRaw(t, n)
			test(t, c, v)
			_ = c.Close()
		}
		return
	}
	t.Fatalf("key %d is not served", key)
}

func TestAlterReplicaLogDirs(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 2)
	here, err := filepath.Abs("data")
	if err != nil {
		t.Fatal(err)
	}
	versions(t, 34, n, func(t *testing.T, c *rawConn, v int16) {
		req := kmsg.NewPtrAlterReplicaLogDirsRequest()
		for _, dir := range []string{here + "/", "/elsewhere"} {
			rd := kmsg.NewAlterReplicaLogDirsRequestDir()
			rd.Dir = dir
			rd.Topics = []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{1, 2}}, {Topic: "none", Partitions: []int32{0}}}
			req.Dirs = append(req.Dirs, rd)
		}
		r := request[*kmsg.AlterReplicaLogDirsResponse](c, req, v)
		got := map[string][]int16{}
		for _, st := range r.Topics {
			if got[st.Topic] != nil {
				t.Errorf("v%d: topic %s stands twice in the answer", v, st.Topic)
			}
			for _, sp := range st.Partitions {
				got[st.Topic] = append(got[st.Topic], sp.ErrorCode)
			}
		}
		unknown, noDir := kerr.UnknownTopicOrPartition.Code, kerr.LogDirNotFound.Code
		wantCodes(t, v, "t", got["t"], 0, unknown, noDir, noDir)
		wantCodes(t, v, "none", got["none"], unknown, noDir)
	})
}

func wantCodes(t *testing.T, v int16, what string, got []int16, want ...int16) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("v%d: %s: errors %v, want %v", v, what, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("v%d: %s: errors %v, want %v", v, what, got, want)
			return
		}
	}
}

func TestElectLeaders(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 2)
	versions(t, 43, n, func(t *testing.T, c *rawConn, v int16) {
		req := kmsg.NewPtrElectLeadersRequest()
		for _, kind := range []int8{0, 1} { // preferred, unclean
			req.ElectionType = kind
			req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0, 1, 2}}, {Topic: "none", Partitions: []int32{0}}}
			r := request[*kmsg.ElectLeadersResponse](c, req, v)
			var got []int16
			for _, st := range r.Topics {
				for _, sp := range st.Partitions {
					got = append(got, sp.ErrorCode)
					if sp.ErrorMessage == nil || *sp.ErrorMessage == "" {
						t.Errorf("v%d: no message to error %d", v, sp.ErrorCode)
					}
				}
			}
			needless, unknown := kerr.ElectionNotNeeded.Code, kerr.UnknownTopicOrPartition.Code
			wantCodes(t, v, "elections", got, needless, needless, unknown, unknown)
		}
		req.Topics = nil // all: those that need none are left out
		if r := request[*kmsg.ElectLeadersResponse](c, req, v); r.ErrorCode != 0 || len(r.Topics) != 0 {
			t.Errorf("v%d: all: %+v", v, r)
		}
		req.ElectionType = 7
		if r := request[*kmsg.ElectLeadersResponse](c, req, v); v >= 1 && r.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("v%d: an unknown kind of election: %+v", v, r)
		}
	})
}

func TestReassignments(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 1)
	for _, tc := range []struct {
		name      string
		topic     string
		partition int32
		replicas  []int32
		want      int16
	}{
		{"where it stands", "t", 0, []int32{1}, 0},
		{"unknown topic", "none", 0, []int32{1}, kerr.UnknownTopicOrPartition.Code},
		{"unknown partition", "t", 1, []int32{1}, kerr.UnknownTopicOrPartition.Code},
		{"cancelled", "t", 0, nil, kerr.NoReassignmentInProgress.Code},
		{"nowhere", "t", 0, []int32{}, kerr.InvalidReplicaAssignment.Code},
		{"unknown node", "t", 0, []int32{1, 2}, kerr.InvalidReplicaAssignment.Code},
		{"twice", "t", 0, []int32{1, 1}, kerr.InvalidReplicaAssignment.Code},
	} {
		versions(t, 45, n, func(t *testing.T, c *rawConn, v int16) {
			req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
			req.AllowReplicationFactorChange = false
			req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{
				Topic: tc.topic, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: tc.partition, Replicas: tc.replicas}},
			}}
			r := request[*kmsg.AlterPartitionAssignmentsResponse](c, req, v)
			sp := r.Topics[0].Partitions[0]
			if r.ErrorCode != 0 || sp.ErrorCode != tc.want || (sp.ErrorMessage == nil) != (tc.want == 0) {
				t.Errorf("%s, v%d: %+v", tc.name, v, sp)
			}
			if v >= 1 && r.AllowReplicationFactorChange {
				t.Errorf("v%d: the answer says that the replication factor may change", v)
			}
		})
	}
	for _, topics := range [][]kmsg.ListPartitionReassignmentsRequestTopic{nil, {{Topic: "t", Partitions: []int32{0}}, {Topic: "none", Partitions: []int32{0}}}} {
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		req.Topics = topics
		if r := request[*kmsg.ListPartitionReassignmentsResponse](dialRaw(t, n), req, 0); r.ErrorCode != 0 || len(r.Topics) != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestDescribeQuorum(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	ask := func(c *rawConn, v int16, topic string, partitions ...int32) *kmsg.DescribeQuorumResponse {
		req := kmsg.NewPtrDescribeQuorumRequest()
		rt := kmsg.DescribeQuorumRequestTopic{Topic: topic}
		for _, p := range partitions {
			rt.Partitions = append(rt.Partitions, kmsg.DescribeQuorumRequestTopicPartition{Partition: p})
		}
		req.Topics = append(req.Topics, rt)
		return request[*kmsg.DescribeQuorumResponse](c, req, v)
	}
	versions(t, 55, n, func(t *testing.T, c *rawConn, v int16) {
		before := ask(c, v, "__cluster_metadata", 0)
		sp := before.Topics[0].Partitions[0]
		if before.ErrorCode != 0 || sp.ErrorCode != 0 || sp.LeaderID != 1 || sp.LeaderEpoch < 1 || sp.HighWatermark < 1 || len(sp.Observers) != 0 {
			t.Fatalf("v%d: %+v", v, before)
		}
		if len(sp.CurrentVoters) != 1 || sp.CurrentVoters[0].ReplicaID != 1 || sp.CurrentVoters[0].LogEndOffset != sp.HighWatermark {
			t.Errorf("v%d: voters %+v at high watermark %d", v, sp.CurrentVoters, sp.HighWatermark)
		}
		if v >= 2 && (len(before.Nodes) != 1 || len(before.Nodes[0].Listeners) != 1 || before.Nodes[0].Listeners[0].Name != "CLIENT" || sp.CurrentVoters[0].ReplicaDirectoryID == [16]byte{}) {
			t.Errorf("v%d: nodes %+v", v, before.Nodes)
		}
		createTopic(t, c, "t"+string('a'+rune(v)), 1)
		if after := ask(c, v, "__cluster_metadata", 0).Topics[0].Partitions[0]; after.HighWatermark <= sp.HighWatermark {
			t.Errorf("v%d: high watermark %d, and %d after a topic was created", v, sp.HighWatermark, after.HighWatermark)
		}
		for _, r := range []*kmsg.DescribeQuorumResponse{ask(c, v, "t", 0), ask(c, v, "__cluster_metadata", 1), ask(c, v, "__cluster_metadata", 0, 1)} {
			if got := r.Topics[0].Partitions[0].ErrorCode; got != kerr.UnknownTopicOrPartition.Code {
				t.Errorf("v%d: error %d for what is no quorum", v, got)
			}
		}
	})
}
