package mysql

import (
	"encoding/binary"
	"fmt"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

// query handles what the binlog holds as text: where transactions begin and end, DDL, and statements that a session had logged as such.
func (st *stream) query(typ replication.EventType, body []byte) error {
	database, sql, err := queryText(typ, body, st.src.o.MaxRowBytes)
	if err != nil {
		return err
	}
	s := parseStatement(sql)
	if !st.txn.open {
		return nil // a server writes such without an id when it starts
	}
	switch s.verb {
	case verbBegin:
		st.txn.begun = true
		return nil
	case verbXAStart:
		st.txn.begun, st.txn.xa = true, true
		return nil
	case verbCommit, verbXADone:
		return st.commit()
	case verbRollback:
		if err := st.rollbackTo(0); err != nil {
			return err
		}
		return st.commit()
	case verbSavepoint:
		if st.txn.savepoints == nil {
			st.txn.savepoints = map[string]int{}
		}
		st.txn.savepoints[s.name] = st.txn.ordinal
		return nil
	case verbRollbackTo:
		return st.rollbackTo(st.txn.savepoints[s.name])
	case verbTruncate:
		if s.database == "" {
			s.database = database
		}
		if given, ok := st.wanted[st.tableKey(s.database, s.name)]; ok {
			st.ignored(given, "TRUNCATE", 1)
		}
	case verbInsert, verbChange:
		if err := st.asStatement(s.verb, database, sql); err != nil {
			return err
		}
	}
	if !st.txn.begun { // a single statement is a transaction of its own
		return st.commit()
	}
	return nil
}

// asStatement (B63) halts where rows were inserted into an outbox by a statement that was logged as text. Of other tables' statements nothing is known: their
// triggers may insert too.
func (st *stream) asStatement(v verb, database, sql string) error {
	if st.txn.skip == skipAll {
		return nil
	}
	for _, t := range st.outboxes {
		if !mentions(sql, t.name) || database != t.database && !mentions(sql, t.database) {
			continue
		}
		if v == verbChange {
			st.ignored(t.given, "UPDATE", 1)
			return nil
		}
		return st.src.fail(outrelay.ErrDataHalt, "statement-format", fmt.Sprintf("table %s, transaction %s at %s:%d: rows were inserted by a statement that the binlog holds as text (%.80q): its session had set binlog_format",
			t.given, st.txn.stamp.ID, st.file, st.pos, sql), "keep sessions from setting binlog_format; "+st.src.waysOut(), nil)
	}
	if !st.warnedFormat {
		st.warnedFormat = true
		st.src.log.Warn("the binlog holds a statement as text: if a trigger of its table inserts into an outbox, those rows are not seen", "transaction", st.txn.stamp.ID.String(), "statement", fmt.Sprintf("%.80q", sql))
	}
	return nil
}

// queryText reads a query event: the thread, how long it took, the length of the database's name, an error number, the length of the status variables;
// then these, the name, a zero, and the text.
func queryText(typ replication.EventType, body []byte, bytesMax int) (database, sql string, err error) {
	fixed := 4 + 4 + 1 + 2 + 2
	if len(body) < fixed {
		return "", "", fmt.Errorf("query of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	name, vars := int(body[8]), int(binary.LittleEndian.Uint16(body[11:]))
	if typ == replication.EXECUTE_LOAD_QUERY_EVENT {
		fixed += 4 + 4 + 4 + 1 // of the file that was loaded
	}
	from := fixed + vars
	if len(body) < from+name+1 {
		return "", "", fmt.Errorf("query of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	database = string(body[from : from+name])
	text := body[from+name+1:]
	if typ == replication.MARIADB_QUERY_COMPRESSED_EVENT {
		if text, err = binlog.Inflate(text, bytesMax); err != nil {
			return "", "", err
		}
	}
	return database, string(text), nil
}
