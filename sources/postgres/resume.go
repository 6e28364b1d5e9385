package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// intentVersion is the version of the intent that this package writes; docs/format/position.md.
const intentVersion = 1

// intent says what Init is about to create: a slot that did not exist when the server's log ended at LSN.
type intent struct {
	Version  int    `json:"v"`
	System   string `json:"system"`
	Timeline int32  `json:"timeline"`
	Database string `json:"database"`
	Slot     string `json:"slot"`
	LSN      string `json:"lsn"`
}

// PrepareInit keeps sources.Source. It creates the publication and makes sure that the slot does not exist.
func (s *Source) PrepareInit(ctx context.Context) (string, error) {
	pg, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	defer s.hangUp(pg)
	srv, err := s.inspect(ctx, pg)
	if err != nil {
		return "", err
	}
	if err := s.refuseSlot(ctx, pg); err != nil {
		return "", err
	}
	if err := s.ensurePublication(ctx, pg, srv); err != nil {
		return "", err
	}
	b, err := json.Marshal(intent{Version: intentVersion, System: srv.system, Timeline: srv.timeline, Database: srv.database,
		Slot: s.o.Slot, LSN: srv.walEnd.String()})
	return string(b), err
}

// ResumeInit keeps sources.Source. The slot is known again by its name on the intent's server and database, where it did not exist at
// the intent; by its confirmed place, which lies after the intent; and by the server's count of what was decoded from it, which is zero.
func (s *Source) ResumeInit(ctx context.Context, token string) (outrelay.Position, error) {
	in, began, err := s.parseIntent(token)
	if err != nil {
		return outrelay.Position{}, err
	}
	pg, err := s.connect(ctx)
	if err != nil {
		return outrelay.Position{}, err
	}
	defer s.hangUp(pg)
	srv, err := s.inspect(ctx, pg)
	if err != nil {
		return outrelay.Position{}, err
	}
	if in.System != srv.system || in.Database != srv.database || in.Slot != s.o.Slot {
		s.log.Warn("an initialisation was begun elsewhere; if its slot was created, it holds back the log of that server until it is dropped",
			"system", in.System, "database", in.Database, "slot", in.Slot)
		return outrelay.Position{}, fmt.Errorf("%s: the log's intent is about slot %s of database %s: %w", s.place(), in.Slot, in.Database, sources.ErrNotBegun)
	}
	if err := s.checkIdentity(ctx, pg, srv, began); err != nil {
		return outrelay.Position{}, err
	}
	at, err := s.knowAgain(ctx, pg, srv, began)
	if err != nil {
		return outrelay.Position{}, err
	}
	s.log.Info("replication slot of an interrupted start taken over", "slot", s.o.Slot, "position", at.String())
	return outrelay.Position{Source: s.o.Name, Token: at.Token()}, nil
}

func (s *Source) parseIntent(token string) (intent, Place, error) {
	var in intent
	err := json.Unmarshal([]byte(token), &in)
	lsn, lsnErr := pgoutput.ParseLSN(in.LSN)
	if err != nil || lsnErr != nil || in.Version < 1 || in.Version > intentVersion {
		return in, Place{}, s.fail(outrelay.ErrDataHalt, "intent-unreadable", fmt.Sprintf("intent %.200q", token), "run the version of outrelay that wrote it, or a newer one", nil)
	}
	return in, Place{System: in.System, Timeline: in.Timeline, LSN: lsn}, nil
}

// knowAgain returns where the slot that was created after began starts.
func (s *Source) knowAgain(ctx context.Context, pg *pgconn.PgConn, srv server, began Place) (Place, error) {
	sl, err := s.freeSlot(ctx, pg) // a backend that was still creating it may have to be waited for
	if err != nil {
		return Place{}, err
	}
	if sl == nil {
		return Place{}, fmt.Errorf("%s: there is no replication slot %s: %w", s.place(), s.o.Slot, sources.ErrNotBegun)
	}
	confirmed, err := pgoutput.ParseLSN(sl.ConfirmedFlushLSN)
	if err != nil {
		return Place{}, s.fail(outrelay.ErrTransient, "slot-unfit", "replication slot "+s.o.Slot+" is still being created", "", nil)
	}
	if confirmed < began.LSN {
		return Place{}, s.slotWithoutPosition(sl, fmt.Sprintf("it is older than this source's first start, at %s", began))
	}
	read, err := queryRows(ctx, pg, "SELECT total_txns FROM pg_stat_replication_slots WHERE total_txns > 0 AND slot_name = "+quoteLiteral(s.o.Slot))
	if err != nil {
		return Place{}, s.classify("pg_stat_replication_slots", err)
	}
	if len(read) > 0 {
		return Place{}, s.slotWithoutPosition(sl, fmt.Sprintf("somebody else has read %s transactions from it", read[0][0]))
	}
	if err := s.checkPublication(ctx, pg, srv, began); err != nil {
		return Place{}, err
	}
	at := Place{System: srv.system, Timeline: srv.timeline, LSN: confirmed}
	return at, s.checkSlot(ctx, pg, srv, at)
}
