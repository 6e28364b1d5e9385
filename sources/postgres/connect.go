package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
)

// versionMin is the oldest server that is served, as server_version_num: PostgreSQL 14.
const versionMin = 140000

// connect opens a replication connection, on which plain SQL works too, in the simple protocol alone.
func (s *Source) connect(ctx context.Context) (*pgconn.PgConn, error) { return s.connectAs(ctx, true) }

// connectAs is connect; without replication the connection carries SQL alone.
func (s *Source) connectAs(ctx context.Context, replication bool) (*pgconn.PgConn, error) {
	cs, err := s.o.ConnString(ctx)
	if err != nil {
		return nil, s.classify("connection string", err)
	}
	cfg, err := pgconn.ParseConfig(cs)
	if err != nil {
		return nil, s.classify("connection string", err)
	}
	for k, v := range map[string]string{
		"replication":         "database",
		"application_name":    s.applicationName(),
		"client_encoding":     "UTF8",
		"client_min_messages": "warning", // PostgreSQL 18 says that a publication is missing in a WARNING only
		"statement_timeout":   "0",
		"lock_timeout":        "0",
		"search_path":         "pg_catalog",
		// The values of events are what the server prints: the same, whatever the role's settings are.
		"datestyle":          "ISO",
		"intervalstyle":      "postgres",
		"timezone":           "UTC",
		"bytea_output":       "hex",
		"extra_float_digits": "1",
	} {
		cfg.RuntimeParams[k] = v
	}
	if !replication {
		delete(cfg.RuntimeParams, "replication")
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}}
	cfg.DialFunc = dialer.DialContext
	cfg.ConnectTimeout = s.o.ConnectTimeout
	if cfg.ValidateConnect != nil { // target_session_attrs: pgconn's own check uses the extended protocol
		cfg.ValidateConnect = requirePrimary
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, s.classify("connect", err)
	}
	if pg.ParameterStatus("server_encoding") == "SQL_ASCII" {
		// Such a database may hold bytes that are no UTF-8; asked for UTF-8 the server would refuse to send them, for ever.
		if _, err := pg.Exec(ctx, "SET client_encoding TO 'SQL_ASCII'").ReadAll(); err != nil {
			s.hangUp(pg)
			return nil, s.classify("client_encoding", err)
		}
	}
	return pg, nil
}

// applicationNameMax is how much of application_name PostgreSQL keeps.
const applicationNameMax = 63

// applicationName names the source and the log it goes to. Where PostgreSQL would cut it off, a digest stands for the rest: a relay of another log
// must never bear the same name, since its connection would be ended as ours.
func (s *Source) applicationName() string {
	name := "outrelay " + string(s.o.Name)
	if owner := s.o.Owner(); owner != "" {
		name += " " + owner
	}
	if len(name) <= applicationNameMax {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := " " + hex.EncodeToString(sum[:8])
	return name[:applicationNameMax-len(digest)] + digest
}

func requirePrimary(ctx context.Context, pg *pgconn.PgConn) error {
	row, err := queryRow(ctx, pg, "SELECT pg_is_in_recovery()")
	if err != nil {
		return err
	}
	if row[0] == "t" {
		return errors.New("server is a standby")
	}
	return nil
}

// hangUp closes a connection in order, or by force after a second.
func (s *Source) hangUp(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
}

// queryRows runs one statement in the simple protocol and returns its rows as text, NULL as "".
func queryRows(ctx context.Context, pg *pgconn.PgConn, sql string) ([][]string, error) {
	rs, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rs) != 1 {
		return nil, fmt.Errorf("%d results for one statement", len(rs))
	}
	rows := make([][]string, len(rs[0].Rows))
	for i, r := range rs[0].Rows {
		for _, v := range r {
			rows[i] = append(rows[i], string(v))
		}
	}
	return rows, nil
}

func queryRow(ctx context.Context, pg *pgconn.PgConn, sql string) ([]string, error) {
	rows, err := queryRows(ctx, pg, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%d rows where one was expected", len(rows))
	}
	return rows[0], nil
}

// server is what a server says of itself.
type server struct {
	system   string
	timeline int32
	walEnd   LSN // how far its log is flushed

	versionNum int
	version    string
	standby    bool
	database   string
	user       string
	walLevel   string
}

// inspect asks the server who it is, and refuses one that cannot be a source.
func (s *Source) inspect(ctx context.Context, pg *pgconn.PgConn) (server, error) {
	id, err := pglogrepl.IdentifySystem(ctx, pg)
	if err != nil {
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == stateSyntaxError {
			return server{}, s.fail(outrelay.ErrEnvironment, "pooler", "the server does not know IDENTIFY_SYSTEM: "+pe.Message,
				"this looks like a connection pooler, which cannot carry a replication stream: connect to the database server itself", pe)
		}
		return server{}, s.classify("IDENTIFY_SYSTEM", err)
	}
	row, err := queryRow(ctx, pg, `SELECT current_setting('server_version_num'), current_setting('server_version'), pg_is_in_recovery(),
		current_database(), current_user, coalesce(current_setting('effective_wal_level', true), current_setting('wal_level'))`)
	if err != nil {
		return server{}, s.classify("server settings", err)
	}
	srv := server{system: id.SystemID, timeline: id.Timeline, walEnd: LSN(id.XLogPos),
		version: row[1], standby: row[2] == "t", database: row[3], user: row[4], walLevel: row[5]}
	if srv.versionNum, err = strconv.Atoi(row[0]); err != nil {
		return server{}, s.fail(outrelay.ErrEnvironment, "server-version", "server_version_num "+row[0], "", nil)
	}
	switch {
	case srv.versionNum < versionMin:
		return srv, s.fail(outrelay.ErrEnvironment, "server-version", "PostgreSQL "+srv.version+" is too old", "PostgreSQL 14 and newer are served", nil)
	case srv.standby:
		return srv, s.fail(outrelay.ErrEnvironment, "server-is-standby", "the server is a standby",
			"connect to the primary; with several hosts in the connection string add target_session_attrs=read-write", nil)
	case srv.walLevel != "logical":
		return srv, s.fail(outrelay.ErrEnvironment, "wal-level", "wal_level is "+srv.walLevel,
			"run ALTER SYSTEM SET wal_level = logical and restart the server", nil)
	}
	return srv, nil
}

// typeNames returns the names of the types that are built in: the stream names the others.
func (s *Source) typeNames(ctx context.Context, pg *pgconn.PgConn) (map[uint32]string, error) {
	rows, err := queryRows(ctx, pg, "SELECT oid, typname FROM pg_type WHERE oid < 16384")
	if err != nil {
		return nil, s.classify("types", err)
	}
	names := make(map[uint32]string, len(rows))
	for _, r := range rows {
		oid, err := strconv.ParseUint(r[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("type oid %q: %w", r[0], err)
		}
		names[uint32(oid)] = r[1]
	}
	return names, nil
}
