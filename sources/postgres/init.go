package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// blockedAfter is how long the creation of a slot may take before we say who holds it up.
const blockedAfter = 5 * time.Second

// Init keeps sources.Source. It creates the publication and then the slot: rows written between the two would be missing if it were
// the other way round. An existing publication that fits is used as it is. Creating the slot waits for all transactions that
// are open at the time; who they are is logged.
func (s *Source) Init(ctx context.Context) (outrelay.Position, error) {
	pg, err := s.connect(ctx)
	if err != nil {
		return outrelay.Position{}, err
	}
	defer s.hangUp(pg)
	srv, err := s.inspect(ctx, pg)
	if err != nil {
		return outrelay.Position{}, err
	}
	if err := s.refuseSlot(ctx, pg); err != nil {
		return outrelay.Position{}, err
	}
	if err := s.ensurePublication(ctx, pg, srv); err != nil {
		return outrelay.Position{}, err
	}
	at, err := s.createSlot(ctx, pg, srv)
	if err != nil {
		return outrelay.Position{}, err
	}
	s.log.Info("replication slot created", "slot", s.o.Slot, "publication", s.o.Publication, "position", at.String())
	return outrelay.Position{Source: s.o.Name, Token: at.Token()}, nil
}

// refuseSlot fails when the slot exists: no position in the log belongs to it.
func (s *Source) refuseSlot(ctx context.Context, pg *pgconn.PgConn) error {
	sl, err := s.readSlot(ctx, pg)
	if err != nil || sl == nil {
		return err
	}
	return s.slotWithoutPosition(sl, "the log's data was deleted, or somebody else made the slot")
}

func (s *Source) slotWithoutPosition(sl *slot, why string) error {
	return s.fail(outrelay.ErrDataHalt, "slot-without-position",
		fmt.Sprintf("replication slot %s exists (confirmed up to %s), but the log holds no position of this source: %s", s.o.Slot, sl.ConfirmedFlushLSN, why),
		fmt.Sprintf("if nothing of it is needed, run SELECT pg_drop_replication_slot(%s) and start again; `outrelay source repair %s --from-table` also publishes what the outbox still holds; or choose another `slot`",
			quoteLiteral(s.o.Slot), s.o.Name), nil)
}

// InitSQL returns the statements that Init would run, for an administrator to run instead. The slot is then made by Init.
func (s *Source) InitSQL() []string { return []string{s.publicationSQL("insert, truncate")} }

func (s *Source) publicationSQL(publish string) string {
	names := make([]string, len(s.tables))
	for i, t := range s.tables {
		names[i] = t.sql()
	}
	return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = '%s', publish_via_partition_root = true)",
		quoteIdent(s.o.Publication), strings.Join(names, ", "), publish)
}

// ensurePublication creates the publication unless it is there. Deletes are not published: services delete outbox rows as
// a matter of course. Updates are, so that they can be reported, where every table has a replica identity; without one the server
// would refuse the application's updates.
func (s *Source) ensurePublication(ctx context.Context, pg *pgconn.PgConn, srv server) error {
	publish := "insert, update, truncate"
	for _, t := range s.tables {
		rows, err := queryRows(ctx, pg, `SELECT c.relkind IN ('r', 'p'), c.relpersistence = 'p', c.relreplident IN ('f', 'i') OR
			(c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = `+quoteLiteral(t.schema)+` AND c.relname = `+quoteLiteral(t.name))
		if err != nil {
			return s.classify("pg_class", err)
		}
		switch {
		case len(rows) == 0 || rows[0][0] != "t":
			return s.fail(outrelay.ErrEnvironment, "table-missing", fmt.Sprintf("table %s does not exist in database %s", t.given, srv.database), "create it, or correct its name (taken as written, without folding case)", nil)
		case rows[0][1] != "t":
			return s.fail(outrelay.ErrEnvironment, "table-unlogged", fmt.Sprintf("table %s is unlogged or temporary: its rows are not in the WAL", t.given), "ALTER TABLE "+t.sql()+" SET LOGGED", nil)
		case rows[0][2] != "t":
			publish = "insert, truncate"
		}
	}
	rows, err := queryRows(ctx, pg, "SELECT 1 FROM pg_publication WHERE pubname = "+quoteLiteral(s.o.Publication))
	if err != nil {
		return s.classify("pg_publication", err)
	}
	if len(rows) == 0 {
		sql := s.publicationSQL(publish)
		_, err := pg.Exec(ctx, sql).ReadAll()
		var pe *pgconn.PgError
		switch {
		case errors.As(err, &pe) && pe.Code == stateNoPrivilege:
			return s.fail(outrelay.ErrEnvironment, "missing-privilege", "the role "+srv.user+" may not create the publication: "+pe.Message, "run as the tables' owner: "+sql, pe)
		case errors.As(err, &pe) && pe.Code == stateDuplicateObject: // somebody else was faster
		case err != nil:
			return s.classify("create publication", err)
		}
	}
	return s.checkPublication(ctx, pg, srv, Place{})
}

// createSlot creates the slot and returns the place it begins at.
func (s *Source) createSlot(ctx context.Context, pg *pgconn.PgConn, srv server) (Place, error) {
	args := quoteLiteral(s.o.Slot) + ", 'pgoutput'"
	if srv.versionNum >= 170000 {
		args += ", false, false, true" // temporary, two_phase, failover: a standby that synchronises slots then has it
	}
	done := make(chan struct{})
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		s.reportBlockers(ctx, done)
	}()
	row, err := queryRow(ctx, pg, "SELECT lsn FROM pg_create_logical_replication_slot("+args+")")
	close(done)
	<-reported
	if err != nil {
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == stateNoPrivilege {
			return Place{}, s.fail(outrelay.ErrEnvironment, "missing-privilege", "the role "+srv.user+" may not create replication slots: "+pe.Message,
				"run as an administrator: ALTER ROLE "+quoteIdent(srv.user)+" REPLICATION", pe)
		}
		if pe != nil && pe.Code == stateDuplicateObject {
			return Place{}, s.slotWithoutPosition(&slot{ConfirmedFlushLSN: "unknown"}, "somebody else has just made the slot")
		}
		return Place{}, s.classify("create replication slot "+s.o.Slot, err)
	}
	lsn, err := pgoutput.ParseLSN(row[0])
	if err != nil {
		return Place{}, fmt.Errorf("%s: consistent point: %w", s.place(), err)
	}
	return Place{System: srv.system, Timeline: srv.timeline, LSN: lsn}, nil
}

// reportBlockers logs, once, which transactions hold up the creation of the slot. It ends when done is closed.
func (s *Source) reportBlockers(ctx context.Context, done <-chan struct{}) {
	t := s.clock.NewTimer(blockedAfter)
	defer t.Stop()
	select {
	case <-done:
		return
	case <-ctx.Done():
		return
	case <-t.C():
	}
	pg, err := s.connect(ctx)
	if err != nil {
		return // the creation itself reports what is wrong
	}
	defer s.hangUp(pg)
	rows, err := queryRows(ctx, pg, `SELECT 'pid ' || pid || ' (' || application_name || ', ' || state || ') since ' || xact_start FROM pg_stat_activity
		WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
		UNION ALL SELECT 'prepared transaction ' || gid || ' since ' || prepared FROM pg_prepared_xacts`)
	if err != nil {
		return
	}
	for _, r := range rows {
		s.log.Warn("the creation of the replication slot waits for a transaction to end", "slot", s.o.Slot, "transaction", r[0])
	}
}
