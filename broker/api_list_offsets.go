package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListOffsets, key 2: v0–11
//
//   - v0: a list of offsets before a time; at most one is given
//   - v1: one offset and its timestamp (KIP-79)
//   - v2: isolation level (KIP-98); v4: leader epochs (KIP-320)
//   - v6: flexible; v7: -3, the record with the largest timestamp (KIP-734)
//   - v8: -4, the earliest local offset (KIP-405); v9: -5, the latest tiered offset (KIP-1005)
//   - v10: a timeout, for tiered storage; v11: -6, the earliest offset that is still to be tiered (KIP-1023)
//
// Nothing is tiered here: -4 is -2, and -5 and -6 find nothing.

// What a timestamp below zero asks for.
const (
	askLatest       = -1
	askEarliest     = -2
	askMaxTimestamp = -3
	askLocal        = -4
	askTiered       = -5
	askUntiered     = -6
)

func handleListOffsets(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ListOffsetsRequest)
	// In the writer, so that it sees what the connection's earlier requests wrote.
	return func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for i := range req.Topics {
			rt := &req.Topics[i]
			st := kmsg.NewListOffsetsResponseTopic()
			st.Topic = rt.Topic
			for j := range rt.Partitions {
				st.Partitions = append(st.Partitions, s.listOffset(req, rt.Topic, &rt.Partitions[j]))
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp
	}
}

func (s *Server) listOffset(req *kmsg.ListOffsetsRequest, topic string, rp *kmsg.ListOffsetsRequestTopicPartition) kmsg.ListOffsetsResponseTopicPartition {
	sp := kmsg.NewListOffsetsResponseTopicPartition()
	sp.Partition, sp.Offset, sp.Timestamp, sp.LeaderEpoch = rp.Partition, -1, -1, -1
	p, err := s.lookupServed(topic, rp.Partition)
	if err == nil && rp.CurrentLeaderEpoch >= 0 && req.Version >= 4 {
		switch e := p.LeaderEpoch(); {
		case rp.CurrentLeaderEpoch < e:
			err = kerr.FencedLeaderEpoch
		case rp.CurrentLeaderEpoch > e:
			err = kerr.UnknownLeaderEpoch
		}
	}
	if err == nil && rp.Timestamp < -1 && req.Version < askedSince(rp.Timestamp) {
		err = kerr.UnsupportedVersion
	}
	if err == nil {
		sp.Offset, sp.Timestamp, err = p.findOffset(rp.Timestamp, req.IsolationLevel == isolationReadCommitted)
	}
	if err != nil {
		sp.ErrorCode = err.Code
		return sp
	}
	if sp.Offset >= 0 {
		sp.LeaderEpoch = p.LeaderEpoch()
		if req.Version == 0 {
			sp.OldStyleOffsets = []int64{sp.Offset}
		}
	}
	return sp
}

// askedSince returns the version that introduced a special timestamp.
func askedSince(ts int64) int16 {
	switch ts {
	case askEarliest:
		return 0
	case askMaxTimestamp:
		return 7
	case askLocal:
		return 8
	case askTiered:
		return 9
	case askUntiered:
		return 11
	}
	return 1 << 14
}

// findOffset returns the offset that ts asks for and its timestamp; -1 for both when there is none.
func (p *partition) findOffset(ts int64, committed bool) (offset, timestamp int64, err *kerr.Error) {
	switch ts {
	case askLatest:
		if committed {
			return p.LastStable(), -1, nil
		}
		return p.HighWatermark(), -1, nil
	case askEarliest, askLocal:
		return p.LogStart(), -1, nil
	case askTiered, askUntiered:
		return -1, -1, nil
	}
	end := p.HighWatermark()
	if committed {
		end = p.LastStable()
	}
	if ts == askMaxTimestamp {
		if offset, timestamp = p.MaxTimestamp(); offset >= end {
			return -1, -1, nil // of a transaction that is still open
		}
		return offset, timestamp, nil
	}
	offset, timestamp, ok, e := p.OffsetForTime(ts)
	switch {
	case e != nil:
		return -1, -1, kafkaError(e)
	case !ok || offset >= end:
		return -1, -1, nil
	}
	return offset, timestamp, nil
}
