package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
)

// shownRecord is a record as --json prints it, one a line.
type shownRecord struct {
	Topic     string            `json:"topic"`
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Timestamp time.Time         `json:"timestamp"`
	Key       *string           `json:"key"`
	Value     *string           `json:"value"`           // text; absent where the bytes are no text
	Bytes     []byte            `json:"bytes,omitempty"` // base64, where the value is no text
	Headers   map[string]string `json:"headers,omitempty"`
}

func newConsume(a *app) *cobra.Command {
	var from string
	var limit int
	var follow, uncommitted bool
	c := &cobra.Command{
		Use: "consume TOPIC...", Short: "Print records, committed ones only", Args: cobra.MinimumNArgs(1),
		Long: `Prints the records that stand in the topics now, then stops; with --follow it waits for more. It reads committed records unless told otherwise, belongs to
no group and moves no offset.`,
		Example: `  outrelay consume outbox.event.order
  outrelay consume outbox.event.order --from latest --follow --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			start, begin := kgo.NewOffset().AtStart(), int64(-2)
			switch from {
			case "earliest":
			case "latest":
				start, begin = kgo.NewOffset().AtEnd(), -1
			default:
				at, err := time.Parse(time.RFC3339, from)
				if err != nil {
					return usageError{fmt.Errorf("--from %q: write earliest, latest, or a time as 2026-11-01T00:00:00Z", from)}
				}
				begin = at.UnixMilli()
				start = kgo.NewOffset().AfterMilli(begin)
			}
			level := kgo.ReadCommitted()
			if uncommitted {
				level = kgo.ReadUncommitted()
			}
			cl, err := a.client(kgo.ConsumeTopics(args...), kgo.ConsumeResetOffset(start), kgo.FetchIsolationLevel(level), kgo.FetchMaxWait(500*time.Millisecond), kgo.KeepControlRecords())
			if err != nil {
				return err
			}
			defer cl.Close()
			return a.reach(a.consume(cmd.Context(), cl, args, begin, limit, follow))
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "earliest", "earliest, latest, or a time (RFC 3339)")
	f.IntVar(&limit, "limit", 0, "stop after so many records (0: no limit)")
	f.BoolVar(&follow, "follow", false, "wait for more records")
	f.BoolVar(&uncommitted, "uncommitted", false, "also records of open and aborted transactions")
	return c
}

// consume begins at the timestamp, -2 the start and -1 the end as in ListOffsets, and prints until the end that the topics had at the start, the limit, or, following, for ever.
func (a *app) consume(ctx context.Context, cl *kgo.Client, topics []string, begin int64, limit int, follow bool) error {
	left, err := endsOf(ctx, cl, topics, begin)
	if err != nil {
		return err
	}
	n := 0
	for follow || len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fs := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fs.Errors() {
			if poll.Err() == nil {
				return fmt.Errorf("%s/%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		for it := fs.RecordIter(); !it.Done(); {
			r := it.Next()
			// Markers of transactions are no records, but they take the last offsets of a partition: without them the end is never seen.
			if k := (partitionKey{r.Topic, r.Partition}); r.Offset+1 >= left[k] {
				delete(left, k)
			}
			if r.Attrs.IsControl() {
				continue
			}
			if err := a.printRecord(r); err != nil {
				return err
			}
			if n++; limit > 0 && n >= limit {
				return nil
			}
		}
	}
	return nil
}

type partitionKey struct {
	topic     string
	partition int32
}

// endsOf returns the last stable offsets of the partitions that hold something at or after the timestamp begin.
func endsOf(ctx context.Context, cl *kgo.Client, topics []string, begin int64) (map[partitionKey]int64, error) {
	left := map[partitionKey]int64{}
	if begin == -1 {
		return left, nil
	}
	for _, t := range topics {
		starts, err := kafka.StartOffsets(ctx, cl, t)
		if err != nil {
			return nil, err
		}
		ends, err := kafka.StableOffsets(ctx, cl, t)
		if err != nil {
			return nil, err
		}
		for p, end := range ends {
			if end > starts[p] {
				left[partitionKey{t, p}] = end
			}
		}
	}
	if begin < 0 {
		return left, nil
	}
	after, err := kadm.NewClient(cl).ListOffsetsAfterMilli(ctx, begin, topics...)
	if err != nil {
		return nil, err
	}
	for k, end := range left {
		if o, ok := after.Lookup(k.topic, k.partition); ok && o.Err == nil && o.Offset >= end {
			delete(left, k)
		}
	}
	return left, nil
}

func (a *app) printRecord(r *kgo.Record) error {
	if !a.json {
		_, err := fmt.Fprintf(a.out, "%s/%d@%d\t%s\t%s\n", r.Topic, r.Partition, r.Offset, r.Key, r.Value)
		return err
	}
	s := shownRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Headers: map[string]string{}}
	if r.Key != nil {
		s.Key = new(string(r.Key))
	}
	switch {
	case r.Value == nil:
	case utf8.Valid(r.Value):
		s.Value = new(string(r.Value))
	default:
		s.Bytes = r.Value
	}
	for _, h := range r.Headers {
		s.Headers[h.Key] = string(h.Value)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}
