package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// slotWait is how long Open waits for a slot whose holder may just be leaving; takeoverWait, for one that Open has ended.
const (
	slotWait     = time.Second
	takeoverWait = 5 * time.Second
	slotPoll     = 20 * time.Millisecond
)

// slot is a row of pg_replication_slots, of whatever server version: columns that a version lacks stay zero.
type slot struct {
	Plugin             string `json:"plugin"`
	SlotType           string `json:"slot_type"`
	Database           string `json:"database"`
	Temporary          bool   `json:"temporary"`
	Active             bool   `json:"active"`
	ActivePID          int    `json:"active_pid"`
	RestartLSN         string `json:"restart_lsn"`
	ConfirmedFlushLSN  string `json:"confirmed_flush_lsn"`
	WALStatus          string `json:"wal_status"`
	Conflicting        bool   `json:"conflicting"`         // 16+
	InvalidationReason string `json:"invalidation_reason"` // 17+
	Failover           bool   `json:"failover"`            // 17+
}

func (s *Source) readSlot(ctx context.Context, pg *pgconn.PgConn) (*slot, error) {
	rows, err := queryRows(ctx, pg, "SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE slot_name = "+quoteLiteral(s.o.Slot))
	if err != nil {
		return nil, s.classify("pg_replication_slots", err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	var sl slot
	if err := json.Unmarshal([]byte(rows[0][0]), &sl); err != nil {
		return nil, fmt.Errorf("%s: pg_replication_slots: %w", s.place(), err)
	}
	return &sl, nil
}

// checkIdentity refuses a server on which the position means something else, or lies beyond the end of the log: asked to start
// there PostgreSQL would accept, and skip in silence what is written up to it.
func (s *Source) checkIdentity(ctx context.Context, pg *pgconn.PgConn, srv server, at Place) error {
	if srv.system != at.System {
		return s.lost("other-server", fmt.Sprintf("the server is not the one the position was made on: system identifier %s, was %s (restored by dump, upgraded, or another server)",
			srv.system, at.System), at, srv.walEnd, nil)
	}
	if srv.timeline < at.Timeline {
		return s.fail(outrelay.ErrPositionLost, "old-primary", fmt.Sprintf("the server is on timeline %d, the position %s on %d: an old primary came back, or a backup was restored",
			srv.timeline, at, at.Timeline), "connect to the server that was promoted; or "+s.waysOut(), nil)
	}
	if srv.timeline > at.Timeline {
		if err := s.checkTimeline(ctx, pg, srv, at); err != nil {
			return err
		}
	}
	if at.LSN > srv.walEnd {
		return s.fail(outrelay.ErrPositionLost, "server-behind", fmt.Sprintf("the server's log ends at %s, before our position %s: it was restored from a backup or lost its last transactions; "+
			"what was published of (%s, %s] is not there any more, and what commits until the log has passed %s again would be skipped", srv.walEnd, at, srv.walEnd, at, at), s.waysOut(), nil)
	}
	return nil
}

// checkTimeline accepts a later timeline when it branched off at or after the position.
func (s *Source) checkTimeline(ctx context.Context, pg *pgconn.PgConn, srv server, at Place) error {
	h, err := pglogrepl.TimelineHistory(ctx, pg, srv.timeline)
	if err != nil {
		return s.classify("TIMELINE_HISTORY", err)
	}
	left, ok := switchPoint(string(h.Content), at.Timeline)
	if !ok {
		return s.lost("other-timeline", fmt.Sprintf("the server's timeline %d does not come from the position's %d", srv.timeline, at.Timeline), at, srv.walEnd, nil)
	}
	if at.LSN > left || at.Commit > left {
		return s.fail(outrelay.ErrPositionLost, "published-beyond-failover", fmt.Sprintf("timeline %d left timeline %d at %s, before our position %s: transactions in (%s, %s] were published and are lost in the database",
			srv.timeline, at.Timeline, left, at, left, at), s.waysOut()+"; for the future set synchronized_standby_slots (PostgreSQL 17 and newer)", nil)
	}
	s.log.Warn("the server is on a later timeline: a failover or a restore", "was", at.Timeline, "is", srv.timeline, "left_at", left.String(), "position", at.String())
	return nil
}

// switchPoint finds where a timeline history says that timeline tli ended.
func switchPoint(history string, tli int32) (LSN, bool) {
	for line := range strings.Lines(history) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if n, err := strconv.ParseInt(f[0], 10, 32); err != nil || int32(n) != tli {
			continue
		}
		lsn, err := pgoutput.ParseLSN(f[1])
		return lsn, err == nil
	}
	return 0, false
}

// checkSlot refuses a slot that does not hold everything after the position, and waits a moment for one that is in use.
func (s *Source) checkSlot(ctx context.Context, pg *pgconn.PgConn, srv server, at Place) error {
	sl, err := s.freeSlot(ctx, pg)
	if err != nil {
		return err
	}
	name := "replication slot " + s.o.Slot
	if sl == nil {
		return s.lost("slot-missing", name+" does not exist: dropped, or a failover to a server without it", at, srv.walEnd, nil)
	}
	if sl.SlotType != "logical" || sl.Plugin != "pgoutput" || sl.Database != srv.database {
		return s.fail(outrelay.ErrEnvironment, "slot-unfit", fmt.Sprintf("%s is %s, plugin %q, database %q; needed is a logical one of pgoutput in %q", name, sl.SlotType, sl.Plugin, sl.Database, srv.database),
			"choose another `slot`, or correct the database in the connection string", nil)
	}
	if sl.WALStatus == "lost" || sl.InvalidationReason != "" || sl.Conflicting || sl.RestartLSN == "" {
		reason := sl.InvalidationReason
		if reason == "" {
			reason = "wal_status " + sl.WALStatus
		}
		return s.lost("slot-invalidated", fmt.Sprintf("%s was invalidated by the server (%s; see max_slot_wal_keep_size and idle_replication_slot_timeout)", name, reason), at, srv.walEnd, nil)
	}
	confirmed, err := pgoutput.ParseLSN(sl.ConfirmedFlushLSN)
	if err != nil {
		return s.fail(outrelay.ErrTransient, "slot-unfit", name+" has no confirmed position yet: it is still being created", "", nil)
	}
	if confirmed > at.LSN {
		// Asked for less, PostgreSQL silently starts at the confirmed place.
		return s.lost("slot-ahead", fmt.Sprintf("%s was confirmed up to %s, beyond our position: dropped and created again, or used by somebody else", name, confirmed), at, confirmed, nil)
	}
	return nil
}

// freeSlot returns the slot once nobody holds it. A holder that bears our own owner's name is a relay that the caller has fenced: its
// connection is ended.
func (s *Source) freeSlot(ctx context.Context, pg *pgconn.PgConn) (*slot, error) {
	ended := 0
	for deadline := s.clock.Now().Add(slotWait); ; {
		sl, err := s.readSlot(ctx, pg)
		if err != nil || sl == nil || !sl.Active {
			return sl, err
		}
		holder, err := queryRows(ctx, pg, fmt.Sprintf(`SELECT application_name, coalesce(client_addr::text, 'local'), backend_start FROM pg_stat_activity WHERE pid = %d`, sl.ActivePID))
		if err != nil {
			return nil, s.classify("pg_stat_activity", err)
		}
		if len(holder) == 1 && s.o.Owner() != "" && holder[0][0] == s.applicationName() && ended != sl.ActivePID {
			s.log.Warn("ending the connection of a fenced relay", "slot", s.o.Slot, "pid", sl.ActivePID, "address", holder[0][1])
			if _, err := queryRow(ctx, pg, fmt.Sprintf("SELECT pg_terminate_backend(%d)", sl.ActivePID)); err != nil {
				return nil, s.classify("pg_terminate_backend", err)
			}
			ended = sl.ActivePID
			deadline = s.clock.Now().Add(takeoverWait)
		}
		if !s.clock.Now().Before(deadline) {
			who := fmt.Sprintf("pid %d", sl.ActivePID)
			if len(holder) == 1 {
				who += fmt.Sprintf(" (%q) from %s since %s", holder[0][0], holder[0][1], holder[0][2])
			}
			return nil, s.fail(outrelay.ErrTransient, "slot-active", fmt.Sprintf("replication slot %s is held by %s: another relay?", s.o.Slot, who),
				"`outrelay source steal "+string(s.o.Name)+"` fences it and ends that connection", nil)
		}
		if err := backoff.Sleep(ctx, s.clock, slotPoll); err != nil {
			return nil, err
		}
	}
}

// checkPublication refuses a publication that would leave events out.
func (s *Source) checkPublication(ctx context.Context, pg *pgconn.PgConn, srv server, at Place) error {
	rows, err := queryRows(ctx, pg, "SELECT pubinsert, pubviaroot FROM pg_publication WHERE pubname = "+quoteLiteral(s.o.Publication))
	if err != nil {
		return s.classify("pg_publication", err)
	}
	name := "publication " + quoteIdent(s.o.Publication)
	if len(rows) == 0 {
		return s.lost("publication-missing", name+" does not exist; rows that were written without it are not in the stream", at, srv.walEnd, nil)
	}
	if rows[0][0] != "t" {
		return s.fail(outrelay.ErrEnvironment, "publication-unfit", name+" does not publish inserts",
			fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, truncate'); rows inserted before that are not in the stream", quoteIdent(s.o.Publication)), nil)
	}
	tables, err := queryRows(ctx, pg, `SELECT schemaname, tablename, to_jsonb(t)->>'rowfilter' FROM pg_publication_tables t WHERE pubname = `+quoteLiteral(s.o.Publication))
	if err != nil {
		return s.classify("pg_publication_tables", err)
	}
	published := map[string]string{}
	for _, r := range tables {
		published[table{schema: r[0], name: r[1]}.key()] = r[2]
	}
	for _, t := range s.tables {
		filter, ok := published[t.key()]
		if !ok {
			return s.fail(outrelay.ErrEnvironment, "table-not-published", fmt.Sprintf("%s does not publish table %s", name, t.given),
				fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s (a partitioned table needs publish_via_partition_root, an unlogged one cannot be published); rows inserted before that are not in the stream: `outrelay source repair %s --from-table`",
					quoteIdent(s.o.Publication), t.sql(), s.o.Name), nil)
		}
		if filter != "" {
			s.log.Warn("the publication has a row filter: rows it leaves out are never published", "table", t.given, "filter", filter)
		}
	}
	return nil
}
