package mysql

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/gtid"
)

// binlogEnd is where a server's binlog ends.
type binlogEnd struct {
	file     string
	pos      uint64
	executed History // everything up to there
}

// endQuery returns the statement that says where the binlog ends, and which databases are left out of it.
func endQuery(srv server) string {
	switch {
	case srv.flavor == MySQL && srv.number >= 804:
		return "SHOW BINARY LOG STATUS" // the old name is gone
	case srv.flavor == MariaDB:
		return "SHOW BINLOG STATUS"
	}
	return "SHOW MASTER STATUS"
}

// readEnd asks where the binlog ends. The history belongs exactly to file and place.
func (s *Source) readEnd(ctx context.Context, c *conn, srv server) (binlogEnd, error) {
	query := endQuery(srv)
	rows, err := c.rows(ctx, query)
	if err != nil {
		return binlogEnd{}, s.classify(query, err)
	}
	if len(rows) != 1 || !plainName(rows[0]["file"]) {
		return binlogEnd{}, s.fail(outrelay.ErrEnvironment, "binlog-off", "the server writes no binlog", "start it with log_bin", nil)
	}
	end := binlogEnd{file: rows[0]["file"]}
	if end.pos, err = strconv.ParseUint(rows[0]["position"], 10, 64); err != nil {
		return end, s.fail(outrelay.ErrEnvironment, "binlog-off", "the binlog ends at "+rows[0]["position"], "", nil)
	}
	text := rows[0]["executed_gtid_set"]
	if srv.flavor == MariaDB {
		if text, err = c.value(ctx, "SELECT BINLOG_GTID_POS(?, ?)", end.file, end.pos); err != nil {
			return end, s.classify("BINLOG_GTID_POS", err)
		}
	}
	if end.executed, err = ParseHistory(srv.flavor, text); err != nil {
		return end, s.fail(outrelay.ErrEnvironment, "gtid-unreadable", "the server's GTIDs are "+text, "", err)
	}
	for _, name := range []string{"binlog_do_db", "binlog_ignore_db"} {
		if rows[0][name] != "" {
			s.log.Warn("the server leaves databases out of its binlog; an outbox table among them would never be read", "option", name, "value", rows[0][name])
		}
	}
	return end, nil
}

// checkPosition (R6) refuses a server that cannot continue behind at, and returns the history to ask it for: at's own, or less, where the last transaction is sent
// again so that it can be seen to be the one that was published.
func (s *Source) checkPosition(ctx context.Context, c *conn, srv server, at *Place) (ask History, err error) {
	if srv.id != at.Server {
		s.log.Warn("the server is not the one the position was made on: a failover or a restore", "was", at.Server, "is", srv.id, "position", at.String())
	}
	if srv.flavor == MariaDB {
		return at.Executed, s.checkMaria(ctx, c, srv, at)
	}
	return s.checkMySQL(ctx, c, at)
}

func (s *Source) checkMySQL(ctx context.Context, c *conn, at *Place) (ask History, err error) {
	ours := at.Executed.String()
	published := ours
	if at.Done > 0 {
		published = strings.TrimPrefix(ours+","+at.Txn.ID.String(), ",")
	}
	rows, err := c.rows(ctx, `SELECT GTID_SUBTRACT(?, @@GLOBAL.gtid_executed) AS beyond, GTID_SUBTRACT(@@GLOBAL.gtid_purged, ?) AS gone, @@GLOBAL.gtid_executed AS executed,
		@@GLOBAL.gtid_purged AS purged`, published, ours)
	if err != nil {
		return ask, s.classify("gtid_executed", err)
	}
	if beyond := oneLine(rows[0]["beyond"]); beyond != "" {
		return ask, s.fail(outrelay.ErrPositionLost, "server-behind", fmt.Sprintf("the server has executed %q, our position holds %s: the transactions %s were published and are not there any more; "+
			"it was restored, reset, or lost its last transactions in a failover", oneLine(rows[0]["executed"]), ours, beyond), s.waysOut(), nil)
	}
	if gone := oneLine(rows[0]["gone"]); gone != "" {
		return ask, s.fail(outrelay.ErrPositionLost, "binlog-purged", fmt.Sprintf("the server has purged the transactions %s from its binlog, which have not been read (see binlog_expire_logs_seconds)", gone), s.waysOut(), nil)
	}
	ask = at.Executed
	if at.Last.ID.IsZero() {
		return ask, nil
	}
	purged, err := gtid.ParseSet(oneLine(rows[0]["purged"]))
	if err != nil {
		return ask, s.fail(outrelay.ErrEnvironment, "gtid-unreadable", "gtid_purged is "+rows[0]["purged"], "", err)
	}
	if !purged.Contains(at.Last.ID.My) {
		ask.set = at.Executed.set.Without(at.Last.ID.My)
	}
	return ask, nil
}

// oneLine takes out the line breaks that the server puts behind the commas of a set.
func oneLine(set string) string {
	h, err := ParseHistory(MySQL, set)
	if err != nil {
		return set
	}
	return h.String()
}

// checkMaria compares the position with the server's, domain by domain, with where its oldest binlog begins, and with what stands at our place in
// the file, where it still has that file.
func (s *Source) checkMaria(ctx context.Context, c *conn, srv server, at *Place) error {
	text, err := c.value(ctx, "SELECT @@GLOBAL.gtid_binlog_pos")
	if err != nil {
		return s.classify("gtid_binlog_pos", err)
	}
	now, err := gtid.ParsePosition(text)
	if err != nil {
		return s.fail(outrelay.ErrEnvironment, "gtid-unreadable", "gtid_binlog_pos is "+text, "", err)
	}
	published := at.Executed.pos.Clone()
	if at.Done > 0 {
		published.Advance(at.Txn.ID.Maria)
	}
	for _, m := range published {
		if has := now.Of(m.Domain); has.Seq < m.Seq {
			return s.fail(outrelay.ErrPositionLost, "server-behind", fmt.Sprintf("the server's binlog ends at %q, our position is %s: the transactions of domain %d after %s up to %s were published and are not there "+
				"any more; it was restored, reset, or lost its last transactions in a failover", text, at.Executed.String(), m.Domain, orNothing(has), m), s.waysOut(), nil)
		}
	}
	logs, err := c.rows(ctx, "SHOW BINARY LOGS")
	if err != nil {
		return s.classify("SHOW BINARY LOGS", err)
	}
	kept := false
	for _, l := range logs {
		kept = kept || l["log_name"] == at.File
	}
	if len(logs) > 0 && !(kept && srv.id == at.Server) {
		if err := s.checkOldest(ctx, c, logs[0]["log_name"], at); err != nil {
			return err
		}
	}
	if !kept || srv.id != at.Server {
		return nil
	}
	there, err := c.value(ctx, "SELECT BINLOG_GTID_POS(?, ?)", at.File, at.Pos)
	if err != nil {
		return s.classify("BINLOG_GTID_POS", err)
	}
	if h, err := ParseHistory(MariaDB, there); err != nil || h.String() != at.Executed.String() {
		return s.fail(outrelay.ErrPositionLost, "history-rewritten", fmt.Sprintf("at place %d of %s the server's history is %q, when the position was made it was %q: its binlog was reset since (RESET MASTER), or it was restored; "+
			"transactions that committed since may not have been read", at.Pos, at.File, there, at.Executed.String()), s.waysOut(), nil)
	}
	return nil
}

// checkOldest compares the position with where the oldest binlog begins.
func (s *Source) checkOldest(ctx context.Context, c *conn, file string, at *Place) error {
	events, err := c.rows(ctx, "SHOW BINLOG EVENTS IN ? LIMIT 5", file)
	if err != nil {
		return s.classify("SHOW BINLOG EVENTS", err)
	}
	head := ""
	for _, e := range events {
		if e["event_type"] == "Gtid_list" { // what was written before this file
			head = e["end_log_pos"]
		}
	}
	if head == "" {
		return nil // the server itself says what it lacks
	}
	text, err := c.value(ctx, "SELECT BINLOG_GTID_POS(?, ?)", file, head)
	if err != nil {
		return s.classify("BINLOG_GTID_POS", err)
	}
	oldest, err := gtid.ParsePosition(text)
	if err != nil {
		return s.fail(outrelay.ErrEnvironment, "gtid-unreadable", "BINLOG_GTID_POS is "+text, "", err)
	}
	for _, m := range oldest {
		if has := at.Executed.pos.Of(m.Domain); has.Seq < m.Seq {
			return s.fail(outrelay.ErrPositionLost, "binlog-purged", fmt.Sprintf("the server's oldest binlog, %s, begins at %s, our position is %q: the transactions of domain %d after %s up to %s are purged and have not been read "+
				"(see binlog_expire_logs_seconds)", file, text, at.Executed.String(), m.Domain, orNothing(has), m), s.waysOut(), nil)
		}
	}
	return nil
}

func orNothing(m gtid.Maria) string {
	if m.IsZero() {
		return "nothing"
	}
	return m.String()
}

// checkTables refuses outbox tables that are not there or not transactional.
func (s *Source) checkTables(ctx context.Context, c *conn, srv server) error {
	for _, t := range s.named(srv.database) {
		rows, err := c.rows(ctx, "SELECT TABLE_TYPE AS type, ENGINE AS engine FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?", t.database, t.name)
		if err != nil {
			return s.classify("information_schema.TABLES", err)
		}
		switch {
		case len(rows) == 0 || rows[0]["type"] != "BASE TABLE":
			return s.fail(outrelay.ErrEnvironment, "table-missing", fmt.Sprintf("there is no table %s, or the user may not see it", t.given),
				"create it, correct its name, or GRANT SELECT ON "+t.sql()+" TO <user>", nil)
		case rows[0]["engine"] != "InnoDB":
			return s.fail(outrelay.ErrEnvironment, "table-engine", fmt.Sprintf("table %s is of engine %s, which keeps rows of transactions that are rolled back", t.given, rows[0]["engine"]),
				"ALTER TABLE "+t.sql()+" ENGINE = InnoDB", nil)
		}
	}
	return nil
}

// named returns the tables with the connection string's database where none was given.
func (s *Source) named(database string) []table {
	named := append([]table(nil), s.tables...)
	for i := range named {
		if named[i].database == "" {
			named[i].database = database
		}
	}
	return named
}
