package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// claimSQL takes a partition's row, or makes it, unless a row of another log or topic id stands under the same group and topic name.
// It is one statement (S2), so a claim is made or not made; the row lock makes it wait for an older owner's open transaction, so what it
// returns is final.
const claimSQL = `with other as (
	select log_id, topic_id::text as topic_id, partition, next_offset from %[1]s
	where group_id = $2 and topic = $5 and (log_id <> $1 or topic_id <> $3::uuid)
	order by (partition = $4::int) desc, updated_at desc limit 1),
claimed as (
	insert into %[1]s as o (log_id, group_id, topic_id, partition, topic, epoch, owner, next_offset)
	select $1, $2, $3::uuid, $4::int, $5, 1, $6, -1 where not exists (select from other)
	on conflict (log_id, group_id, topic_id, partition) do update
	set epoch = o.epoch + 1, owner = excluded.owner, topic = excluded.topic, updated_at = now()
	returning epoch, next_offset)
select epoch, next_offset, null, null, null from claimed
union all
select null, next_offset, log_id, topic_id, partition from other`

// Claim implements sinks.OffsetStore.
func (s *Sink) Claim(ctx context.Context, group string, p sinks.Partition) (sinks.Claim, error) {
	claim := sinks.Claim{Group: group, Partition: p}
	what := fmt.Sprintf("claim of %s/%d for group %s", p.Topic, p.Partition, group)
	err := s.pool.With(ctx, func(c *conn) error {
		stop := s.watchStuckOwner(ctx, c.pg.PID(), what)
		defer stop()
		rows, err := query(ctx, c.pg, fmt.Sprintf(claimSQL, s.table), p.LogID, group, sqlsink.FormatUUID(p.TopicID), strconv.Itoa(int(p.Partition)), p.Topic, s.o.Owner)
		if err != nil {
			return err
		}
		if len(rows) != 1 {
			return fmt.Errorf("%d rows instead of 1", len(rows))
		}
		if r := rows[0]; r[0] == nil {
			return sqlsink.ForeignRow{Next: string(r[1]), LogID: string(r[2]), TopicID: string(r[3]), Partition: string(r[4])}.Halt(group, p)
		}
		return sqlsink.ScanInts(rows[0], map[int]*int64{0: &claim.Epoch, 1: &claim.Next})
	})
	return claim, classifiedOrNil(what, err)
}

// watchStuckOwner terminates what keeps the claim on backend pid waiting for too long, if it is a session of outrelay in a transaction as
// old as that: its process is stopped or cut off, and would otherwise hold the row for ever.
func (s *Sink) watchStuckOwner(ctx context.Context, pid uint32, what string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			t := s.o.Clock.NewTimer(s.o.StuckOwnerAfter)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C():
			}
			n, err := s.terminateStuckOwner(ctx, pid)
			if ctx.Err() == nil && (n > 0 || err != nil) {
				s.o.Logger.Warn("claim kept waiting by an older owner's transaction", "claim", what, "terminated", n, "err", err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (s *Sink) terminateStuckOwner(ctx context.Context, pid uint32) (n int, err error) {
	pg, _, err := s.dialRaw(ctx)
	if err != nil {
		return 0, err
	}
	defer closeConn(pg)
	rows, err := query(ctx, pg, `select pg_terminate_backend(pid) from pg_stat_activity
	where pid = any(pg_blocking_pids($1::int)) and usename = current_user and application_name like 'outrelay%'
	and xact_start < clock_timestamp() - $2::bigint * interval '1 millisecond'`, strconv.FormatUint(uint64(pid), 10), ms(s.o.StuckOwnerAfter-time.Millisecond))
	return len(rows), err
}
