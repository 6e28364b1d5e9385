package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetForLeaderEpoch, key 23: v2–4
//
//   - v2: the client's leader epoch (KIP-320)
//   - v3: replica id; v4: flexible
//
// The answer is where the epoch ended: the start of the next one that wrote, or the log's end.

func handleOffsetForLeaderEpoch(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
	return func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for i := range req.Topics {
			rt := &req.Topics[i]
			st := kmsg.NewOffsetForLeaderEpochResponseTopic()
			st.Topic = rt.Topic
			for j := range rt.Partitions {
				st.Partitions = append(st.Partitions, s.epochEnd(rt.Topic, &rt.Partitions[j]))
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp
	}
}

func (s *Server) epochEnd(topic string, rp *kmsg.OffsetForLeaderEpochRequestTopicPartition) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	sp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
	sp.Partition, sp.LeaderEpoch, sp.EndOffset = rp.Partition, -1, -1
	p, err := s.lookupServed(topic, rp.Partition)
	if err != nil {
		sp.ErrorCode = err.Code
		return sp
	}
	current := p.LeaderEpoch()
	switch e := rp.CurrentLeaderEpoch; {
	case e >= 0 && e < current:
		sp.ErrorCode = kerr.FencedLeaderEpoch.Code
	case e > current:
		sp.ErrorCode = kerr.UnknownLeaderEpoch.Code
	case rp.LeaderEpoch == current: // the epoch that writes now ends where the log does
		sp.LeaderEpoch, sp.EndOffset = current, p.HighWatermark()
	case rp.LeaderEpoch >= 0 && rp.LeaderEpoch < current:
		sp.LeaderEpoch, sp.EndOffset = p.OffsetForEpoch(rp.LeaderEpoch)
	}
	return sp
}
