package postgres

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// ageOf reads the age of a transaction id; what cannot be read is oldest.
func ageOf(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return n
}

// retention is P13 and P14: how long the server keeps WAL for a slot that does not move.
func (x *examination) retention(ctx context.Context) {
	if x.srv.standby {
		return
	}
	rate, err := x.writeRate(ctx)
	keep, known := x.number("max_slot_wal_keep_size") // MB
	switch {
	case err != nil || !known:
		x.Skip("P13", "%v", err)
	case keep < 0:
		x.Warn("P13", "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB', or less than the disk has; then SELECT pg_reload_conf()",
			"max_slot_wal_keep_size is -1: while outrelay is down the server keeps WAL until its disk is full (now %s/s)", bytesText(rate))
	case rate > 0 && float64(keep<<20)/rate < retainedMin.Seconds():
		x.Warn("P13", "ALTER SYSTEM SET max_slot_wal_keep_size to an hour's writing or more; then SELECT pg_reload_conf()",
			"max_slot_wal_keep_size is %d MB, which at the %s/s measured now is %s: an outage longer than that loses the slot", keep, bytesText(rate), x.secondsText(float64(keep<<20)/rate))
	default:
		x.OK("P13", "max_slot_wal_keep_size is %d MB, at %s/s measured now", keep, bytesText(rate))
	}
	if idle, ok := x.duration("idle_replication_slot_timeout"); ok { // PostgreSQL 18 and newer
		if idle > 0 && idle < idleTimeoutMin {
			x.Warn("P14", "ALTER SYSTEM SET idle_replication_slot_timeout = 0; then SELECT pg_reload_conf()", "idle_replication_slot_timeout is %s: an outage longer than that loses the slot", idle)
		} else {
			x.OK("P14", "idle_replication_slot_timeout is %s", idle)
		}
	}
	x.retained()
}

// retained tells how much the slot holds back now.
func (x *examination) retained() {
	if x.slot == nil {
		return
	}
	restart, err := pgoutput.ParseLSN(x.slot.RestartLSN)
	if err == nil && x.slot.WALStatus == "unreserved" {
		x.Warn("P13", "start outrelay, or raise max_slot_wal_keep_size now", "the slot is about to be lost: it needs WAL from %s on, which the server removes at its next checkpoint", restart)
	}
}

// writeRate measures how many bytes of WAL the server writes a second.
func (x *examination) writeRate(ctx context.Context) (float64, error) {
	where := func() (LSN, error) {
		row, err := queryRow(ctx, x.pg, "SELECT pg_current_wal_lsn()")
		if err != nil {
			return 0, err
		}
		return pgoutput.ParseLSN(row[0])
	}
	from, err := where()
	if err != nil {
		return 0, err
	}
	began := x.s.clock.Now()
	if err := backoff.Sleep(ctx, x.s.clock, rateOver); err != nil {
		return 0, err
	}
	to, err := where()
	return float64(to-from) / max(x.s.clock.Now().Sub(began).Seconds(), 0.001), err
}

// standbys is P15.
func (x *examination) standbys(ctx context.Context) {
	rows, err := queryRows(ctx, x.pg, "SELECT application_name FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_type = 'physical' UNION SELECT application_name FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')")
	switch {
	case err != nil:
		x.Skip("P15", "%v", err)
	case len(rows) == 0:
		x.Skip("P15", "no standby is connected")
	case x.srv.versionNum < 170000:
		x.Warn("P15", "upgrade to 17 or newer, where slots are synchronised", "there are standbys, and PostgreSQL %s cannot keep the slot over a failover: outrelay will halt there and name the gap", x.srv.version)
	case x.slot != nil && !x.slot.Failover:
		x.Warn("P15", "ALTER_REPLICATION_SLOT "+x.s.o.Slot+" (FAILOVER true), on a replication connection while outrelay is stopped", "there are standbys, and the slot is not marked for failover")
	case x.settings["synchronized_standby_slots"] == "":
		x.Warn("P15", "ALTER SYSTEM SET synchronized_standby_slots to the standbys' slots; then SELECT pg_reload_conf()", "synchronized_standby_slots is empty: what is published may be ahead of a standby that is promoted")
	default:
		x.OK("P15", "the slot is synchronised, and waits for %s", x.settings["synchronized_standby_slots"])
	}
}

// oldTransactions is P16.
func (x *examination) oldTransactions(ctx context.Context) {
	rows, err := queryRows(ctx, x.pg, `SELECT 'pid ' || pid || ' (' || application_name || ', ' || coalesce(state, '') || ')', extract(epoch FROM now() - xact_start)::bigint, 'SELECT pg_terminate_backend(' || pid || ')'
		FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND now() - xact_start > interval '`+strconv.Itoa(int(openTxnLong.Seconds()))+` seconds'
		UNION ALL SELECT 'prepared transaction ' || gid, extract(epoch FROM now() - prepared)::bigint, 'COMMIT PREPARED ' || quote_literal(gid) || ' or ROLLBACK PREPARED' FROM pg_prepared_xacts`)
	if err != nil {
		x.Skip("P16", "%v", err)
		return
	}
	for _, r := range rows {
		age, _ := strconv.ParseFloat(r[1], 64)
		x.Warn("P16", "end it if it is forgotten: "+r[2], "%s has been open for %s: a new slot would wait for it, and old WAL is kept", r[0], x.secondsText(age))
	}
	if len(rows) == 0 {
		x.OK("P16", "no transaction is open for long")
	}
}

// horizon is P17.
func (x *examination) horizon(ctx context.Context) {
	row, err := queryRow(ctx, x.pg, `SELECT coalesce(max(age(catalog_xmin)), 0), (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) FROM pg_replication_slots WHERE slot_name = `+quoteLiteral(x.s.o.Slot))
	switch {
	case err != nil:
		x.Skip("P17", "%v", err)
	case ageOf(row[0]) > catalogAgeMax:
		x.Warn("P17", "start outrelay, or drop the slot if it is of no more use", "the slot holds the catalogs back by %s transactions: vacuum cannot clean them", row[0])
	case ageOf(row[1]) > 2*catalogAgeMax:
		x.Warn("P17", "VACUUM FREEZE, and look what holds it up", "the oldest row of the database is %s transactions old", row[1])
	default:
		x.OK("P17", "the slot holds back %s transactions", row[0])
	}
}

// times is P18 and P22.
func (x *examination) times(ctx context.Context) {
	beat := x.s.o.KeepaliveInterval
	if wait, ok := x.duration("wal_sender_timeout"); ok {
		if wait > 0 && wait < keepalivesPerWait*beat {
			x.Fail("P18", "ALTER SYSTEM SET wal_sender_timeout = '60s'; then SELECT pg_reload_conf()", "wal_sender_timeout is %s: outrelay reports every %s, and would be thrown out between two reports", wait, beat)
		} else {
			x.OK("P18", "wal_sender_timeout is %s", wait)
		}
	}
	before := x.s.clock.Now()
	row, err := queryRow(ctx, x.pg, "SELECT extract(epoch FROM clock_timestamp())")
	after := x.s.clock.Now()
	if err != nil {
		x.Skip("P22", "%v", err)
		return
	}
	theirs, _ := strconv.ParseFloat(row[0], 64)
	ours := float64(before.UnixNano()+after.UnixNano()) / 2e9
	if d := math.Abs(theirs - ours); d > clockDifferMax.Seconds()+after.Sub(before).Seconds()/2 {
		x.Warn("P22", "run NTP on both machines", "the server's clock differs from this machine's by %.1f s: lag and times in headers are wrong by as much", d)
	} else {
		x.OK("P22", "the clocks agree")
	}
}

// spill is P19.
func (x *examination) spill(ctx context.Context) {
	rows, err := queryRows(ctx, x.pg, "SELECT spill_bytes, spill_txns FROM pg_stat_replication_slots WHERE slot_name = "+quoteLiteral(x.s.o.Slot))
	switch {
	case err != nil || len(rows) == 0:
		x.Skip("P19", "the server counts nothing for the slot yet")
	case ageOf(rows[0][0]) > spillBytesMax:
		x.Warn("P19", "ALTER SYSTEM SET logical_decoding_work_mem to more than the largest usual transaction; then SELECT pg_reload_conf()",
			"the server has spilled %s bytes of %s transactions to disk while decoding for the slot", rows[0][0], rows[0][1])
	default:
		x.OK("P19", "%s bytes were spilled to disk while decoding", rows[0][0])
	}
}

// secondsText writes seconds as a duration.
func (x *examination) secondsText(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

// bytesText writes a number of bytes as people read it.
func bytesText(n float64) string {
	units := []string{"B", "kB", "MB", "GB"}
	i := 0
	for n >= 1000 && i < len(units)-1 {
		n /= 1000
		i++
	}
	return strconv.FormatFloat(n, 'f', min(i, 1), 64) + " " + units[i]
}
