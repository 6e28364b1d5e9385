package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/sources"
)

// What the checks compare with.
const (
	expireMin = 24 * time.Hour // that the server keeps its binlog
	packetMin = 4 << 20        // max_allowed_packet: a record of the default size with room for its row
)

var _ sources.Examiner = (*Source)(nil)

// Examine looks at everything that this source needs of its server, and at what will hurt it one day, and changes nothing. at returns the position in
// the log, zero where it is not known; columns are those that each of Options.Tables must have. The ids are those of docs/operations/doctor.md.
func (s *Source) Examine(ctx context.Context, at func(context.Context) outrelay.Position, columns map[string][]string) []doctor.Finding {
	x := &examination{s: s, Report: doctor.Report{Place: s.place()}, columns: columns}
	x.run(ctx, at)
	return x.Findings
}

// examination is one run of the checks.
type examination struct {
	doctor.Report
	s       *Source
	c       *conn
	columns map[string][]string

	srv  server
	vars map[string]string // all global variables
}

func (x *examination) run(ctx context.Context, at func(context.Context) outrelay.Position) {
	c, err := x.s.connect(ctx)
	if err != nil {
		x.Fail("M19", "check host, port, user and password; the client program with the same settings says the same", "no connection: %v", err)
		return
	}
	x.c = c
	defer c.hangUp()
	if !x.learn(ctx) {
		return
	}
	x.binlog()
	x.expiry()
	x.ids()
	x.others(ctx)
	x.position(ctx, at)
	x.privileges(ctx)
	x.replica(ctx)
	x.durability()
	x.tables(ctx)
	x.filters(ctx)
}

// learn is M19: who the server is.
func (x *examination) learn(ctx context.Context) bool {
	vars, err := x.c.rows(ctx, "SHOW GLOBAL VARIABLES")
	if err == nil {
		x.srv, err = x.s.inspect(ctx, x.c)
	}
	var e *outrelay.Error
	switch {
	case err != nil && len(vars) == 0:
		x.Fail("M19", "check that this is a MySQL or MariaDB server, and no proxy", "its settings cannot be read: %v", err)
		return false
	case errors.As(err, &e) && (e.Code == "server-flavor" || e.Code == "server-version" || e.Code == "server-id"):
		x.Fail("M19", e.Fix, "%s", e.Cause)
		return false
	case x.srv.version == "":
		x.Fail("M19", "check that this is a MySQL or MariaDB server, and no proxy", "%v", err)
		return false
	}
	x.vars = map[string]string{}
	for _, v := range vars {
		x.vars[strings.ToLower(v["variable_name"])] = v["value"]
	}
	x.OK("M19", "%s %s", x.srv.flavor, x.srv.version)
	return true
}

// set returns the statement that changes a variable for good.
func (x *examination) set(name, value string) string {
	if x.srv.flavor == MariaDB {
		return fmt.Sprintf("SET GLOBAL %s = %s, and the same in the server's configuration file", name, value)
	}
	return fmt.Sprintf("SET PERSIST %s = %s", name, value)
}

// want fails unless a variable has a value; servers that lack the variable are passed.
func (x *examination) want(id, name, value, why string) {
	switch v, ok := x.vars[name]; {
	case !ok:
		x.Skip(id, "this server has no %s", name)
	case !strings.EqualFold(v, value):
		x.Fail(id, x.set(name, value)+"; sessions that are open keep what they had", "%s is %q: %s", name, v, why)
	default:
		x.OK(id, "%s is %s", name, value)
	}
}

// binlog is M1 to M5, M15 to M17.
func (x *examination) binlog() {
	if x.vars["log_bin"] != "ON" {
		x.Fail("M1", "start the server with log_bin and binlog_format = ROW", "the server writes no binlog")
		return
	}
	x.OK("M1", "the server writes a binlog")
	x.want("M2", "binlog_format", "ROW", "the binlog holds statements, not rows")
	x.want("M3", "binlog_row_image", "FULL", "rows lack columns")
	x.want("M4", "binlog_row_metadata", "FULL", "the binlog does not name the columns")
	if v := x.vars["binlog_row_value_options"]; v != "" {
		x.Fail("M5", x.set("binlog_row_value_options", "''"), "binlog_row_value_options is %s: changes of JSON come in parts", v)
	} else {
		x.OK("M5", "rows come whole")
	}
	if n, err := strconv.ParseInt(x.vars["max_allowed_packet"], 10, 64); err == nil && n < packetMin {
		x.Warn("M15", x.set("max_allowed_packet", strconv.Itoa(64<<20)), "max_allowed_packet is %d: rows larger than that cannot be written or read", n)
	} else {
		x.OK("M15", "max_allowed_packet is %d", n)
	}
	x.OK("M16", "compressed transactions are read; encryption is the server's own affair")
	x.OK("M17", "lower_case_table_names is %s, and names are compared like that", x.vars["lower_case_table_names"])
}

// expiry is M6.
func (x *examination) expiry() {
	n, err := strconv.ParseFloat(x.vars["binlog_expire_logs_seconds"], 64)
	if days, derr := strconv.ParseFloat(x.vars["expire_logs_days"], 64); derr == nil && (err != nil || n == 0) {
		n, err = days*24*3600, nil
	}
	keep := time.Duration(n) * time.Second
	switch {
	case err != nil:
		x.Skip("M6", "this server does not say how long it keeps its binlog")
	case keep > 0 && keep < expireMin:
		x.Warn("M6", x.set("binlog_expire_logs_seconds", "604800"), "the binlog is kept for %s: an outage longer than that loses events", keep)
	case keep == 0:
		x.OK("M6", "the binlog is kept until somebody purges it")
	default:
		x.OK("M6", "the binlog is kept for %s", keep)
	}
}

// ids is M7.
func (x *examination) ids() {
	if x.srv.flavor == MariaDB {
		if x.vars["gtid_strict_mode"] != "ON" {
			x.Warn("M7", x.set("gtid_strict_mode", "ON"), "gtid_strict_mode is off: after a failover two transactions can have one id, which halts the source")
		} else {
			x.OK("M7", "gtid_strict_mode is on")
		}
		return
	}
	x.want("M7", "gtid_mode", "ON", "transactions have no ids")
	x.want("M7", "enforce_gtid_consistency", "ON", "statements that GTIDs cannot describe would be refused only later")
}

// others is M8: our number as a replica is nobody else's.
func (x *examination) others(ctx context.Context) {
	rows, err := x.c.rows(ctx, map[Flavor]string{MySQL: "SHOW REPLICAS", MariaDB: "SHOW SLAVE HOSTS"}[x.srv.flavor])
	if err != nil {
		x.Skip("M8", "%v", err)
		return
	}
	r, err := x.s.replica(ctx, x.c, x.srv)
	if err != nil {
		x.Fail("M8", "give the source another server_id", "%v", err)
		return
	}
	x.OK("M8", "as a replica the source is number %d; %d replica(s) are registered, the server is number %d", r.id, len(rows), x.srv.serverID)
}

// position is M9 and M10: server and position fit together.
func (x *examination) position(ctx context.Context, at func(context.Context) outrelay.Position) {
	p := at(ctx)
	if p.IsZero() {
		x.Skip("M9", "the log's position is not known: it is not reached, or holds none yet")
		return
	}
	place, err := ParsePlace(x.s.o.Flavor, p)
	if err == nil {
		_, err = x.s.checkPosition(ctx, x.c, x.srv, &place)
	}
	var e *outrelay.Error
	switch {
	case err == nil:
		x.OK("M9", "everything behind the position %s is in the binlog", place.String())
	case errors.As(err, &e):
		x.Fail("M9", e.Fix, "%s [%s]", e.Cause, e.Code)
	default:
		x.Skip("M9", "%v", err)
	}
	if err == nil && place.Server != x.srv.id {
		x.Warn("M10", "look whether this failover or restore was meant", "the position was made on server %s, this one is %s", place.Server, x.srv.id)
	} else if err == nil {
		x.OK("M10", "the server is the one the position was made on")
	}
}

// privileges is M11.
func (x *examination) privileges(ctx context.Context) {
	rows, err := x.c.rows(ctx, "SHOW GRANTS")
	if err != nil {
		x.Skip("M11", "%v", err)
		return
	}
	all := ""
	for _, r := range rows {
		for _, v := range r {
			all += strings.ToUpper(v) + "\n"
		}
	}
	switch {
	case strings.Contains(all, "ALL PRIVILEGES ON *.*"), strings.Contains(all, "SUPER"):
		x.Warn("M11", "give outrelay a user of its own: "+x.s.grants(), "the user %s may do everything, which outrelay does not need", x.srv.user)
	case !strings.Contains(all, "REPLICATION SLAVE"), x.srv.flavor == MySQL && !strings.Contains(all, "REPLICATION CLIENT"):
		x.Fail("M11", x.s.grants(), "the user %s may not replicate", x.srv.user)
	default:
		x.OK("M11", "the user %s may replicate and is no administrator", x.srv.user)
	}
}

// replica is M12.
func (x *examination) replica(ctx context.Context) {
	rows, err := x.c.rows(ctx, map[Flavor]string{MySQL: "SHOW REPLICA STATUS", MariaDB: "SHOW ALL SLAVES STATUS"}[x.srv.flavor])
	switch {
	case err != nil:
		x.Skip("M12", "%v", err)
		return
	case len(rows) == 0:
		x.OK("M12", "the server is no replica")
		return
	}
	for _, name := range []string{"log_replica_updates", "log_slave_updates"} {
		if v, ok := x.vars[name]; ok && v != "ON" {
			x.Fail("M12", "start the server with "+name+" = ON, or read from its source", "the server is a replica, and %s is %s: what it applies is not in its binlog", name, v)
			return
		}
	}
	if v, ok := x.vars["replica_preserve_commit_order"]; ok && v != "ON" {
		x.Warn("M12", x.set("replica_preserve_commit_order", "ON"), "the server is a replica that commits out of order: events of a key can change places")
		return
	}
	x.OK("M12", "the server is a replica that logs what it applies, in order")
}

// durability is M13.
func (x *examination) durability() {
	for name, why := range map[string]string{"sync_binlog": "a crash of the machine takes transactions out of the binlog that were read from it", "innodb_flush_log_at_trx_commit": "a crash takes back transactions that the application took for committed"} {
		if v := x.vars[name]; v != "1" {
			x.Warn("M13", x.set(name, "1"), "%s is %s: %s", name, v, why)
		} else {
			x.OK("M13", "%s is 1", name)
		}
	}
}

// tables is M14 and M18.
func (x *examination) tables(ctx context.Context) {
	for _, t := range x.s.named(x.srv.database) {
		x.At("table "+t.given, func(r *doctor.Report) {
			rows, err := x.c.rows(ctx, `SELECT ENGINE AS engine, TABLE_COLLATION AS collation, (SELECT COUNT(*) FROM information_schema.TABLE_CONSTRAINTS k WHERE k.TABLE_SCHEMA = t.TABLE_SCHEMA AND
				k.TABLE_NAME = t.TABLE_NAME AND k.CONSTRAINT_TYPE = 'PRIMARY KEY') AS keyed FROM information_schema.TABLES t WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA = ? AND TABLE_NAME = ?`, t.database, t.name)
			switch {
			case err != nil:
				r.Skip("M14", "%v", err)
				return
			case len(rows) == 0:
				r.Fail("M14", "create it, correct its name, or GRANT SELECT ON "+t.sql()+" TO the user", "there is no such table, or the user may not see it")
				return
			case rows[0]["engine"] != "InnoDB":
				r.Fail("M14", "ALTER TABLE "+t.sql()+" ENGINE = InnoDB", "its engine is %s, which keeps rows of transactions that are rolled back", rows[0]["engine"])
			case rows[0]["keyed"] == "0":
				r.Warn("M14", "ALTER TABLE "+t.sql()+" ADD PRIMARY KEY (id)", "it has no primary key: two rows can bear the same event id, and pruning is slow")
			default:
				r.OK("M14", "it is InnoDB and has a primary key")
			}
			if c := rows[0]["collation"]; !strings.HasPrefix(c, "utf8mb4") {
				r.Warn("M18", "ALTER TABLE "+t.sql()+" CONVERT TO CHARACTER SET utf8mb4", "its character set is that of %s: not every text fits", c)
			} else {
				r.OK("M18", "its character set is utf8mb4")
			}
			x.tableColumns(ctx, r, t)
		})
	}
}

// tableColumns is the part of M14 about the columns that the file names.
func (x *examination) tableColumns(ctx context.Context, r *doctor.Report, t table) {
	rows, err := x.c.rows(ctx, "SELECT COLUMN_NAME AS name FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION", t.database, t.name)
	if err != nil {
		r.Skip("M14", "%v", err)
		return
	}
	var have, missing []string
	for _, row := range rows {
		have = append(have, row["name"])
	}
	for _, c := range x.columns[t.given] {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(h, c) }) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		r.Fail("M14", "correct `columns` of the table in the file, or the table", "columns %s are missing; it has %s", strings.Join(missing, ", "), strings.Join(have, ", "))
	}
}

// filters is M20.
func (x *examination) filters(ctx context.Context) {
	rows, err := x.c.rows(ctx, endQuery(x.srv))
	if err != nil || len(rows) == 0 {
		x.Skip("M20", "the server does not say where its binlog ends: %v", err)
		return
	}
	for _, name := range []string{"binlog_do_db", "binlog_ignore_db"} {
		if v := rows[0][name]; v != "" {
			x.Warn("M20", "start the server without "+name, "the server leaves databases out of its binlog (%s: %s): an outbox table among them is never read", name, v)
			return
		}
	}
	x.OK("M20", "no database is left out of the binlog")
}
