package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// CreateTopics, key 19: v0–7
//
//   - v1: validate only, error messages
//   - v4: -1 for the broker's default partitions and replication factor (KIP-464)
//   - v5: flexible; the answer says configurations, partitions and replication factor (KIP-525)
//   - v7: topic ids (KIP-516)
//
// The answer comes when the partitions can be used. Topics of one request share the fsync.

// topicPartitionsMax bounds the partitions of one topic; a request above it is a slip, or an attack.
const topicPartitionsMax = 10_000

func handleCreateTopics(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.CreateTopicsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, req.TimeoutMillis)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))
		count := make(map[string]int, len(req.Topics))
		for i := range req.Topics {
			count[req.Topics[i].Topic]++
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, topicsParallel)
		for i := range req.Topics {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				rt := &req.Topics[i]
				resp.Topics[i] = s.createTopicFor(ctx, rt, req.ValidateOnly, count[rt.Topic] > 1)
			})
		}
		wg.Wait()
		s.openCreated(resp)
		return resp
	}
}

// openCreated opens the partitions of what was created, all topics at once.
func (s *Server) openCreated(resp *kmsg.CreateTopicsResponse) {
	if err := s.syncTopics(); err != nil {
		s.log.Error("partitions do not follow the cluster's metadata", "error", err)
	}
	set := s.topics.set()
	for i := range resp.Topics {
		st := &resp.Topics[i]
		if t := set.byName[st.Topic]; st.ErrorCode == 0 && st.TopicID != [16]byte{} && t != nil {
			st.Configs = s.createdConfigs(t.Topic)
		}
	}
}

func (s *Server) createTopicFor(ctx context.Context, rt *kmsg.CreateTopicsRequestTopic, validateOnly, twice bool) kmsg.CreateTopicsResponseTopic {
	st := kmsg.NewCreateTopicsResponseTopic()
	st.Topic, st.NumPartitions, st.ReplicationFactor = rt.Topic, -1, -1
	fail := func(err error) kmsg.CreateTopicsResponseTopic {
		st.ErrorCode = kafkaError(err).Code
		st.ErrorMessage = new(errorText(err))
		return st
	}
	if twice {
		return fail(invalid(kerr.InvalidRequest, "topic %q stands twice in the request", rt.Topic))
	}
	if err := s.checkNewName(rt.Topic); err != nil {
		return fail(err)
	}
	configs := make(map[string]string, len(rt.Configs))
	for _, cf := range rt.Configs {
		if cf.Value == nil {
			return fail(invalid(kerr.InvalidConfig, "null value for configuration %q", cf.Name))
		}
		configs[cf.Name] = *cf.Value
	}
	if err := cluster.ValidateConfigs(configs); err != nil {
		return fail(err)
	}
	partitions, err := s.checkNewTopic(rt)
	if err != nil {
		return fail(err)
	}
	st.NumPartitions, st.ReplicationFactor = partitions, 1
	if validateOnly {
		return st
	}
	ct, err := s.cluster.CreateTopic(ctx, rt.Topic, partitions, configs, s.opts.NodeID)
	if err != nil {
		return fail(err)
	}
	st.TopicID = ct.ID
	return st
}

// checkNewName says what is wrong with a new topic's name.
func (s *Server) checkNewName(name string) error {
	switch {
	case !validTopicName(name):
		return invalid(kerr.InvalidTopicException, "topic names have 1 to 249 of a-z A-Z 0-9 . _ -")
	case s.topics.set().byName[name] != nil:
		return invalid(kerr.TopicAlreadyExists, "topic %q already exists", name)
	}
	return nil
}

// checkNewTopic returns the number of partitions that rt asks for, or what is wrong with it.
func (s *Server) checkNewTopic(rt *kmsg.CreateTopicsRequestTopic) (int32, error) {
	if isInternal(rt.Topic) {
		return internalCount, nil
	}
	n := rt.NumPartitions
	if len(rt.ReplicaAssignment) > 0 {
		if rt.NumPartitions != -1 || rt.ReplicationFactor != -1 {
			return 0, invalid(kerr.InvalidRequest, "partitions and an assignment exclude each other")
		}
		n = int32(len(rt.ReplicaAssignment))
		seen := make(map[int32]bool, n)
		for i := range rt.ReplicaAssignment {
			a := &rt.ReplicaAssignment[i]
			if a.Partition < 0 || a.Partition >= n || seen[a.Partition] || len(a.Replicas) != 1 || a.Replicas[0] != s.opts.NodeID {
				return 0, invalid(kerr.InvalidReplicaAssignment, "partitions count from 0, each on node %d", s.opts.NodeID)
			}
			seen[a.Partition] = true
		}
		return n, nil
	}
	if n == -1 {
		n = s.opts.DefaultPartitions
	}
	if n < 1 || n > topicPartitionsMax {
		return 0, invalid(kerr.InvalidPartitions, "%d partitions, from 1 to %d are possible", rt.NumPartitions, topicPartitionsMax)
	}
	if rt.ReplicationFactor != -1 && rt.ReplicationFactor != 1 {
		return 0, invalid(kerr.InvalidReplicationFactor, "replication factor %d, but there is 1 node", rt.ReplicationFactor)
	}
	return n, nil
}

// invalid returns an error of Kafka's with a text of ours.
func invalid(class *kerr.Error, format string, args ...any) error {
	return &cluster.Error{Kafka: class, Text: fmt.Sprintf(format, args...)}
}

// errorText is what a client is told of an error.
func errorText(err error) string {
	if ke, ok := errors.AsType[*kerr.Error](err); ok && err == error(ke) {
		return ke.Description
	}
	return err.Error()
}
