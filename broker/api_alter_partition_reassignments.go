package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterPartitionReassignments, key 45: v0–1
//
//   - v0: KIP-455; v1: whether the replication factor may change (KIP-860)
//
// The one place for a replica is this node, where it stands: asking for that is granted, since nothing is left to do. There
// never is a reassignment under way, and so none to cancel.

func handleAlterPartitionReassignments(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	set := s.topics.set()
	for i := range req.Topics {
		rt := &req.Topics[i]
		st := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		st.Topic = rt.Topic
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			sp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			sp.Partition = rp.Partition
			if err := s.reassign(set.byName[rt.Topic], rp); err != nil {
				sp.ErrorCode, sp.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			}
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return answer(resp)
}

func (s *Server) reassign(t *topic, rp *kmsg.AlterPartitionAssignmentsRequestTopicPartition) error {
	if t == nil || rp.Partition < 0 || int(rp.Partition) >= len(t.partitions) {
		return kerr.UnknownTopicOrPartition
	}
	if rp.Replicas == nil {
		return kerr.NoReassignmentInProgress
	}
	if len(rp.Replicas) == 0 {
		return invalid(kerr.InvalidReplicaAssignment, "the list of replicas is empty")
	}
	for i, node := range rp.Replicas {
		if slices.Contains(rp.Replicas[:i], node) {
			return invalid(kerr.InvalidReplicaAssignment, "node %d stands twice among the replicas", node)
		}
		if node != s.opts.NodeID {
			return invalid(kerr.InvalidReplicaAssignment, "there is no node %d; the one there is has the id %d", node, s.opts.NodeID)
		}
	}
	return nil
}
