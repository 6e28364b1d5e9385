package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
)

// logClient asks the log what a group must know of it besides records. Its answers are fresh: nothing is cached.
type logClient struct {
	cl    *kgo.Client
	logID string // "": the cluster id that the brokers tell
}

// identity returns the log's id and the topic's. Errors are transient: a topic may come back, or into being.
func (l *logClient) identity(ctx context.Context, topic string) (logID string, topicID [16]byte, err error) {
	logID, ids, err := l.identities(ctx, []string{topic})
	if err != nil {
		return "", topicID, err
	}
	return logID, ids[topic].id, ids[topic].err
}

type topicIdentity struct {
	id  [16]byte
	err error
}

func (l *logClient) identities(ctx context.Context, topics []string) (logID string, ids map[string]topicIdentity, err error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, topic := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, l.cl)
	if err != nil {
		return "", nil, logError("metadata", err)
	}
	logID = l.logID
	if logID == "" && resp.ClusterID != nil {
		logID = *resp.ClusterID
	}
	if logID == "" {
		return "", nil, &outrelay.Error{Class: outrelay.ErrTransient, Code: "no-log-id", Place: "log", Cause: "the brokers tell no cluster id"}
	}
	ids = make(map[string]topicIdentity, len(topics))
	for _, topic := range topics {
		ids[topic] = topicIdentity{err: logError("topic "+topic, errors.New("not in the answer"))}
	}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		i := topicIdentity{id: t.TopicID}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			i.err = logError("topic "+*t.Topic, err)
		}
		ids[*t.Topic] = i
	}
	return logID, ids, nil
}

// Timestamps that ListOffsets knows by a meaning of their own.
const (
	timestampLatest   = -1
	timestampEarliest = -2
)

// offset returns the offset of the first record at or after a timestamp (milliseconds), or an end of the log; -1 when there is no such
// record. At committed the end is the last stable offset, else the high watermark.
func (l *logClient) offset(ctx context.Context, tp outrelay.TopicPartition, timestamp int64, committed bool) (int64, error) {
	all, err := l.offsets(ctx, map[string][]int32{tp.Topic: {tp.Partition}}, timestamp, committed)
	if err != nil {
		return 0, err
	}
	o, ok := all[tp]
	if !ok {
		return 0, logError("list offsets", fmt.Errorf("no answer for %s", tp))
	}
	return o.offset, o.err
}

type listed struct {
	offset int64
	err    error
}

func (l *logClient) offsets(ctx context.Context, of map[string][]int32, timestamp int64, committed bool) (map[outrelay.TopicPartition]listed, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if committed {
		req.IsolationLevel = 1
	}
	for topic, partitions := range of {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for _, n := range partitions {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = n, timestamp
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	out := map[outrelay.TopicPartition]listed{}
	for _, shard := range l.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, logError("list offsets", shard.Err)
		}
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			continue
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				o := listed{offset: p.Offset}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					o.err = logError("list offsets of "+t.Topic, err)
				}
				out[outrelay.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = o
			}
		}
	}
	return out, nil
}

// bounds returns the ends of a partition, and where the start policy begins when it is asked for.
func (l *logClient) bounds(ctx context.Context, tp outrelay.TopicPartition, s *Start) (b bounds, err error) {
	if b.start, err = l.offset(ctx, tp, timestampEarliest, false); err != nil {
		return b, err
	}
	if b.end, err = l.offset(ctx, tp, timestampLatest, false); err != nil || s == nil {
		return b, err
	}
	b.startAt = b.start
	if !s.Time.IsZero() {
		if b.startAt, err = l.offset(ctx, tp, s.Time.UnixMilli(), true); err != nil {
			return b, err
		}
	}
	if s.Latest || b.startAt < 0 {
		b.startAt, err = l.offset(ctx, tp, timestampLatest, true)
	}
	return b, err
}

// member asks the group's coordinator whether this client is a member of the group right now. A rebalance that has begun does not
// change that.
func member(ctx context.Context, cl *kgo.Client, group, instanceID string) error {
	id, generation := cl.GroupMetadata()
	if id == "" {
		return logError("group "+group, errors.New("not a member at the moment"))
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation, req.MemberID = group, generation, id
	if instanceID != "" {
		req.InstanceID = kmsg.StringPtr(instanceID)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil && !errors.Is(err, kerr.RebalanceInProgress) {
		return logError("heartbeat in group "+group, err)
	}
	return nil
}

func logError(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &outrelay.Error{Class: outrelay.ErrTransient, Code: "log-unavailable", Place: "log", Cause: what, Err: err}
}
