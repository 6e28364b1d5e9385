// Package postgres is the sink that applies records to a PostgreSQL database by SQL and keeps the group's offsets there, both in one
// transaction. It never reads the log and never decides what to do about a failure: errors carry a class, the consumer decides.
//
// A transaction is one pipeline and one round trip: BEGIN, the handlers' statements of each record, the statement that moves the offset, once for
// each batch in it, COMMIT, Sync. A move raises an error when its claim no longer holds (see moveSQL), and after an error the server skips
// what follows up to the Sync: there is no order of events in which the COMMIT runs and an offset has not moved.
//
// Limitations: a pooler in front must keep prepared statements (PgBouncer 1.21 and later, max_prepared_statements > 0), since handlers
// are prepared once per session; a batch's values are held in memory twice while it is sent.
package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// Sink is an open sink. It implements sinks.MultiApplier with sinks.Transactional. Methods may be called concurrently, Apply and ApplyAll
// not for the same partition.
type Sink struct {
	o        Options
	handlers *handler.Set
	schema   string
	table    string // quoted name of outrelay_offsets
	pool     *sqlsink.Pool[*conn]
	connects prometheus.Counter
}

// Open connects, creates or upgrades the tables of outrelay, and prepares every statement of every handler. Errors: outrelay.ErrConfig (all
// refused statements at once, each with its place and the server's words), outrelay.ErrEnvironment (a standby, a missing privilege,
// a wrong password), outrelay.ErrTransient (the server cannot be reached now).
func Open(ctx context.Context, o Options) (*Sink, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	hs, err := handler.Compile(handler.PostgreSQL, o.Handlers)
	if err != nil {
		return nil, err
	}
	s := &Sink{o: o, handlers: hs}
	s.pool = sqlsink.NewPool(o.ConnsMax, s.open)
	if s.connects, err = sqlsink.Connects("postgres", o.Registerer); err != nil {
		return nil, err
	}
	pg, schema, err := s.dialRaw(ctx)
	if err != nil {
		return nil, openError(err)
	}
	s.schema, s.table = schema, pgx.Identifier{schema, "outrelay_offsets"}.Sanitize()
	if err := ensureSchema(ctx, pg, schema); err != nil {
		closeConn(pg)
		return nil, openError(err)
	}
	c, err := s.prepare(ctx, pg)
	if err != nil {
		closeConn(pg)
		return nil, openError(err)
	}
	s.pool.Put(c)
	return s, nil
}

// Guarantee implements sinks.Sink.
func (s *Sink) Guarantee() sinks.Guarantee { return sinks.Transactional }

// Close closes the idle connections, and those in use when they are given back. A second call is harmless.
func (s *Sink) Close() error {
	s.pool.Close()
	return nil
}

// Offsets implements sinks.OffsetStore: all rows of the group, those of other logs and topic ids included.
func (s *Sink) Offsets(ctx context.Context, group string) ([]sinks.OffsetRow, error) {
	var out []sinks.OffsetRow
	err := s.pool.With(ctx, func(c *conn) error {
		rows, err := query(ctx, c.pg, `select log_id, topic_id, topic, partition, epoch, owner, next_offset,
	(extract(epoch from updated_at) * 1000000)::bigint from `+s.table+` where group_id = $1 order by topic, partition, updated_at`, group)
		if err != nil {
			return err
		}
		for _, r := range rows {
			row := sinks.OffsetRow{Group: group, Owner: string(r[5])}
			var micros, partition int64
			if err := sqlsink.ScanInts(r, map[int]*int64{3: &partition, 4: &row.Epoch, 6: &row.Next, 7: &micros}); err != nil {
				return err
			}
			row.Partition = sinks.Partition{LogID: string(r[0]), Topic: string(r[2]), Partition: int32(partition)}
			if row.Partition.TopicID, err = sqlsink.ParseUUID(string(r[1])); err != nil {
				return err
			}
			row.UpdatedAt = time.UnixMicro(micros)
			out = append(out, row)
		}
		return nil
	})
	return out, classifiedOrNil("offsets of group "+group, err)
}

// Reset implements sinks.OffsetStore. It waits for a transaction of the owner that is under way.
func (s *Sink) Reset(ctx context.Context, group string, p sinks.Partition, next int64) error {
	key := []string{p.LogID, group, sqlsink.FormatUUID(p.TopicID), strconv.Itoa(int(p.Partition))}
	err := s.pool.With(ctx, func(c *conn) error {
		if next < 0 {
			_, err := query(ctx, c.pg, "delete from "+s.table+" where log_id = $1 and group_id = $2 and topic_id = $3 and partition = $4", key...)
			return err
		}
		_, err := query(ctx, c.pg, `insert into `+s.table+` as o (log_id, group_id, topic_id, partition, topic, epoch, owner, next_offset)
	values ($1, $2, $3, $4, $5, 1, $6, $7)
	on conflict (log_id, group_id, topic_id, partition) do update
	set epoch = o.epoch + 1, owner = excluded.owner, next_offset = excluded.next_offset, done_set = null, updated_at = now()`,
			append(key, p.Topic, "reset by "+s.o.Owner, strconv.FormatInt(next, 10))...)
		return err
	})
	return classifiedOrNil(fmt.Sprintf("reset of group %s at %s/%d", group, p.Topic, p.Partition), err)
}

func classifiedOrNil(what string, err error) error {
	if err == nil || sqlsink.IsClassified(err) {
		return err
	}
	return classified(what, err)
}

var _ sinks.MultiApplier = (*Sink)(nil)
