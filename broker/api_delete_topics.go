package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopics, key 20: v0–6
//
//   - v4: flexible; v5: error messages; v6: topic ids (KIP-516)
//
// The deletion is a command of the cluster's metadata. Once it is committed, the groups are removed and their directories
// deleted, at the latest when the node starts next.

func handleDeleteTopics(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DeleteTopicsRequest)
	asked := req.Topics
	for _, name := range req.TopicNames {
		asked = append(asked, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, req.TimeoutMillis)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
		resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, len(asked))
		var wg sync.WaitGroup
		slots := make(chan struct{}, topicsParallel)
		for i := range asked {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				resp.Topics[i] = s.deleteTopicFor(ctx, &asked[i])
			})
		}
		wg.Wait()
		if err := s.syncTopics(); err != nil {
			s.log.Error("partitions do not follow the cluster's metadata", "error", err)
		}
		return resp
	}
}

func (s *Server) deleteTopicFor(ctx context.Context, rt *kmsg.DeleteTopicsRequestTopic) kmsg.DeleteTopicsResponseTopic {
	st := kmsg.NewDeleteTopicsResponseTopic()
	st.Topic, st.TopicID = rt.Topic, rt.TopicID
	set := s.topics.set()
	t, err := set.byID[rt.TopicID], kerr.UnknownTopicID
	if rt.Topic != nil {
		t, err = set.byName[*rt.Topic], kerr.UnknownTopicOrPartition
	}
	if t == nil {
		st.ErrorCode, st.ErrorMessage = err.Code, &err.Description
		return st
	}
	if t.internal() {
		err := kerr.InvalidTopicException
		st.ErrorCode, st.ErrorMessage = err.Code, new("the coordinators' topics cannot be deleted")
		return st
	}
	st.Topic, st.TopicID = new(t.Name), t.ID
	if _, err := s.cluster.DeleteTopic(ctx, t.Name); err != nil {
		ke := kafkaError(err)
		if errors.Is(err, kerr.UnknownTopicOrPartition) && rt.Topic == nil {
			ke = kerr.UnknownTopicID
		}
		st.ErrorCode, st.ErrorMessage = ke.Code, new(errorText(err))
		return st
	}
	s.topicDeleted(t.ID)
	s.log.Info("topic deleted", "topic", t.Name)
	return st
}
