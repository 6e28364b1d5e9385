package relay

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

const (
	indexFullEvery         = 256  // index records between two full ones
	indexFullPartitionsMax = 8192 // a full record with more would come near the record limit
)

// IndexRecord is the value of a record in __outrelay_index (docs/format/index-record.md): events after the position have offsets at or
// above Next.
type IndexRecord struct {
	PositionRecord
	Full bool // Next names every partition that the index knows for this source
	Next map[outrelay.TopicPartition]int64
	IDs  map[string][16]byte // topic ids of the topics in Next; missing where the broker has none
}

// Append appends the record's value to b.
func (x IndexRecord) Append(b []byte) []byte {
	b = x.appendOpen(b)
	b = append(b, `,"full":`...)
	b = strconv.AppendBool(b, x.Full)
	b = append(b, `,"next":{`...)
	tps := make([]outrelay.TopicPartition, 0, len(x.Next))
	for tp := range x.Next {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, func(a, b outrelay.TopicPartition) int {
		if a.Topic != b.Topic {
			if a.Topic < b.Topic {
				return -1
			}
			return 1
		}
		return int(a.Partition) - int(b.Partition)
	})
	for i, tp := range tps {
		switch {
		case i == 0:
			b = x.appendTopic(b, tp.Topic)
		case tps[i-1].Topic != tp.Topic:
			b = x.appendTopic(append(b, `}},`...), tp.Topic)
		default:
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, int64(tp.Partition), 10)
		b = append(b, `":`...)
		b = strconv.AppendInt(b, x.Next[tp], 10)
	}
	if len(tps) > 0 {
		b = append(b, `}}`...)
	}
	return append(b, `}}`...)
}

func (x IndexRecord) appendTopic(b []byte, topic string) []byte {
	b = appendJSONString(b, []byte(topic))
	b = append(b, `:{`...)
	if id, ok := x.IDs[topic]; ok && id != ([16]byte{}) {
		b = append(b, `"id":"`...)
		b = hex.AppendEncode(b, id[:])
		b = append(b, `",`...)
	}
	return append(b, `"offsets":{`...)
}

// ParseIndex reads the value of a record in __outrelay_index.
func ParseIndex(value []byte) (IndexRecord, error) {
	var j struct {
		positionJSON
		Full bool `json:"full"`
		Next map[string]struct {
			ID      string           `json:"id"`
			Offsets map[string]int64 `json:"offsets"`
		} `json:"next"`
	}
	if err := json.Unmarshal(value, &j); err != nil {
		return IndexRecord{}, fmt.Errorf("index record: %w: %w", outrelay.ErrDataHalt, err)
	}
	p, err := j.record()
	if err == nil && p.Intent != "" {
		err = fmt.Errorf("no position: %w", outrelay.ErrDataHalt)
	}
	if err != nil {
		return IndexRecord{}, fmt.Errorf("index record: %w", err)
	}
	x := IndexRecord{PositionRecord: p, Full: j.Full, Next: map[outrelay.TopicPartition]int64{}, IDs: map[string][16]byte{}}
	for topic, t := range j.Next {
		if id, err := hex.DecodeString(t.ID); err == nil && len(id) == 16 {
			x.IDs[topic] = [16]byte(id)
		}
		for k, off := range t.Offsets {
			n, err := strconv.ParseInt(k, 10, 32)
			if err != nil {
				return IndexRecord{}, fmt.Errorf("index record: partition %q of %s: %w: %w", k, topic, outrelay.ErrDataHalt, err)
			}
			x.Next[outrelay.TopicPartition{Topic: topic, Partition: int32(n)}] = off
		}
	}
	return x, nil
}

// index collects, for one source, what the next index record says. The publisher goroutine owns it.
type index struct {
	source  outrelay.SourceID
	loaded  bool
	known   map[outrelay.TopicPartition]int64 // every partition named so far
	touched map[outrelay.TopicPartition]int64 // since the last record
	ids     map[string][16]byte
	since   int // records since the last full one
}

func newIndex(s outrelay.SourceID) *index {
	return &index{source: s, known: map[outrelay.TopicPartition]int64{}, touched: map[outrelay.TopicPartition]int64{}, ids: map[string][16]byte{}}
}

// record returns the record that pairs p with what was touched so far, and forgets what was touched.
func (x *index) record(p PositionRecord) IndexRecord {
	for tp, n := range x.touched {
		x.known[tp] = n
	}
	rec := IndexRecord{PositionRecord: p, Next: x.touched, IDs: x.ids}
	x.since++
	if x.since > indexFullEvery && len(x.known) <= indexFullPartitionsMax {
		rec.Full, rec.Next, x.since = true, x.known, 0
	}
	return rec
}

func (x *index) written() { clear(x.touched) }

// load reads back what the index knows for this source, from the end to the last full record, so that a full record names every partition
// across restarts.
func (x *index) load(ctx context.Context, cl *kgo.Client, topic string) error {
	if x.loaded {
		return nil
	}
	part := kafka.PartitionOf([]byte(x.source), kafka.IndexPartitions)
	hws, err := kafka.HighWatermarks(ctx, cl, topic)
	if err != nil {
		return err
	}
	starts, err := kafka.StartOffsets(ctx, cl, topic)
	if err != nil {
		return err
	}
	start, limit := starts[part], hws[part]
	// Other sources' open transactions may hold readers below the end; what they hide of ours is in no index record we need.
	if stable, err := kafka.StableOffsets(ctx, cl, topic); err == nil {
		limit = min(limit, stable[part])
	}
	full := false
	for step := int64(2 * indexFullEvery); limit > start && !full; step *= 8 {
		from := max(start, limit-step)
		older := map[outrelay.TopicPartition]int64{}
		n := 0
		err := kafka.ReadCommitted(ctx, cl, topic, part, from, limit, func(r *kgo.Record) error {
			if string(r.Key) != string(x.source) {
				return nil
			}
			rec, err := ParseIndex(r.Value)
			if err != nil {
				return fmt.Errorf("%s/%d offset %d: %w", topic, part, r.Offset, err)
			}
			n++
			if rec.Full {
				full, n = true, 0
				clear(older)
			}
			for tp, next := range rec.Next {
				older[tp] = next
			}
			return nil
		})
		if err != nil && !errors.Is(err, outrelay.ErrDataHalt) {
			return err
		}
		for tp, next := range older {
			if _, ok := x.known[tp]; !ok {
				x.known[tp] = next
			}
		}
		x.since += n
		limit = from
	}
	if !full {
		x.since = indexFullEvery // the first record of a new index is full
	}
	x.loaded = true
	return nil
}
