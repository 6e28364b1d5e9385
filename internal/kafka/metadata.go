package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
)

// metadata asks a broker about topics; none asks for the cluster alone. It never answers from the client's memory, which for a while
// takes a topic that has just been made for missing.
func metadata(ctx context.Context, cl *kgo.Client, topics ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != len(topics) {
		return nil, fmt.Errorf("asked for %d topics, got %d: %w", len(topics), len(resp.Topics), outrelay.ErrTransient)
	}
	return resp, nil
}

// topicMetadata returns what a broker says of one topic; ErrNoTopic when there is none.
func topicMetadata(ctx context.Context, cl *kgo.Client, name string) (kmsg.MetadataResponseTopic, error) {
	m, err := metadata(ctx, cl, name)
	if err != nil {
		return kmsg.MetadataResponseTopic{}, wrap(err, "topic %s", name)
	}
	t := m.Topics[0]
	err = kerr.ErrorForCode(t.ErrorCode)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return t, fmt.Errorf("topic %s: %w", name, ErrNoTopic)
	}
	return t, wrap(err, "topic %s", name)
}

// Topic returns the id and the number of partitions of a topic; ErrNoTopic when there is none.
func Topic(ctx context.Context, cl *kgo.Client, name string) (TopicState, error) {
	t, err := topicMetadata(ctx, cl, name)
	return TopicState{ID: t.TopicID, Partitions: int32(len(t.Partitions))}, err
}

// ClusterID returns the id of the log: it tells one log from another, whatever their addresses.
func ClusterID(ctx context.Context, cl *kgo.Client) (string, error) {
	m, err := metadata(ctx, cl)
	if err != nil {
		return "", wrap(err, "cluster id")
	}
	if m.ClusterID == nil || *m.ClusterID == "" {
		return "", fmt.Errorf("cluster id: %w: the broker has none (Kafka 0.10.1 or later has)", outrelay.ErrEnvironment)
	}
	return *m.ClusterID, nil
}

// TopicIDs returns the ids of those of the topics that exist (KIP-516).
func TopicIDs(ctx context.Context, cl *kgo.Client, topics ...string) (map[string][16]byte, error) {
	ids := make(map[string][16]byte, len(topics))
	if len(topics) == 0 {
		return ids, nil
	}
	m, err := metadata(ctx, cl, topics...)
	if err != nil {
		return nil, wrap(err, "topic ids")
	}
	for _, t := range m.Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		switch {
		case err == nil && t.Topic != nil:
			ids[*t.Topic] = t.TopicID
		case err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil, wrap(err, "topic ids")
		}
	}
	return ids, nil
}
