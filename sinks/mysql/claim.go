package mysql

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// claimAttempts bounds how often a claim that was a deadlock's victim is made anew: it is a transaction of its own and holds nothing.
const claimAttempts = 5

// Claim implements sinks.OffsetStore.
func (s *Sink) Claim(ctx context.Context, group string, p sinks.Partition) (sinks.Claim, error) {
	claim := sinks.Claim{Group: group, Partition: p}
	what := fmt.Sprintf("claim of %s/%d for group %s", p.Topic, p.Partition, group)
	var err error
	for range claimAttempts {
		err = s.pool.With(ctx, func(c *conn) error { return s.claimOnce(ctx, c, &claim) })
		var e *mysql.MySQLError
		if !errors.As(err, &e) || e.Number != errorDeadlock {
			break
		}
	}
	return claim, classified(what, err)
}

// claimOnce takes the partition's row, or makes it, unless a row of another log or topic id stands under the same group and topic name (S2). The
// statement that does so takes the row's lock, and so waits for an older owner's open transaction: what is read after it is final. When the connection is lost the
// claim may have been made; then the next one makes the epoch grow once more, which harms nobody.
func (s *Sink) claimOnce(ctx context.Context, c *conn, claim *sinks.Claim) error {
	if err := c.fresh(ctx); err != nil {
		return err
	}
	group, p := claim.Group, claim.Partition
	foreign := " where group_id = " + quote(group) + " and topic = " + quote(p.Topic) + " and (log_id <> " + quote(p.LogID) + " or topic_id <> " + quote(sqlsink.FormatUUID(p.TopicID)) + ")"
	rows, err := c.query(ctx, "start transaction read write;"+
		"select 'foreign', next_offset, log_id, topic_id, `partition` from "+s.table+foreign+" order by `partition` = "+strconv.Itoa(int(p.Partition))+" desc, updated_at desc limit 1")
	if err == nil && len(rows) > 0 {
		r := rows[0]
		err = sqlsink.ForeignRow{Next: string(r[1]), LogID: string(r[2]), TopicID: string(r[3]), Partition: string(r[4])}.Halt(group, p)
	}
	if err == nil {
		rows, err = c.query(ctx, s.insertSQL(group, p, s.o.Owner, -1)+
			" on duplicate key update epoch = epoch + 1, owner = values(owner), topic = values(topic), updated_at = values(updated_at);"+
			"select epoch, next_offset from "+s.table+where(group, p)+";commit")
	}
	if err != nil {
		c.rollback()
		return err
	}
	if len(rows) != 1 {
		return fmt.Errorf("%d rows instead of 1", len(rows))
	}
	return sqlsink.ScanInts(rows[0], map[int]*int64{0: &claim.Epoch, 1: &claim.Next})
}
