package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Table yields the rows of a PostgreSQL table, streaming. Columns are quoted as identifiers; key and seq may be empty; orderBy sorts the rows, which
// matters for what was applied.
type Table struct {
	ConnString                  func(ctx context.Context) (string, error)
	Name                        pgx.Identifier
	ID, Key, Seq, OrderBy, From string
}

// Scan returns the table as a Scan. Each call connects anew and reads one snapshot.
func (t Table) Scan() Scan {
	return func(ctx context.Context, fn func(Event) error) error {
		dsn, err := t.ConnString(ctx)
		if err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		rows, err := conn.Query(ctx, t.sql())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			if err := rows.Scan(&e.ID, &e.Key, &e.Seq, &e.From); err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

func (t Table) sql() string {
	text := func(col string) string {
		if col == "" {
			return "''"
		}
		return "coalesce(" + pgx.Identifier{col}.Sanitize() + "::text, '')"
	}
	seq := "0::bigint"
	if t.Seq != "" {
		seq = "coalesce(" + pgx.Identifier{t.Seq}.Sanitize() + ", 0)::bigint"
	}
	from := "'a row of ' || " + quoteLiteral(t.Name.Sanitize())
	if t.From != "" {
		from = text(t.From)
	}
	q := fmt.Sprintf("select %s, %s, %s, %s from %s", text(t.ID), text(t.Key), seq, from, t.Name.Sanitize())
	if t.OrderBy != "" {
		q += " order by " + pgx.Identifier{t.OrderBy}.Sanitize()
	}
	return q
}

func quoteLiteral(s string) string {
	out := []byte{'\''}
	for i := range len(s) {
		if s[i] == '\'' {
			out = append(out, '\'')
		}
		out = append(out, s[i])
	}
	return string(append(out, '\''))
}

// Log returns the committed records of topics as a Scan: each partition from its start to the last stable offset it has when its turn comes.
// source, when not empty, leaves out records whose header names another source.
func Log(o kafka.Options, topics []string, source string) Scan {
	return LogBelow(o, topics, source, nil)
}

// LogBelow is Log, with each partition read below its limit only; a partition without one is not read. nil limits: to the last stable offset.
func LogBelow(o kafka.Options, topics []string, source string, limits map[outrelay.TopicPartition]int64) Scan {
	return func(ctx context.Context, fn func(Event) error) error {
		cl, err := kafka.NewClient(o)
		if err != nil {
			return err
		}
		defer cl.Close()
		for _, topic := range topics {
			starts, err := kafka.StartOffsets(ctx, cl, topic)
			if err != nil {
				return err
			}
			ends, err := kafka.StableOffsets(ctx, cl, topic)
			if err != nil {
				return err
			}
			for p := range int32(len(ends)) {
				if limits != nil {
					ends[p] = min(ends[p], limits[outrelay.TopicPartition{Topic: topic, Partition: p}])
				}
				err := kafka.ReadCommitted(ctx, cl, topic, p, starts[p], ends[p], func(r *kgo.Record) error {
					e, ours := eventOf(r, source)
					if !ours {
						return nil
					}
					return fn(e)
				})
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func eventOf(r *kgo.Record, source string) (e Event, ours bool) {
	e = Event{Key: string(r.Key), From: fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)}
	for _, h := range r.Headers {
		switch h.Key {
		case kafka.HeaderID:
			e.ID = string(h.Value)
		case kafka.HeaderSource:
			if source != "" && string(h.Value) != source {
				return e, false
			}
		}
	}
	return e, true
}
