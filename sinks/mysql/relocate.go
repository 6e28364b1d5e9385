package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// Relocate implements sinks.Relocator. Each row's update is followed by a statement that is refused unless one row was as expected (see raiseUnlessMoved), so
// that the COMMIT behind them is run when all were.
func (s *Sink) Relocate(ctx context.Context, group string, rs []sinks.Relocation) error {
	if len(rs) == 0 {
		return nil
	}
	what := fmt.Sprintf("move of %d offsets of group %s to another log", len(rs), group)
	err := s.pool.With(ctx, func(c *conn) error {
		if err := c.fresh(ctx); err != nil {
			return err
		}
		c.text.begin()
		for i, r := range rs {
			c.text.add(fmt.Sprintf("update %s set log_id = %s, topic_id = %s, next_offset = %d, epoch = epoch + 1, owner = %s, done_set = null, updated_at = utc_timestamp(6)%s and next_offset = %d\n;%s",
				s.table, quote(r.To.LogID), quote(sqlsink.FormatUUID(r.To.TopicID)), r.NextThen, quote(clipOwner("moved by "+s.o.Owner)), where(group, r.From), r.Next, raiseUnlessMoved(i+1)))
		}
		c.text.commit()
		for _, packet := range c.text.packets[:c.text.used] {
			if err := c.exec(ctx, packet); err != nil {
				c.rollback()
				return err
			}
		}
		return nil
	})
	var e *mysql.MySQLError
	if errors.As(err, &e) && (e.Number == errorNotMoved || e.Number == errorDuplicate) {
		return sqlsink.Conflict(what+": a row is not as it was read, or its place is taken; nothing was moved", serverText(e))
	}
	return classified(what, err)
}

var _ sinks.Relocator = (*Sink)(nil)
