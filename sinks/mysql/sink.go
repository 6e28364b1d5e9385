// Package mysql is the sink that applies records to a MySQL or MariaDB database by SQL and keeps the group's offsets there, both in one
// transaction. It never reads the log and never decides what to do about a failure: errors carry a class, the consumer decides.
//
// A transaction is one text and one round trip: the handlers' statements of each record with their values as literals, the statement that moves the
// offset, once for each batch in it, COMMIT (see batchText). A server stops at the first statement that it refuses, and a move is followed by a statement
// that is refused when the move has matched no row: there is no order of events in which the COMMIT runs and an offset has not moved. Where the text
// is longer than max_allowed_packet it goes in several packets, with the COMMIT in the last.
//
// Values become literals in appendText and nowhere else, in a form that no sql_mode and no character set of the session reads otherwise. Every statement was
// prepared by the server with a placeholder in each value's place when the sink was opened.
//
// Sessions are set up alike whatever the server's defaults are: utf8mb4, UTC, READ COMMITTED, MySQL's strict sql_mode. Only InnoDB and what else keeps
// transactions is written to; MyISAM would keep the effects of a transaction that was rolled back.
//
// Limitations: a trigger that writes to a table without transactions is not found out; a proxy in front must pass multi-statements on, and keep a session
// for a transaction; MySQL's duplicates of a key name the row's values in the error's text.
package mysql

import (
	"context"
	"fmt"
	"strconv"
	"time"

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
	table    string // quoted name of outrelay_offsets
	pool     *sqlsink.Pool[*conn]
	connects prometheus.Counter
}

// Open connects, creates or upgrades the tables of outrelay, and has the server check every statement of every handler. Errors: outrelay.ErrConfig (all
// refused statements at once, each with its place and the server's words), outrelay.ErrEnvironment (a replica, a missing privilege,
// a wrong password, a table without transactions), outrelay.ErrTransient (the server cannot be reached now).
func Open(ctx context.Context, o Options) (*Sink, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	hs, err := handler.Compile(handler.MySQL, o.Handlers)
	if err != nil {
		return nil, err
	}
	s := &Sink{o: o, handlers: hs}
	s.pool = sqlsink.NewPool(o.ConnsMax, s.open)
	if s.connects, err = sqlsink.Connects("mysql", o.Registerer); err != nil {
		return nil, err
	}
	c, database, err := s.dial(ctx)
	if err != nil {
		return nil, openError(err)
	}
	if err := s.prepare(ctx, c, database); err != nil {
		c.Close()
		return nil, openError(err)
	}
	s.pool.Put(c)
	return s, nil
}

// prepare sees that the database is fit for the sink.
func (s *Sink) prepare(ctx context.Context, c *conn, database string) error {
	schema := s.o.Schema
	if schema == "" {
		schema = database
	}
	s.table = identifier(schema) + ".outrelay_offsets"
	if err := ensureSchema(ctx, c, schema); err != nil {
		return err
	}
	if err := s.checkHandlers(ctx, c); err != nil {
		return err
	}
	return s.checkEngines(ctx, c, database)
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
		if err := c.fresh(ctx); err != nil {
			return err
		}
		rows, err := c.query(ctx, "select log_id, topic_id, topic, `partition`, epoch, owner, next_offset, cast(unix_timestamp(updated_at) * 1000000 as signed) from "+s.table+
			" where group_id = "+quote(group)+" order by topic, `partition`, updated_at")
		if err != nil {
			return err
		}
		out = out[:0]
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
	return out, classified("offsets of group "+group, err)
}

// Reset implements sinks.OffsetStore. It waits for a transaction of the owner that is under way.
func (s *Sink) Reset(ctx context.Context, group string, p sinks.Partition, next int64) error {
	sql := "delete from " + s.table + where(group, p)
	if next >= 0 {
		sql = s.insertSQL(group, p, "reset by "+s.o.Owner, next) +
			" on duplicate key update epoch = epoch + 1, owner = values(owner), next_offset = values(next_offset), done_set = null, updated_at = values(updated_at)"
	}
	err := s.pool.With(ctx, func(c *conn) error {
		if err := c.fresh(ctx); err != nil {
			return err
		}
		return c.exec(ctx, []byte(sql))
	})
	return classified(fmt.Sprintf("reset of group %s at %s/%d", group, p.Topic, p.Partition), err)
}

// where finds a partition's row.
func where(group string, p sinks.Partition) string {
	return " where log_id = " + quote(p.LogID) + " and group_id = " + quote(group) + " and topic_id = " + quote(sqlsink.FormatUUID(p.TopicID)) + " and `partition` = " + strconv.Itoa(int(p.Partition))
}

const ownerMax = 255 // characters of the column

func clipOwner(owner string) string {
	if runes := []rune(owner); len(runes) > ownerMax {
		return string(runes[:ownerMax])
	}
	return owner
}

// insertSQL makes a partition's row, of epoch 1.
func (s *Sink) insertSQL(group string, p sinks.Partition, owner string, next int64) string {
	return "insert into " + s.table + " (log_id, group_id, topic_id, `partition`, topic, epoch, owner, next_offset, updated_at) values (" +
		quote(p.LogID) + ", " + quote(group) + ", " + quote(sqlsink.FormatUUID(p.TopicID)) + ", " + strconv.Itoa(int(p.Partition)) + ", " + quote(p.Topic) + ", 1, " +
		quote(clipOwner(owner)) + ", " + num(next) + ", utc_timestamp(6))"
}

var _ sinks.MultiApplier = (*Sink)(nil)
