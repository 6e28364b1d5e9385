package postgres

import (
	"context"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// Status keeps sources.Source. A zero position asks about the server alone.
func (s *Source) Status(ctx context.Context, at outrelay.Position) (sources.Status, error) {
	st := sources.Status{BehindBytes: -1, RetainedBytes: -1, Ignored: s.metrics.Ignored()}
	var place Place
	if !at.IsZero() {
		var err error
		if place, err = ParsePlace(at); err != nil {
			return st, err
		}
		st.Place = place.String()
	}
	pg, err := s.connect(ctx)
	if err != nil {
		return st, err
	}
	defer s.hangUp(pg)
	srv, err := s.inspect(ctx, pg)
	if err != nil {
		return st, err
	}
	st.Server = fmt.Sprintf("PostgreSQL %s, system %s, timeline %d", srv.version, srv.system, srv.timeline)
	st.Head = srv.walEnd.String()
	if place.LSN != 0 && place.System == srv.system && place.LSN <= srv.walEnd {
		st.BehindBytes = int64(srv.walEnd - place.LSN)
	}
	sl, err := s.readSlot(ctx, pg)
	if err != nil || sl == nil {
		return st, err
	}
	st.Active = sl.Active
	if restart, err := pgoutput.ParseLSN(sl.RestartLSN); err == nil && restart <= srv.walEnd {
		st.RetainedBytes = int64(srv.walEnd - restart)
	}
	return st, nil
}
