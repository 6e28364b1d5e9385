package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
)

// Watermarks are the ends of a partition. Start and both ends are offsets; the ends are exclusive.
type Watermarks struct {
	Start, LastStable, High int64
}

// HighWatermarks returns the high watermark of each partition of a topic: the first offset that is not committed.
func HighWatermarks(ctx context.Context, cl *kgo.Client, topic string) (map[int32]int64, error) {
	return offsets(ctx, cl, topic, kadm.NewClient(cl).ListEndOffsets)
}

// StableOffsets returns the last stable offset of each partition of a topic: readers at read_committed stop there.
func StableOffsets(ctx context.Context, cl *kgo.Client, topic string) (map[int32]int64, error) {
	return offsets(ctx, cl, topic, kadm.NewClient(cl).ListCommittedOffsets)
}

// StartOffsets returns the log start offset of each partition of a topic.
func StartOffsets(ctx context.Context, cl *kgo.Client, topic string) (map[int32]int64, error) {
	return offsets(ctx, cl, topic, kadm.NewClient(cl).ListStartOffsets)
}

const (
	staleTriesMax = 100
	stalePause    = 20 * time.Millisecond
)

// offsets lists offsets. The client remembers for a moment that a topic did not exist, so a "no" is checked by asking a broker.
func offsets(ctx context.Context, cl *kgo.Client, topic string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
	for try := 0; ; try++ {
		l, err := list(ctx, topic)
		if err == nil {
			err = l.Error()
		}
		out := map[int32]int64{}
		l.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
		if err == nil && len(out) > 0 {
			return out, nil
		}
		if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil, wrap(err, "offsets of topic %s", topic)
		}
		if _, err := Topic(ctx, cl, topic); err != nil {
			return nil, err
		}
		if try >= staleTriesMax {
			return nil, fmt.Errorf("offsets of topic %s: %w: it exists, but its partitions are not known yet", topic, outrelay.ErrTransient)
		}
		if err := backoff.Sleep(ctx, clock.Real{}, stalePause); err != nil {
			return nil, wrap(err, "offsets of topic %s", topic)
		}
	}
}

// ReadCommitted calls fn for each committed record of a partition with an offset in [from, upTo), in order, and returns once everything
// below upTo was seen. It waits while a transaction that is still open holds readers below upTo; ctx bounds the wait. Gaps left by
// compaction, aborted transactions and markers are no obstacle. The record is fn's to keep. From below the log's start begins at the start.
func ReadCommitted(ctx context.Context, cl *kgo.Client, topic string, partition int32, from, upTo int64, fn func(*kgo.Record) error) error {
	return ReadRuns(ctx, cl, topic, partition, from, upTo, func(run Run) error {
		for _, r := range run.Records {
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Run is a stretch of a partition: all its committed records with offsets in [From, Next). What else lies there are markers, aborted
// records, and what compaction took.
type Run struct {
	From, Next int64
	Records    []*kgo.Record
}

// ReadRuns is ReadCommitted for those who must know how far they have come where there are no records to show for it: fn gets runs that follow on
// each other up to upTo. Only where the log no longer holds what comes next does a run begin above the end of the one before. A run is what one answer
// of at most 16 MiB, or one batch that is larger, holds.
func ReadRuns(ctx context.Context, cl *kgo.Client, topic string, partition int32, from, upTo int64, fn func(Run) error) error {
	place := fmt.Sprintf("read %s/%d", topic, partition)
	f, err := newFetcher(ctx, cl, topic, partition)
	if err != nil {
		return err
	}
	for from < upTo {
		if err := ctx.Err(); err != nil {
			return wrap(err, "%s at offset %d, waiting for %d", place, from, upTo)
		}
		p, next, err := f.fetch(ctx, from)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			// The answer does not say where the log starts; it may have moved while we read.
			starts, serr := StartOffsets(ctx, cl, topic)
			if serr != nil {
				return serr
			}
			if starts[partition] > from {
				from = starts[partition]
				continue
			}
		}
		if err != nil {
			if kerr.IsRetriable(err) { // the leader moved: look again
				if f, err = newFetcher(ctx, cl, topic, partition); err == nil {
					continue
				}
			}
			return wrap(err, "%s at offset %d", place, from)
		}
		if next <= from && p.LastStableOffset >= upTo {
			return fn(Run{From: from, Next: upTo}) // nothing is left below upTo: compaction took the tail
		}
		if next <= from {
			continue // an open transaction holds us
		}
		run := Run{From: from, Next: min(next, upTo), Records: below(p.Records, upTo)}
		if err := fn(run); err != nil {
			return err
		}
		from = run.Next
	}
	return nil
}

// below returns the records with offsets below limit, of records in offset order.
func below(rs []*kgo.Record, limit int64) []*kgo.Record {
	for i, r := range rs {
		if r.Offset >= limit {
			return rs[:i]
		}
	}
	return rs
}

// fetcher reads one partition by plain Fetch requests, so that it knows how far it has come when there are no records to
// show for it, which a consumer does not tell.
type fetcher struct {
	broker    *kgo.Broker
	topic     string
	id        [16]byte
	partition int32
	dec       kgo.Decompressor
}

func newFetcher(ctx context.Context, cl *kgo.Client, topic string, partition int32) (*fetcher, error) {
	t, err := topicMetadata(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	for _, p := range t.Partitions {
		if p.Partition != partition {
			continue
		}
		if p.Leader < 0 {
			return nil, fmt.Errorf("%s/%d has no leader: %w", topic, partition, outrelay.ErrTransient)
		}
		return &fetcher{broker: cl.Broker(int(p.Leader)), topic: topic, id: t.TopicID, partition: partition, dec: kgo.DefaultDecompressor()}, nil
	}
	return nil, fmt.Errorf("topic %s has no partition %d: %w", topic, partition, outrelay.ErrEnvironment)
}

func (f *fetcher) fetch(ctx context.Context, from int64) (kgo.FetchPartition, int64, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, 16<<20
	req.IsolationLevel = 1
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = f.topic, f.id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = f.partition, from, 16<<20
	p.CurrentLeaderEpoch = -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	kresp, err := f.broker.RetriableRequest(ctx, req)
	if err != nil {
		return kgo.FetchPartition{}, 0, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return kgo.FetchPartition{}, 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return kgo.FetchPartition{}, 0, fmt.Errorf("fetch answered %d topics, not 1: %w", len(resp.Topics), outrelay.ErrTransient)
	}
	o := kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: f.topic, Partition: f.partition}
	fp, next := kgo.ProcessFetchPartition(o, &resp.Topics[0].Partitions[0], f.dec, nil)
	return fp, next, fp.Err
}

// ReadCompacted returns the last committed record of each key of a partition, as of the high watermark now. Tombstoned keys are left out.
func ReadCompacted(ctx context.Context, cl *kgo.Client, topic string, partition int32) (map[string]*kgo.Record, error) {
	hw, err := HighWatermarks(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	last := map[string]*kgo.Record{}
	err = ReadCommitted(ctx, cl, topic, partition, 0, hw[partition], func(r *kgo.Record) error {
		if r.Value == nil {
			delete(last, string(r.Key))
		} else {
			last[string(r.Key)] = r
		}
		return nil
	})
	return last, err
}

// LastOfKey returns the last committed record of one key of a partition, as of the high watermark now; nil when there is none or it is a
// tombstone. It looks from the end backwards, in steps that grow, since what is asked for is mostly near the end.
func LastOfKey(ctx context.Context, cl *kgo.Client, topic string, partition int32, key string) (*kgo.Record, error) {
	hws, err := HighWatermarks(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	starts, err := StartOffsets(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	start, limit := starts[partition], hws[partition]
	for step := int64(1024); limit > start; step *= 8 {
		from := max(start, limit-step)
		var found *kgo.Record
		err := ReadCommitted(ctx, cl, topic, partition, from, limit, func(r *kgo.Record) error {
			if string(r.Key) == key {
				found = r
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if found != nil {
			if found.Value == nil {
				return nil, nil
			}
			return found, nil
		}
		limit = from
	}
	return nil, nil
}
