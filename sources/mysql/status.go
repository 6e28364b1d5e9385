package mysql

import (
	"context"
	"fmt"
	"strconv"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

// Status keeps sources.Source. A zero position asks about the server alone. What the server retains for us is unknown: it keeps its binlog for a time.
func (s *Source) Status(ctx context.Context, at outrelay.Position) (sources.Status, error) {
	st := sources.Status{BehindBytes: -1, RetainedBytes: -1, Ignored: s.metrics.Ignored()}
	var place Place
	if !at.IsZero() {
		var err error
		if place, err = ParsePlace(s.o.Flavor, at); err != nil {
			return st, err
		}
		st.Place = place.String()
	}
	c, err := s.connect(ctx)
	if err != nil {
		return st, err
	}
	defer c.hangUp()
	srv, err := s.inspect(ctx, c)
	if err != nil {
		return st, err
	}
	end, err := s.readEnd(ctx, c, srv)
	if err != nil {
		return st, err
	}
	st.Server = fmt.Sprintf("%s %s, server %s", map[Flavor]string{MySQL: "MySQL", MariaDB: "MariaDB"}[srv.flavor], srv.version, srv.id)
	st.Head = fmt.Sprintf("%s:%d %s", end.file, end.pos, end.executed.String())
	if st.Active, err = s.attached(ctx, c); err != nil {
		return st, err
	}
	if place.Server == srv.id {
		st.BehindBytes, err = s.bytesBetween(ctx, c, place, end)
	}
	return st, err
}

// bytesBetween returns how much binlog there is from a place to the end; -1 when the place's file is gone.
func (s *Source) bytesBetween(ctx context.Context, c *conn, from Place, end binlogEnd) (int64, error) {
	logs, err := c.rows(ctx, "SHOW BINARY LOGS")
	if err != nil {
		return -1, s.classify("SHOW BINARY LOGS", err)
	}
	bytes, within := int64(0), false
	for _, l := range logs {
		size, err := strconv.ParseInt(l["file_size"], 10, 64)
		if err != nil {
			continue
		}
		switch name := l["log_name"]; {
		case name == from.File:
			bytes, within = -int64(from.Pos), true
			fallthrough
		case within:
			if name == end.file {
				return max(bytes+int64(end.pos), 0), nil
			}
			bytes += size
		}
	}
	return -1, nil
}
