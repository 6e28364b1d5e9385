package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// meaning is what an error number says about a batch, and what to do about it.
type meaning struct {
	kind   sqlsink.Kind
	broken bool // the session is of no more use
	fix    string
}

// Errors that are decided by.
const (
	errorDeadlock   = 1213 // InnoDB has rolled the transaction back
	errorRolledBack = 3101 // group replication has
	errorNotMoved   = 1690 // see raiseUnlessMoved
	errorDuplicate  = 1062
	errorNoTable    = 1146
	errorNoSelect   = 1142 // what an account without any privilege on a table is told, there or not
)

// meanings are the errors that are no record's fault (the servers' lists of errors; numbers from 1900 are MariaDB's, from 3000 MySQL's).
var meanings = map[uint16]meaning{
	errorDeadlock:   {kind: sqlsink.KindConflict},
	errorRolledBack: {kind: sqlsink.KindConflict},

	1205: {kind: sqlsink.KindConflict, fix: "see who holds the lock: select * from information_schema.innodb_trx"},
	1020: {kind: sqlsink.KindConflict}, // innodb_snapshot_isolation
	1317: {kind: sqlsink.KindConflict}, // KILL QUERY
	1637: {kind: sqlsink.KindConflict}, // too many transactions
	1969: {kind: sqlsink.KindConflict, fix: "raise max_statement_time"},
	3024: {kind: sqlsink.KindConflict, fix: "raise max_execution_time"},
	3572: {kind: sqlsink.KindConflict}, // NOWAIT

	1040: {sqlsink.KindTransient, true, "raise max_connections"},
	1203: {sqlsink.KindTransient, true, "raise max_user_connections"},
	1226: {sqlsink.KindTransient, true, "raise the account's resource limits"},
	1047: {sqlsink.KindTransient, true, "the node is not part of its cluster's primary component"},
	1053: {sqlsink.KindTransient, true, ""}, 1077: {sqlsink.KindTransient, true, ""}, 1079: {sqlsink.KindTransient, true, ""}, // shutting down
	1152: {sqlsink.KindTransient, true, ""}, 1158: {sqlsink.KindTransient, true, ""}, 1159: {sqlsink.KindTransient, true, ""}, 1160: {sqlsink.KindTransient, true, ""}, 1161: {sqlsink.KindTransient, true, ""}, // network
	1927: {sqlsink.KindTransient, true, ""}, 4031: {sqlsink.KindTransient, true, ""}, // the connection was ended
	1153: {sqlsink.KindTransient, true, "raise max_allowed_packet"},
	1290: {sqlsink.KindTransient, true, "the server is read-only: point the connection at the primary"},
	1836: {sqlsink.KindTransient, true, "the server is read-only: point the connection at the primary"},
	1792: {sqlsink.KindTransient, true, "transactions are read-only here: point the connection at the primary"},
	3032: {sqlsink.KindTransient, true, "the server is in offline mode"},

	1021: {sqlsink.KindTransient, false, "free space on the server's disk"},
	1114: {sqlsink.KindTransient, false, "free space on the server's disk, or raise the tablespace's limit"},
	1030: {kind: sqlsink.KindTransient}, 1037: {kind: sqlsink.KindTransient}, 1038: {kind: sqlsink.KindTransient}, 1041: {kind: sqlsink.KindTransient}, 1135: {kind: sqlsink.KindTransient}, // memory, threads
	1197: {sqlsink.KindTransient, false, "raise max_binlog_cache_size, or make batch.records smaller"},
	1206: {sqlsink.KindTransient, false, "raise innodb_buffer_pool_size, or make batch.records smaller"},
	1412: {kind: sqlsink.KindTransient}, 1615: {kind: sqlsink.KindTransient}, // a table was altered meanwhile
	1665: {sqlsink.KindTransient, false, "set binlog_format = ROW (or MIXED)"},

	1044:          {sqlsink.KindTransient, false, "grant the account the database"},
	1045:          {sqlsink.KindTransient, true, "check user and password"},
	1049:          {sqlsink.KindTransient, false, "create the database"},
	errorNoSelect: {sqlsink.KindTransient, false, "grant the account what its handlers do, and select, insert, update, delete on outrelay_offsets"},
	1143:          {sqlsink.KindTransient, false, "grant the account the column"},
	1227:          {sqlsink.KindTransient, false, "grant the account the privilege"},
	1370:          {sqlsink.KindTransient, false, "grant execute on the routine"},
	errorNoTable:  {kind: sqlsink.KindTransient}, 1054: {kind: sqlsink.KindTransient}, 1305: {kind: sqlsink.KindTransient}, 1356: {kind: sqlsink.KindTransient}, // a table, column, function is missing
}

// recordFixes are hints for errors that are a record's.
var recordFixes = map[uint16]string{
	1366: "the column's type or character set cannot hold the value; for text of every kind use character set utf8mb4",
	1406: "the column is too short for the value",
	3140: "to put a field into a JSON column write json_extract(:payload, '$.field')",
	1301: "raise max_allowed_packet",
}

// kindOf decides by the error's number. broken: the session is of no more use.
func kindOf(e *mysql.MySQLError) (k sqlsink.Kind, broken bool) {
	if m, ok := meanings[e.Number]; ok {
		return m.kind, m.broken
	}
	if e.Number < 1016 { // the server's own files
		return sqlsink.KindTransient, false
	}
	return sqlsink.KindRecord, false
}

// serverText is a server's error for people: its message, its number, and what to do.
func serverText(e *mysql.MySQLError) error {
	text := fmt.Sprintf("%s (error %d, SQLSTATE %s)", e.Message, e.Number, e.SQLState[:])
	fix := recordFixes[e.Number]
	if m, ok := meanings[e.Number]; ok {
		fix = m.fix
	}
	if fix != "" {
		text += "; " + fix
	}
	return &sqlsink.ServerError{Text: text, Err: e}
}

// classified gives an error outside of a batch its class, where it has none.
func classified(what string, err error) error {
	if err == nil || sqlsink.IsClassified(err) {
		return err
	}
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return sqlsink.Unavailable(what, err)
	}
	if k, _ := kindOf(e); k == sqlsink.KindConflict {
		return sqlsink.Conflict(what, serverText(e))
	}
	return sqlsink.Unavailable(what, serverText(e))
}

// connectError is an error of a reconnect: whatever it is, the sink worked before, so it is waited out.
func connectError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		err = serverText(e)
	}
	return sqlsink.Unavailable("connection", err)
}

// openError is an error of the first connection: what an operator must mend has its class, the rest is waited out.
func openError(err error) error {
	var own *outrelay.Error
	if errors.As(err, &own) {
		return err
	}
	var e *mysql.MySQLError
	if errors.As(err, &e) && slices.Contains([]uint16{1044, 1045, 1049, 1142, 1227, 1698, 1862}, e.Number) {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-refused", Place: "sink", Err: serverText(e)}
	}
	return connectError(err)
}
