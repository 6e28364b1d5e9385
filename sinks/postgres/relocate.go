package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// relocateSQL moves all rows or none: it is one statement, and where the number of rows that were as expected is another, the division raises. The
// predicate is evaluated again after a wait for a row's lock, as with a move of the offset (docs/format/offsets-tables.md).
const relocateSQL = `with wanted as (
	select * from jsonb_to_recordset($3::text::jsonb) as w(from_log text, from_topic uuid, partition integer, next bigint, to_log text, to_topic uuid, next_then bigint)),
moved as (
	update %s as o set log_id = w.to_log, topic_id = w.to_topic, next_offset = w.next_then, epoch = o.epoch + 1, owner = $2, done_set = null, updated_at = now()
	from wanted w
	where o.group_id = $1 and o.log_id = w.from_log and o.topic_id = w.from_topic and o.partition = w.partition and o.next_offset = w.next
	returning 1)
select 1 / (case when count(*) = $4::int then 1 else 0 end) from moved`

type wantedRow struct {
	FromLog   string `json:"from_log"`
	FromTopic string `json:"from_topic"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"`
	ToLog     string `json:"to_log"`
	ToTopic   string `json:"to_topic"`
	NextThen  int64  `json:"next_then"`
}

// Relocate implements sinks.Relocator.
func (s *Sink) Relocate(ctx context.Context, group string, rs []sinks.Relocation) error {
	if len(rs) == 0 {
		return nil
	}
	what := fmt.Sprintf("move of %d offsets of group %s to another log", len(rs), group)
	wanted := make([]wantedRow, len(rs))
	for i, r := range rs {
		wanted[i] = wantedRow{FromLog: r.From.LogID, FromTopic: sqlsink.FormatUUID(r.From.TopicID), Partition: r.From.Partition, Next: r.Next,
			ToLog: r.To.LogID, ToTopic: sqlsink.FormatUUID(r.To.TopicID), NextThen: r.NextThen}
	}
	list, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err = s.pool.With(ctx, func(c *conn) error {
		_, err := query(ctx, c.pg, fmt.Sprintf(relocateSQL, s.table), group, "moved by "+s.o.Owner, string(list), strconv.Itoa(len(rs)))
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "22012" || pgErr.Code == "23505") { // division_by_zero, unique_violation
		return sqlsink.Conflict(what+": a row is not as it was read, or its place is taken; nothing was moved", pgText(pgErr))
	}
	return classifiedOrNil(what, err)
}

var _ sinks.Relocator = (*Sink)(nil)
