package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTopicPartitions, key 75: v0 (KIP-966)
//
// Topics come in the order of their names, at most so many partitions in one answer, with a cursor to where the next goes on. No topics
// means all. A single replica is its own eligible leader, so there are none beside the in-sync replicas.

// describePartitionsMax bounds the partitions of one answer (max.request.partition.size.limit).
const describePartitionsMax = 2000

func handleDescribeTopicPartitions(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	set := s.topics.set()
	names := sortedNames(set)
	if len(req.Topics) > 0 {
		names = nil
		for _, t := range req.Topics {
			names = append(names, t.Topic)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	first := int32(0)
	if c := req.Cursor; c != nil {
		if c.Partition < 0 || len(req.Topics) > 0 && !slices.Contains(names, c.Topic) {
			for _, name := range names {
				resp.Topics = append(resp.Topics, missingTopic(name, kerr.InvalidRequest))
			}
			return answer(resp)
		}
		at, found := slices.BinarySearch(names, c.Topic)
		if names = names[at:]; found {
			first = c.Partition
		}
	}
	s.describeTopics(resp, names, first, min(max(int(req.ResponsePartitionLimit), 1), describePartitionsMax))
	return answer(resp)
}

// describeTopics describes topics until there are limit partitions, the first topic from its partition first on.
func (s *Server) describeTopics(resp *kmsg.DescribeTopicPartitionsResponse, names []string, first int32, limit int) {
	set := s.topics.set()
	for _, name := range names {
		if limit == 0 {
			resp.NextCursor = cursorAt(name, 0)
			return
		}
		t := set.byName[name]
		if t == nil {
			err := kerr.UnknownTopicOrPartition
			if !validTopicName(name) {
				err = kerr.InvalidTopicException
			}
			resp.Topics = append(resp.Topics, missingTopic(name, err))
			continue
		}
		from := min(int(first), len(t.partitions))
		n := min(len(t.partitions)-from, limit)
		resp.Topics = append(resp.Topics, s.describedTopic(t, from, from+n))
		limit -= n
		if from+n < len(t.partitions) {
			resp.NextCursor = cursorAt(name, int32(from+n))
			return
		}
		first = 0
	}
}

// describedTopic describes the partitions [from, limit) of a topic.
func (s *Server) describedTopic(t *topic, from, limit int) kmsg.DescribeTopicPartitionsResponseTopic {
	m := s.topicMetadata(t)
	dt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	dt.Topic, dt.TopicID, dt.IsInternal, dt.AuthorizedOperations = m.Topic, m.TopicID, m.IsInternal, topicOperations
	for _, mp := range m.Partitions[from:limit] {
		dp := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		dp.Partition, dp.ErrorCode, dp.LeaderID, dp.LeaderEpoch = mp.Partition, mp.ErrorCode, mp.Leader, mp.LeaderEpoch
		dp.Replicas, dp.ISR, dp.OfflineReplicas = mp.Replicas, mp.ISR, mp.OfflineReplicas
		dp.EligibleLeaderReplicas, dp.LastKnownELR = []int32{}, []int32{}
		dt.Partitions = append(dt.Partitions, dp)
	}
	return dt
}

func missingTopic(name string, err *kerr.Error) kmsg.DescribeTopicPartitionsResponseTopic {
	dt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	dt.Topic, dt.ErrorCode, dt.IsInternal = &name, err.Code, isInternal(name)
	return dt
}

func cursorAt(name string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = name, partition
	return &c
}
