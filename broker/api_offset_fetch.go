package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// OffsetFetch, key 9: v0–10
//
//   - v2: all topics, error code of the whole; v3: throttle time
//   - v5: leader epoch (KIP-320); v6: flexible
//   - v7: require stable (KIP-447)
//   - v8: several groups (KIP-709); v9: member id and epoch, which classic groups do not check (KIP-848)
//   - v10: topic ids in the place of names (KIP-848)
//
// An unknown group or partition is offset -1 and no error.

func handleOffsetFetch(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.OffsetFetchRequest)
	r := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version >= 8 {
		for i := range req.Groups {
			r.Groups = append(r.Groups, s.fetchOffsets(&req.Groups[i], req.RequireStable, req.Version >= 10))
		}
		return answer(r)
	}
	ask := kmsg.NewOffsetFetchRequestGroup()
	ask.Group = req.Group
	if req.Topics != nil {
		ask.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		ask.Topics = append(ask.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	g := s.fetchOffsets(&ask, req.RequireStable, false)
	r.ErrorCode = g.ErrorCode
	if g.ErrorCode != 0 {
		g.Topics = offsetErrors(ask.Topics, g.ErrorCode) // v0 and v1 have no other place for it
	}
	for _, t := range g.Topics {
		rt := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		r.Topics = append(r.Topics, rt)
	}
	return answer(r)
}

func (s *Server) fetchOffsets(req *kmsg.OffsetFetchRequestGroup, requireStable, byID bool) (r kmsg.OffsetFetchResponseGroup) {
	set := s.topics.set()
	var unknown []kmsg.OffsetFetchRequestGroupTopic
	if byID && req.Topics != nil {
		req.Topics, unknown = split(req.Topics, func(t *kmsg.OffsetFetchRequestGroupTopic) bool {
			known := set.byID[t.TopicID]
			if known != nil {
				t.Topic = known.Name
			}
			return known != nil
		})
	}
	s.groupShard(req.Group).do(func(_ time.Time, gc *group.Coordinator) {
		r = gc.FetchOffsets(req, requireStable, set.partitionTopics())
	})
	if byID {
		r.Topics, _ = split(r.Topics, func(t *kmsg.OffsetFetchResponseGroupTopic) bool {
			known := set.byName[t.Topic]
			if known != nil {
				t.TopicID = known.ID
			}
			return known != nil // what has no id any more cannot be said
		})
	}
	if r.ErrorCode == 0 {
		r.Topics = append(r.Topics, offsetErrors(unknown, kerr.UnknownTopicID.Code)...)
	}
	return r
}

func offsetErrors(topics []kmsg.OffsetFetchRequestGroupTopic, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	out := make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(topics))
	for _, t := range topics {
		rt := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p, -1, -1, kmsg.StringPtr(""), code
			rt.Partitions = append(rt.Partitions, rp)
		}
		out = append(out, rt)
	}
	return out
}
