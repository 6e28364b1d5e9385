package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// tables is P9 and P10.
func (x *examination) tables(ctx context.Context) {
	for _, t := range x.s.tables {
		x.At("table "+t.given, func(r *doctor.Report) {
			rows, err := queryRows(ctx, x.pg, `SELECT c.relpersistence = 'p', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), c.oid
				FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname = `+quoteLiteral(t.schema)+` AND c.relname = `+quoteLiteral(t.name))
			switch {
			case err != nil:
				r.Skip("P9", "%v", err)
				return
			case len(rows) == 0:
				r.Fail("P9", "create it, or correct its name, which is taken as written, without folding case", "there is no such table in database %s", x.srv.database)
				return
			case rows[0][0] != "t":
				r.Fail("P9", "ALTER TABLE "+t.sql()+" SET LOGGED", "it is unlogged: its rows are not in the WAL")
			case rows[0][1] != "t":
				r.Warn("P9", "ALTER TABLE "+t.sql()+" ADD PRIMARY KEY (id)", "it has no primary key: two rows can bear the same event id, and pruning is slow")
			default:
				r.OK("P9", "it is logged and has a primary key")
			}
			x.tableColumns(ctx, r, t, rows[0][2])
		})
	}
}

// tableColumns is P10: every column that the file names is there.
func (x *examination) tableColumns(ctx context.Context, r *doctor.Report, t table, oid string) {
	rows, err := queryRows(ctx, x.pg, "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid = "+oid)
	if err != nil {
		r.Skip("P10", "%v", err)
		return
	}
	var have, missing []string
	for _, row := range rows {
		have = append(have, row[0])
	}
	for _, c := range x.columns[t.given] {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		r.Fail("P10", "correct `columns` of the table in the file, or the table", "columns %s are missing; it has %s", strings.Join(missing, ", "), strings.Join(have, ", "))
		return
	}
	r.OK("P10", "the %d columns that are used are there", len(x.columns[t.given]))
}

// publication is P7 and P8.
func (x *examination) publication(ctx context.Context) {
	name := quoteIdent(x.s.o.Publication)
	rows, err := queryRows(ctx, x.pg, "SELECT pubinsert, oid, age(xmin) FROM pg_publication WHERE pubname = "+quoteLiteral(x.s.o.Publication))
	switch {
	case err != nil:
		x.Skip("P7", "%v", err)
		return
	case len(rows) == 0:
		x.missing("P7", "publication "+name)
		return
	case rows[0][0] != "t":
		x.Fail("P7", "ALTER PUBLICATION "+name+" SET (publish = 'insert, update, truncate')", "publication %s does not publish inserts", name)
	}
	tables, err := queryRows(ctx, x.pg, `SELECT schemaname, tablename, coalesce(to_jsonb(t)->>'rowfilter', ''), coalesce(to_jsonb(t)->'attnames', '[]')::text
		FROM pg_publication_tables t WHERE pubname = `+quoteLiteral(x.s.o.Publication))
	if err != nil {
		x.Skip("P7", "%v", err)
		return
	}
	for _, t := range x.s.tables {
		i := slices.IndexFunc(tables, func(r []string) bool { return r[0] == t.schema && r[1] == t.name })
		switch {
		case i < 0:
			x.Fail("P7", "ALTER PUBLICATION "+name+" ADD TABLE "+t.sql(), "publication %s does not publish table %s", name, t.given)
		case tables[i][2] != "":
			x.Warn("P7", "ALTER PUBLICATION "+name+" SET TABLE "+t.sql(), "publication %s has a row filter on %s (%s): rows that it leaves out are never published", name, t.given, tables[i][2])
		default:
			x.hidden(name, t, tables[i][3])
		}
	}
	x.younger(ctx, name)
}

// hidden is the part of P7 about column lists (PostgreSQL 15 and newer; before there are none).
func (x *examination) hidden(publication string, t table, attnames string) {
	if attnames != "[]" {
		for _, c := range x.columns[t.given] {
			if !strings.Contains(attnames, `"`+c+`"`) {
				x.Fail("P7", "ALTER PUBLICATION "+publication+" SET TABLE "+t.sql(), "publication %s leaves out column %s of %s, which is used", publication, c, t.given)
				return
			}
		}
	}
	x.OK("P7", "publication %s publishes the rows of %s", publication, t.given)
}

// younger is P8: what the slot has yet to send was written while the publication was as it is.
func (x *examination) younger(ctx context.Context, publication string) {
	row, err := queryRow(ctx, x.pg, `SELECT min(least(age(p.xmin), coalesce(age(r.xmin), age(p.xmin)))), (SELECT age(catalog_xmin) FROM pg_replication_slots WHERE slot_name = `+quoteLiteral(x.s.o.Slot)+`)
		FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = `+quoteLiteral(x.s.o.Publication))
	switch {
	case err != nil:
		x.Skip("P8", "%v", err)
	case row[1] == "":
		x.Skip("P8", "there is no slot yet")
	case ageOf(row[0]) < ageOf(row[1]):
		x.Warn("P8", "rows inserted before the change: `outrelay source repair "+string(x.s.o.Name)+" --from-table`", "publication %s was made or changed after what the slot has yet to send: rows written before that are not in the stream", publication)
	default:
		x.OK("P8", "the publication is older than what the slot has yet to send")
	}
}

// theSlot is P11.
func (x *examination) theSlot(ctx context.Context) {
	sl, err := x.s.readSlot(ctx, x.pg)
	if err != nil {
		x.Skip("P11", "%v", err)
		return
	}
	if sl == nil {
		x.missing("P11", "replication slot "+x.s.o.Slot)
		return
	}
	x.slot = sl
	name, ok := "replication slot "+x.s.o.Slot, true
	if sl.SlotType != "logical" || sl.Plugin != "pgoutput" || sl.Database != x.srv.database {
		x.Fail("P11", "choose another `slot`, or correct the database in the connection string", "%s is %s, plugin %q, database %q; needed is a logical one of pgoutput in %q", name, sl.SlotType, sl.Plugin, sl.Database, x.srv.database)
		ok = false
	}
	if sl.WALStatus == "lost" || sl.InvalidationReason != "" || sl.Conflicting {
		reason := sl.InvalidationReason
		if reason == "" {
			reason = "wal_status " + sl.WALStatus
		}
		x.Fail("P11", x.s.waysOut(), "%s was invalidated by the server (%s): what it had yet to send cannot be read any more", name, reason)
		ok = false
	}
	if sl.Temporary {
		x.Fail("P11", "drop it and run `outrelay init`", "%s is temporary: it ends with its session", name)
		ok = false
	}
	if sl.Active {
		holder, err := queryRows(ctx, x.pg, fmt.Sprintf("SELECT application_name, coalesce(client_addr::text, 'local'), backend_start FROM pg_stat_activity WHERE pid = %d", sl.ActivePID))
		if err == nil && len(holder) == 1 && !strings.HasPrefix(holder[0][0], "outrelay "+string(x.s.o.Name)) {
			x.Fail("P11", fmt.Sprintf("end it: SELECT pg_terminate_backend(%d); or choose another `slot`", sl.ActivePID), "%s is held by pid %d (%q) from %s since %s: not by this source", name, sl.ActivePID, holder[0][0], holder[0][1], holder[0][2])
			ok = false
		}
	}
	if ok {
		x.OK("P11", "%s is fit, wal_status %s", name, sl.WALStatus)
	}
}

// missing says that something is not there: before `init` that is as it should be.
func (x *examination) missing(id, what string) {
	x.Warn(id, "run `outrelay init "+string(x.s.o.Name)+"`, or start outrelay, which does the same", "%s does not exist", what)
}

// position is P12: server, slot and the position in the log fit together.
func (x *examination) position(ctx context.Context, at outrelay.Position) {
	switch {
	case at.IsZero():
		x.Skip("P12", "the log's position is not known: it is not reached, or holds none yet")
		return
	case !x.walks || x.srv.standby:
		x.Skip("P12", "it takes a replication connection to a primary")
		return
	}
	place, err := ParsePlace(at)
	if id, ierr := pglogrepl.IdentifySystem(ctx, x.pg); ierr == nil {
		x.srv.walEnd = LSN(id.XLogPos) // it was read before the position, which may have moved since
	}
	if err == nil {
		err = x.s.checkIdentity(ctx, x.pg, x.srv, place)
	}
	if err == nil {
		err = x.confirmed(place)
	}
	var e *outrelay.Error
	switch {
	case err == nil:
		x.OK("P12", "the position %s fits the server and the slot", place)
	case errors.As(err, &e):
		x.Fail("P12", e.Fix, "%s [%s]", e.Cause, e.Code)
	default:
		x.Skip("P12", "%v", err)
	}
}

// confirmed refuses a slot that is confirmed beyond the position, or not there.
func (x *examination) confirmed(at Place) error {
	if x.slot == nil {
		return x.s.lost("slot-missing", "the log holds a position, and the slot does not exist: dropped, or a failover to a server without it", at, x.srv.walEnd, nil)
	}
	lsn, err := pgoutput.ParseLSN(x.slot.ConfirmedFlushLSN)
	if err == nil && lsn > at.LSN {
		return x.s.lost("slot-ahead", fmt.Sprintf("the slot was confirmed up to %s, beyond the position: dropped and created again, or used by somebody else", lsn), at, lsn, nil)
	}
	return nil
}
