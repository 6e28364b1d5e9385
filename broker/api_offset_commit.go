package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// OffsetCommit, key 8: v0–9
//
//   - v1: generation and member id; its timestamps are ignored
//   - v2–4: retention time, honoured; v5 drops it (KIP-211)
//   - v6: leader epoch (KIP-320); v7: group instance id (KIP-345)
//   - v8: flexible; v9: errors of KIP-848
//
// v0 committed to ZooKeeper once; here it is a commit without generation. v10 (topic ids) is not served. The answer comes after the offsets
// are durable and applied.

func handleOffsetCommit(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.OffsetCommitRequest)
	if req.Version < 1 {
		req.Generation = -1
	}
	if !s.commitsToAny(req) {
		return answer(offsetCommitErrors(req, kerr.UnknownTopicOrPartition)) // and no group is made for it
	}
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Commit(now, req, s.partitionTopics(), w)
	}).pending(c, req)
}

// commitsToAny reports whether one of the partitions exists, or none is named.
func (s *Server) commitsToAny(req *kmsg.OffsetCommitRequest) bool {
	known := s.partitionTopics()
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if _, ok := known(group.TopicPartition{Topic: t.Topic, Partition: p.Partition}); ok {
				return true
			}
		}
	}
	return len(req.Topics) == 0
}

// offsetCommitErrors is the answer that says one thing of every partition.
func offsetCommitErrors(req *kmsg.OffsetCommitRequest, err *kerr.Error) kmsg.Response {
	r := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	for _, t := range req.Topics {
		rt := kmsg.OffsetCommitResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: err.Code})
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}
