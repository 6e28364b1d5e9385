package relay

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Headers of records in <source>.dlq, beside those of every record (docs/event-router.md).
const (
	HeaderDLQReason  = "outrelay.dlq.reason"        // the code of the error
	HeaderDLQCause   = "outrelay.dlq.cause"         // its text
	HeaderDLQTable   = "outrelay.dlq.table"         // the outbox table
	HeaderDLQTopic   = "outrelay.dlq.topic"         // where it was meant to go, if that is known
	HeaderDLQPayload = "outrelay.dlq.payload_bytes" // size of a payload that was left out, being over the record limit
)

// DeadLetterTopic returns the topic for rows of a source that cannot be routed.
func DeadLetterTopic(s outrelay.SourceID) string { return string(s) + ".dlq" }

// deadLetter adds the row to g as a record of the dead letter topic, so that it stands there exactly when the position has passed it.
func (s *session) deadLetter(ctx context.Context, g *gather, t *outrelay.Txn, ev *outrelay.Event, table *tablePlan, bad *unroutable) error {
	topic := DeadLetterTopic(s.o.Source)
	if _, ok := s.router.topics[topic]; !ok {
		dlq := &tablePlan{Table: Table{Partitions: 1, Configs: map[string]string{"retention.ms": "-1"}}}
		if _, err := s.router.meet(ctx, dlq, topic); err != nil {
			return err
		}
		if e := s.router.topics[topic]; e.bad != nil {
			return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: e.bad.code, Place: "source " + string(s.o.Source), Cause: e.bad.cause, Fix: e.bad.fix}
		}
	}
	rec := kgo.Record{Topic: topic, Partition: kafka.AnyPartition}
	get := func(column string) []byte {
		v, _ := ev.Get(column)
		return v
	}
	room := s.o.RecordBytesMax - 4096 // for the headers, each of which is bounded
	header := func(key string, v []byte) {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: key, Value: v})
	}
	if id := get(table.Columns.ID); len(id) <= 1024 {
		header(kafka.HeaderID, id)
	}
	if typ := get(table.Columns.Type); len(typ) <= 512 {
		header(kafka.HeaderType, typ)
	}
	header(kafka.HeaderSource, []byte(s.o.Source))
	header(kafka.HeaderPlace, []byte(t.Place))
	header(kafka.HeaderOrdinal, strconv.AppendInt(nil, int64(ev.Ordinal), 10))
	header(kafka.HeaderCommittedAt, t.CommittedAt.UTC().AppendFormat(nil, timeFormat))
	header(HeaderDLQReason, []byte(bad.code))
	header(HeaderDLQCause, []byte(bad.cause)[:min(len(bad.cause), 1024)])
	header(HeaderDLQTable, []byte(ev.Schema.Table))
	if bad.topic != "" {
		header(HeaderDLQTopic, []byte(bad.topic)[:min(len(bad.topic), 512)])
	}
	if key := get(table.Columns.Key); len(key) <= room/2 {
		rec.Key = key
		room -= len(key)
	}
	if v := get(table.Columns.Payload); len(v) <= room {
		rec.Value = v
	} else {
		header(HeaderDLQPayload, strconv.AppendInt(nil, int64(len(v)), 10))
	}
	g.recs = append(g.recs, rec)
	g.bytes += recordBytes(&rec)
	g.dead++
	s.o.Logger.Warn("row cannot be routed; it goes to the dead letter topic", "source", s.o.Source, "table", ev.Schema.Table, "place", t.Place,
		"id", fmt.Sprintf("%.64s", get(table.Columns.ID)), "cause", bad.cause, "topic", topic)
	return nil
}
