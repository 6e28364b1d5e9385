package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Versions of position and index records (docs/format/position-record.md). Only a record that says MovedTo is of version 2, so that an outrelay
// that knows nothing of it refuses it.
const (
	recordVersion      = 1
	movedRecordVersion = 2
)

// timeFormat is RFC 3339 with microseconds: what databases keep.
const timeFormat = "2006-01-02T15:04:05.999999Z07:00"

// PositionRecord is the value of a record in __outrelay_positions (docs/format/position-record.md).
type PositionRecord struct {
	Position    outrelay.Position
	Place       string
	CommittedAt time.Time
	Events      int64 // since the source's first position
	InTxn       bool  // the position lies inside a source transaction

	// Intent, where it is not empty, is what sources.Source.PrepareInit returned: the source is being initialised and has no position yet. Of
	// the other fields Position.Source alone is set.
	Intent string

	// MovedTo, where it is not empty, is the id of the log into which this one was migrated: nothing may follow here any more.
	MovedTo string
	MovedAt time.Time
}

// Append appends the record's value to b.
func (p PositionRecord) Append(b []byte) []byte {
	return append(p.appendOpen(b), '}')
}

func (p PositionRecord) appendOpen(b []byte) []byte {
	b = append(b, `{"v":`...)
	v := int64(recordVersion)
	if p.MovedTo != "" {
		v = movedRecordVersion
	}
	b = strconv.AppendInt(b, v, 10)
	b = append(b, `,"source":`...)
	b = appendJSONString(b, []byte(p.Position.Source))
	if p.Intent != "" {
		b = append(b, `,"initialising":true,"intent":`...)
		return append(b, p.Intent...)
	}
	b = append(b, `,"place":`...)
	b = appendJSONString(b, []byte(p.Place))
	if !p.CommittedAt.IsZero() {
		b = append(b, `,"committed_at":"`...)
		b = p.CommittedAt.UTC().AppendFormat(b, timeFormat)
		b = append(b, '"')
	}
	b = append(b, `,"events":`...)
	b = strconv.AppendInt(b, p.Events, 10)
	b = append(b, `,"in_txn":`...)
	b = strconv.AppendBool(b, p.InTxn)
	if p.MovedTo != "" {
		b = append(b, `,"moved_to":`...)
		b = appendJSONString(b, []byte(p.MovedTo))
		b = append(b, `,"moved_at":"`...)
		b = p.MovedAt.UTC().AppendFormat(b, timeFormat)
		b = append(b, '"')
	}
	b = append(b, `,"position":`...)
	return append(b, p.Position.Token...) // valid JSON, and kept byte for byte: only its package looks inside
}

type positionJSON struct {
	V            int             `json:"v"`
	Source       string          `json:"source"`
	Initialising bool            `json:"initialising"`
	Intent       json.RawMessage `json:"intent"`
	Place        string          `json:"place"`
	CommittedAt  time.Time       `json:"committed_at"`
	Events       int64           `json:"events"`
	InTxn        bool            `json:"in_txn"`
	MovedTo      string          `json:"moved_to"`
	MovedAt      time.Time       `json:"moved_at"`
	Position     json.RawMessage `json:"position"`
}

func (j positionJSON) record() (PositionRecord, error) {
	if j.V > movedRecordVersion {
		return PositionRecord{}, fmt.Errorf("format version %d, this outrelay reads up to %d: %w: run the newer release", j.V, movedRecordVersion, outrelay.ErrEnvironment)
	}
	if j.V < 1 || j.Source == "" || (len(j.Position) == 0) != j.Initialising || (len(j.Intent) == 0) == j.Initialising {
		return PositionRecord{}, fmt.Errorf("no version, source or position: %w", outrelay.ErrDataHalt)
	}
	if j.Initialising {
		return PositionRecord{Position: outrelay.Position{Source: outrelay.SourceID(j.Source)}, Intent: string(j.Intent)}, nil
	}
	p := PositionRecord{
		Position: outrelay.Position{Source: outrelay.SourceID(j.Source), Token: string(j.Position)},
		Place:    j.Place, CommittedAt: j.CommittedAt, Events: j.Events, InTxn: j.InTxn,
	}
	if j.MovedTo != "" {
		p.MovedTo, p.MovedAt = j.MovedTo, j.MovedAt
	}
	return p, nil
}

// ParsePosition reads the value of a record in __outrelay_positions.
func ParsePosition(value []byte) (PositionRecord, error) {
	var j positionJSON
	if err := json.Unmarshal(value, &j); err != nil {
		return PositionRecord{}, fmt.Errorf("position record: %w: %w", outrelay.ErrDataHalt, err)
	}
	p, err := j.record()
	if err != nil {
		return p, fmt.Errorf("position record: %w", err)
	}
	return p, nil
}

// PositionPartition returns the partition of __outrelay_positions that a source belongs to, for good.
func PositionPartition(s outrelay.SourceID) int32 {
	return kafka.PartitionOf([]byte(s), kafka.PositionsPartitions)
}

// ReadPosition returns the last committed position of a source in a topic of positions (kafka.Options.PositionsTopic); ok is false when it has none, and p.Intent then says whether it is being
// initialised. It waits while an open transaction of
// another source holds readers below the partition's high watermark. It fails with kafka.ErrNoTopic when the log has no positions at all, and with a data
// halt when the source has moved to another log.
func ReadPosition(ctx context.Context, cl *kgo.Client, topic string, s outrelay.SourceID) (p PositionRecord, ok bool, err error) {
	p, ok, err = readPosition(ctx, cl, topic, s)
	if err == nil && p.MovedTo != "" {
		return p, false, p.moved()
	}
	return p, ok, err
}

// moved is the halt of a relay that is started on a log which was migrated.
func (p PositionRecord) moved() error {
	return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "log-migrated", Place: "source " + string(p.Position.Source),
		Cause: fmt.Sprintf("this log was migrated to %s on %s: its events go there", p.MovedTo, p.MovedAt.UTC().Format("2006-01-02 15:04:05Z")),
		Fix: "run with the file whose log: is that one; to go on in this one instead: `outrelay log migrate --abandon` while the migration is not done, " +
			"`outrelay log migrate` from there to a new log afterwards"}
}

func readPosition(ctx context.Context, cl *kgo.Client, topic string, s outrelay.SourceID) (p PositionRecord, ok bool, err error) {
	part := PositionPartition(s)
	rec, err := kafka.LastOfKey(ctx, cl, topic, part, string(s))
	if err == nil && rec == nil {
		return PositionRecord{}, false, nil
	}
	if err != nil {
		return PositionRecord{}, false, err
	}
	p, err = ParsePosition(rec.Value)
	if err != nil {
		return p, false, fmt.Errorf("%s/%d offset %d: %w", topic, part, rec.Offset, err)
	}
	return p, p.Intent == "", nil
}

// ReadPositions returns the last committed position of every source that has one, also of those that have moved to another log. It waits while an open
// transaction holds readers below the end of a partition.
func ReadPositions(ctx context.Context, cl *kgo.Client, topic string) (map[outrelay.SourceID]PositionRecord, error) {
	return readPositions(ctx, cl, topic, kafka.HighWatermarks)
}

// ReadStablePositions is ReadPositions that waits for nobody: a position behind the beginning of an open transaction, be it another source's, is not seen.
func ReadStablePositions(ctx context.Context, cl *kgo.Client, topic string) (map[outrelay.SourceID]PositionRecord, error) {
	return readPositions(ctx, cl, topic, kafka.StableOffsets)
}

func readPositions(ctx context.Context, cl *kgo.Client, topic string, ends func(context.Context, *kgo.Client, string) (map[int32]int64, error)) (map[outrelay.SourceID]PositionRecord, error) {
	out := map[outrelay.SourceID]PositionRecord{}
	limits, err := ends(ctx, cl, topic)
	if errors.Is(err, kafka.ErrNoTopic) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for part, limit := range limits {
		last := map[string]*kgo.Record{}
		err := kafka.ReadCommitted(ctx, cl, topic, part, 0, limit, func(r *kgo.Record) error {
			last[string(r.Key)] = r
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, rec := range last {
			if rec.Value == nil {
				continue // the source was removed
			}
			p, err := ParsePosition(rec.Value)
			if err != nil {
				return nil, fmt.Errorf("%s/%d offset %d: %w", topic, part, rec.Offset, err)
			}
			if p.Intent == "" {
				out[p.Position.Source] = p
			}
		}
	}
	return out, nil
}

// positionsConfigs keep the topic small, so that a start reads little: the log keeps the last position of each source.
func positionsConfigs() map[string]string {
	return map[string]string{"cleanup.policy": "compact", "segment.bytes": "4194304", "min.cleanable.dirty.ratio": "0.1"}
}

func indexConfigs() map[string]string {
	return map[string]string{"cleanup.policy": "delete", "retention.ms": "2592000000"}
}
