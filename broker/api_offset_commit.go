package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// OffsetCommit, key 8: v0–10
//
//   - v1: generation and member id; its timestamps are ignored
//   - v2–4: retention time, honoured; v5 drops it (KIP-211)
//   - v6: leader epoch (KIP-320); v7: group instance id (KIP-345)
//   - v8: flexible; v9: errors of KIP-848; v10: topic ids in the place of names (KIP-848)
//
// v0 committed to ZooKeeper once; here it is a commit without generation. The answer comes after the offsets are durable and applied.

func handleOffsetCommit(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.OffsetCommitRequest)
	if req.Version < 1 {
		req.Generation = -1
	}
	set := s.topics.set() // one for all of it: a topic that is deleted and created again meanwhile has another id
	unknown := nameCommitted(set, req)
	topics := set.partitionTopics()
	if len(unknown) > 0 && len(req.Topics) == 0 || !commitsToAny(topics, req) {
		return answer(withUnknownIDs(offsetCommitErrors(req, kerr.UnknownTopicOrPartition), unknown)) // and no group is made for it
	}
	wait := s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Commit(now, req, topics, w)
	}).pending(c, req)
	if len(unknown) == 0 {
		return wait
	}
	return func() kmsg.Response { return withUnknownIDs(wait(), unknown) }
}

// nameCommitted gives the topics of a request by id their names. Those whose ids name nothing are taken out of it and returned.
func nameCommitted(set *topicSet, req *kmsg.OffsetCommitRequest) (unknown []kmsg.OffsetCommitRequestTopic) {
	if req.Version < 10 {
		return nil
	}
	req.Topics, unknown = split(req.Topics, func(t *kmsg.OffsetCommitRequestTopic) bool {
		known := set.byID[t.TopicID]
		if known != nil {
			t.Topic = known.Name
		}
		return known != nil
	})
	return unknown
}

// withUnknownIDs adds to an answer, if there is one, that the ids of these topics name nothing.
func withUnknownIDs(r kmsg.Response, unknown []kmsg.OffsetCommitRequestTopic) kmsg.Response {
	resp, ok := r.(*kmsg.OffsetCommitResponse)
	if !ok {
		return r
	}
	for _, t := range unknown {
		rt := kmsg.OffsetCommitResponseTopic{TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: kerr.UnknownTopicID.Code})
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// commitsToAny reports whether one of the partitions exists, or none is named.
func commitsToAny(known group.Topics, req *kmsg.OffsetCommitRequest) bool {
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
		rt := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: err.Code})
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}
