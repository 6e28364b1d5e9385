package broker

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/replica"
)

// DescribeQuorum, key 55: v0–2
//
//   - v0: KIP-595; v1: when voters fetched last (KIP-836); v2: directories, addresses, messages (KIP-853)
//
// What Kafka calls the metadata quorum is raft group 0 here. Its offsets are raft's indexes: the high watermark is the first that is not
// committed, the log end offset the first that is not written. A voter's directory id is the incarnation of its data directory.

// metadataTopic is the name under which Kafka's tools know the metadata's log. It is no topic that can be read.
const metadataTopic = "__cluster_metadata"

func handleDescribeQuorum(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeQuorumRequest)
	return func() kmsg.Response { // in the writer: it asks the shard that owns the group
		resp := req.ResponseKind().(*kmsg.DescribeQuorumResponse)
		known := len(req.Topics) == 1 && req.Topics[0].Topic == metadataTopic &&
			len(req.Topics[0].Partitions) == 1 && req.Topics[0].Partitions[0].Partition == 0
		for i := range req.Topics {
			rt := &req.Topics[i]
			st := kmsg.NewDescribeQuorumResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewDescribeQuorumResponseTopicPartition()
				sp.Partition = rp.Partition
				if known {
					s.describeQuorum(&sp)
				} else {
					sp.LeaderID = -1
					sp.ErrorCode, sp.ErrorMessage = kerr.UnknownTopicOrPartition.Code, new("the one quorum is that of "+metadataTopic+", partition 0")
				}
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		if known {
			resp.Nodes = append(resp.Nodes, s.quorumNode(c))
		}
		return resp
	}
}

func (s *Server) describeQuorum(sp *kmsg.DescribeQuorumResponseTopicPartition) {
	st, err := s.node.Status(replica.MetadataGroup)
	if err != nil || st.Leader != uint64(s.opts.NodeID) {
		sp.LeaderID, sp.ErrorCode = -1, kerr.NotLeaderForPartition.Code
		return
	}
	now := s.clock.Now().UnixMilli()
	sp.LeaderID, sp.LeaderEpoch, sp.HighWatermark = s.opts.NodeID, int32(st.Term), int64(st.Commit)+1
	for _, r := range st.Replicas {
		v := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		v.ReplicaID, v.LogEndOffset = int32(r.ReplicaID), int64(r.Match)+1 // group 0's replica ids are the nodes' ids
		if v.ReplicaID == s.opts.NodeID {
			v.ReplicaDirectoryID, v.LastFetchTimestamp, v.LastCaughtUpTimestamp = s.node.Incarnation(), now, now
		}
		if r.Learner {
			sp.Observers = append(sp.Observers, v)
		} else {
			sp.CurrentVoters = append(sp.CurrentVoters, v)
		}
	}
}

// quorumNode says where this node's part of the quorum is reached: where the client reaches it.
func (s *Server) quorumNode(c *conn) kmsg.DescribeQuorumResponseNode {
	n := kmsg.NewDescribeQuorumResponseNode()
	n.NodeID = s.opts.NodeID
	l := kmsg.NewDescribeQuorumResponseNodeListener()
	host, port := c.advertised()
	l.Name, l.Host, l.Port = strings.ToUpper(c.l.name), host, uint16(port) // Java clients refuse any other
	n.Listeners = append(n.Listeners, l)
	return n
}
