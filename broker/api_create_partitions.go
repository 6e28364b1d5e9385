package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions, key 37: v0–3
//
//   - v0: KIP-195; v2: flexible

func handleCreatePartitions(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, req.TimeoutMillis)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
		count := make(map[string]int, len(req.Topics))
		for i := range req.Topics {
			count[req.Topics[i].Topic]++
		}
		for i := range req.Topics {
			rt := &req.Topics[i]
			st := kmsg.NewCreatePartitionsResponseTopic()
			st.Topic = rt.Topic
			err := s.createPartitionsFor(ctx, rt, req.ValidateOnly)
			if count[rt.Topic] > 1 {
				err = invalid(kerr.InvalidRequest, "topic %q stands twice in the request", rt.Topic)
			}
			if err != nil {
				st.ErrorCode, st.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			}
			resp.Topics = append(resp.Topics, st)
		}
		if err := s.syncTopics(); err != nil {
			s.log.Error("partitions do not follow the cluster's metadata", "error", err)
		}
		return resp
	}
}

func (s *Server) createPartitionsFor(ctx context.Context, rt *kmsg.CreatePartitionsRequestTopic, validateOnly bool) error {
	t := s.topics.set().byName[rt.Topic]
	switch {
	case t == nil:
		return kerr.UnknownTopicOrPartition
	case t.internal():
		return invalid(kerr.InvalidTopicException, "the coordinators' topics cannot grow: what they hold is found by the number of partitions")
	case int(rt.Count) <= len(t.Partitions):
		return invalid(kerr.InvalidPartitions, "topic %q has %d partitions already", rt.Topic, len(t.Partitions))
	case rt.Count > topicPartitionsMax:
		return invalid(kerr.InvalidPartitions, "%d partitions, at most %d are possible", rt.Count, topicPartitionsMax)
	}
	if rt.Assignment != nil {
		if len(rt.Assignment) != int(rt.Count)-len(t.Partitions) {
			return invalid(kerr.InvalidReplicaAssignment, "%d assignments for %d new partitions", len(rt.Assignment), int(rt.Count)-len(t.Partitions))
		}
		for _, a := range rt.Assignment {
			if len(a.Replicas) != 1 || a.Replicas[0] != s.opts.NodeID {
				return invalid(kerr.InvalidReplicaAssignment, "each partition stands on node %d", s.opts.NodeID)
			}
		}
	}
	if validateOnly {
		return nil
	}
	_, err := s.cluster.CreatePartitions(ctx, rt.Topic, rt.Count)
	return err
}
