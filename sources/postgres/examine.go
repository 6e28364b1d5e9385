package postgres

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/doctor"
)

// What the checks compare with.
const (
	versionSupported  = 150000           // the oldest that its makers still mend (14 ended on 2026-11-12)
	openTxnLong       = 10 * time.Minute // a transaction that would hold up a new slot
	retainedMin       = time.Hour        // of WAL that a slot may fall behind before the server gives it up
	idleTimeoutMin    = 24 * time.Hour   // that a slot may lie unused before the server gives it up
	catalogAgeMax     = 200_000_000      // transactions; at this age PostgreSQL itself begins to vacuum against wraparound
	clockDifferMax    = time.Second
	spillBytesMax     = 1 << 30
	rateOver          = 500 * time.Millisecond // how long the server's writing is watched
	keepalivesPerWait = 3
)

// Examine looks at everything that this source needs of its server, and at what will hurt it one day, and changes nothing. at returns the position in
// the log, zero where it is not known; it is called once the slot was looked at, which is never ahead of it. columns are those that each of Options.Tables must have. The ids are those of docs/operations/doctor.md.
func (s *Source) Examine(ctx context.Context, at func(context.Context) outrelay.Position, columns map[string][]string) []doctor.Finding {
	x := &examination{s: s, Report: doctor.Report{Place: s.place()}, columns: columns}
	x.run(ctx, at)
	return x.Findings
}

// examination is one run of the checks. Each takes what those before it have found; a check whose question the server does not answer is skipped, with what it said.
type examination struct {
	doctor.Report
	s       *Source
	pg      *pgconn.PgConn
	columns map[string][]string

	srv      server
	walks    bool // the connection can carry a replication stream
	settings map[string]string
	units    map[string]string // of settings
	slot     *slot
}

func (x *examination) run(ctx context.Context, at func(context.Context) outrelay.Position) {
	if !x.connect(ctx) {
		return
	}
	defer x.s.hangUp(x.pg)
	if !x.learn(ctx) {
		return
	}
	x.version()
	x.walLevel()
	x.primary()
	x.room(ctx)
	x.role(ctx)
	x.tables(ctx)
	x.publication(ctx)
	x.theSlot(ctx)
	x.position(ctx, at(ctx))
	x.retention(ctx)
	x.standbys(ctx)
	x.oldTransactions(ctx)
	x.horizon(ctx)
	x.times(ctx)
	x.spill(ctx)
	x.durability()
	x.messages(ctx)
	x.hosting()
}

// connect is P1 and P23, and the part of P6 that shows while connecting.
func (x *examination) connect(ctx context.Context) bool {
	pg, err := x.s.connect(ctx)
	if err == nil {
		x.pg, x.walks = pg, true
		x.encryption(ctx)
		return true
	}
	plain, perr := x.s.connectAs(ctx, false)
	if perr != nil {
		x.Fail("P1", "check host, port, user, password and pg_hba.conf; `psql` with the same connection string says the same", "no connection: %v", perr)
		return false
	}
	x.pg = plain
	x.encryption(ctx)
	return true
}

// encryption is the part of P1 about TLS.
func (x *examination) encryption(ctx context.Context) {
	row, err := queryRow(ctx, x.pg, "SELECT ssl, coalesce(inet_server_addr()::text, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
	if err != nil {
		x.OK("P1", "connected")
		return
	}
	host, _, _ := strings.Cut(row[1], "/")
	ip := net.ParseIP(host)
	switch {
	case row[0] == "t":
		x.OK("P1", "connected with TLS")
	case host == "" || ip != nil && ip.IsLoopback():
		x.OK("P1", "connected, on this machine")
	default:
		x.Warn("P1", "add sslmode=verify-full and sslrootcert to the connection string", "connected to %s without TLS: rows and password go over the network in the clear", host)
	}
}

// learn asks the server who it is and how it is set.
func (x *examination) learn(ctx context.Context) bool {
	if x.walks {
		id, err := pglogrepl.IdentifySystem(ctx, x.pg)
		if err != nil {
			x.Fail("P23", "connect to the database server itself", "the server does not know IDENTIFY_SYSTEM (%v): this looks like a connection pooler, which cannot carry a replication stream", err)
			return false
		}
		x.srv.system, x.srv.timeline, x.srv.walEnd = id.SystemID, id.Timeline, LSN(id.XLogPos)
		x.OK("P23", "no pooler in between")
	}
	row, err := queryRow(ctx, x.pg, "SELECT current_setting('server_version_num'), current_setting('server_version'), pg_is_in_recovery(), current_database(), current_user")
	if err != nil {
		x.Fail("P1", "check that this is a PostgreSQL server", "connected, but it does not answer: %v", err)
		return false
	}
	x.srv.versionNum, _ = strconv.Atoi(row[0])
	x.srv.version, x.srv.standby, x.srv.database, x.srv.user = row[1], row[2] == "t", row[3], row[4]
	rows, err := queryRows(ctx, x.pg, "SELECT name, setting, coalesce(unit, '') FROM pg_settings")
	if err != nil {
		x.Fail("P1", "grant the role pg_read_all_settings", "its settings cannot be read: %v", err)
		return false
	}
	x.settings, x.units = map[string]string{}, map[string]string{}
	for _, r := range rows {
		x.settings[r[0]], x.units[r[0]] = r[1], r[2]
	}
	return true
}

// number returns a setting in its own unit; ok is false where the server does not know it.
func (x *examination) number(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(x.settings[name], 10, 64)
	return n, err == nil
}

// duration returns a setting that is a time.
func (x *examination) duration(name string) (d time.Duration, ok bool) {
	n, ok := x.number(name)
	unit, known := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "min": time.Minute}[x.units[name]]
	return time.Duration(n) * unit, ok && known
}

func (x *examination) version() {
	switch v := x.srv.versionNum; {
	case v < versionMin:
		x.Fail("P2", "upgrade to PostgreSQL 14 or newer", "PostgreSQL %s", x.srv.version)
	case v < versionSupported:
		x.Warn("P2", "plan an upgrade", "PostgreSQL %s gets no fixes from its makers any more", x.srv.version)
	default:
		x.OK("P2", "PostgreSQL %s", x.srv.version)
	}
}

func (x *examination) walLevel() {
	name := "effective_wal_level" // 19 and newer: raised by the first logical slot
	if _, ok := x.settings[name]; !ok {
		name = "wal_level"
	}
	if v := x.settings[name]; v != "logical" {
		x.Fail("P3", "ALTER SYSTEM SET wal_level = logical; then restart the server", "%s is %s", name, v)
		return
	}
	x.OK("P3", "%s is logical", name)
}

func (x *examination) primary() {
	if x.srv.standby {
		x.Fail("P4", "connect to the primary; with several hosts add target_session_attrs=read-write to the connection string", "the server is a standby")
		return
	}
	x.OK("P4", "the server is a primary")
}

// room is P5.
func (x *examination) room(ctx context.Context) {
	row, err := queryRow(ctx, x.pg, `SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_replication),
		(SELECT count(*) FROM pg_replication_slots WHERE slot_name = `+quoteLiteral(x.s.o.Slot)+`), (SELECT count(*) FROM pg_replication_slots WHERE slot_name = `+quoteLiteral(x.s.o.Slot)+` AND active)`)
	if err != nil {
		x.Skip("P5", "%v", err)
		return
	}
	count := func(i int) int64 { n, _ := strconv.ParseInt(row[i], 10, 64); return n }
	for _, k := range []struct {
		setting   string
		used, own int64
	}{{"max_replication_slots", count(0), count(2)}, {"max_wal_senders", count(1), count(3)}} {
		most, _ := x.number(k.setting)
		if free := most - k.used; free < 1-k.own {
			x.Fail("P5", fmt.Sprintf("ALTER SYSTEM SET %s = %d; then restart the server, or drop what is not used", k.setting, most+10), "%s is %d, and all are in use: this source finds none", k.setting, most)
		} else {
			x.OK("P5", "%s is %d, %d in use", k.setting, most, k.used)
		}
	}
}

// role is P6: the role may replicate and read the outbox, and is no more than it must be.
func (x *examination) role(ctx context.Context) {
	row, err := queryRow(ctx, x.pg, "SELECT rolreplication OR rolsuper, rolsuper FROM pg_roles WHERE rolname = current_user")
	if err != nil {
		x.Skip("P6", "%v", err)
		return
	}
	user := quoteIdent(x.srv.user)
	switch {
	case row[0] != "t":
		x.Fail("P6", "ALTER ROLE "+user+" REPLICATION", "the role %s may not replicate", x.srv.user)
	case row[1] == "t":
		x.Warn("P6", "give outrelay a role of its own: CREATE ROLE relay LOGIN REPLICATION, with SELECT on the outbox tables", "the role %s is a superuser, which outrelay does not need", x.srv.user)
	default:
		x.OK("P6", "the role %s may replicate and is no superuser", x.srv.user)
	}
	for _, t := range x.s.tables {
		row, err := queryRow(ctx, x.pg, "SELECT coalesce(has_table_privilege(to_regclass("+quoteLiteral(t.sql())+"), 'SELECT'), true)")
		if err == nil && row[0] != "t" {
			x.Warn("P6", "GRANT SELECT ON "+t.sql()+" TO "+user, "the role %s may not read %s: repairs from the table will not work", x.srv.user, t.given)
		}
	}
}

// durability is P20.
func (x *examination) durability() {
	if v := x.settings["synchronous_commit"]; v == "off" {
		x.Warn("P20", "ALTER SYSTEM SET synchronous_commit = on", "synchronous_commit is off: transactions that the application took for committed are lost when the server crashes; outrelay publishes only what survives")
	} else if x.settings["fsync"] == "off" {
		x.Warn("P20", "ALTER SYSTEM SET fsync = on", "fsync is off: a crash of the machine can destroy the database, and what was published may not be in it any more")
	} else {
		x.OK("P20", "synchronous_commit is %s, fsync on", v)
	}
}

// messages is P21.
func (x *examination) messages(ctx context.Context) {
	row, err := queryRow(ctx, x.pg, "SELECT has_function_privilege('pg_logical_emit_message(boolean, text, text)', 'EXECUTE')")
	switch {
	case err != nil:
		x.Skip("P21", "%v", err)
	case row[0] != "t":
		x.Warn("P21", "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO "+quoteIdent(x.srv.user), "the role may not write messages into the WAL: a database that is idle beside busy ones cannot be kept moving by heartbeats")
	default:
		x.OK("P21", "messages can be written into the WAL")
	}
}

// hosting is P24.
func (x *examination) hosting() {
	for setting, name := range map[string]string{"rds.logical_replication": "Amazon RDS", "cloudsql.logical_decoding": "Google Cloud SQL"} {
		switch v, ok := x.settings[setting]; {
		case !ok:
		case v == "on" || v == "1":
			x.OK("P24", "%s: %s is on", name, setting)
		default:
			x.Fail("P24", "turn "+setting+" on in the instance's parameters and restart it", "%s: %s is %s, so no logical slot can be made", name, setting, v)
		}
	}
}
