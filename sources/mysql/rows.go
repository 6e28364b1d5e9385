package mysql

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

// rowsEvent is a kind of rows event.
type rowsEvent struct {
	op                  string // "" is an insert
	version2, twoImages bool
	compressed          bool
	partial             bool // the second image holds changes of JSON, whose length is theirs
}

// rowsEvents are the kinds that servers of today write: version 1 is MariaDB's, 2 MySQL's.
var rowsEvents = map[replication.EventType]rowsEvent{
	replication.WRITE_ROWS_EVENTv1:                      {},
	replication.UPDATE_ROWS_EVENTv1:                     {op: "UPDATE", twoImages: true},
	replication.DELETE_ROWS_EVENTv1:                     {op: "DELETE"},
	replication.WRITE_ROWS_EVENTv2:                      {version2: true},
	replication.UPDATE_ROWS_EVENTv2:                     {op: "UPDATE", version2: true, twoImages: true},
	replication.DELETE_ROWS_EVENTv2:                     {op: "DELETE", version2: true},
	replication.PARTIAL_UPDATE_ROWS_EVENT:               {op: "UPDATE", version2: true, twoImages: true, partial: true},
	replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:  {compressed: true},
	replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1: {op: "UPDATE", twoImages: true, compressed: true},
	replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1: {op: "DELETE", compressed: true},
}

// tableMap takes note of which table a number means until the transaction ends. Of a table that is no outbox nothing more is looked at.
func (st *stream) tableMap(event []byte) error {
	body := event[binlog.HeaderBytes:]
	id, err := binlog.TableID(body)
	if err != nil {
		return err
	}
	database, name, ok := tableName(body)
	if !ok {
		return fmt.Errorf("table map of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	key := st.tableKey(database, name)
	given, wanted := st.wanted[key]
	if !wanted {
		st.tables[id] = nil
		return nil
	}
	const numbered = 6 // what follows the number is the same as long as the table is
	if rel := st.known[key]; rel != nil && bytes.Equal(rel.raw, body[numbered:]) {
		st.tables[id] = rel
		return nil
	}
	e, err := st.parse(event)
	if err != nil {
		return err
	}
	m, ok := e.Event.(*replication.TableMapEvent)
	if !ok {
		return fmt.Errorf("table map: %w", binlog.ErrMalformed)
	}
	rel, err := st.newRelation(given, database, name, m)
	if err != nil {
		return fmt.Errorf("table %s: %w", given, err)
	}
	rel.raw = bytes.Clone(body[numbered:])
	st.known[key], st.tables[id] = rel, rel
	return nil
}

// tableName reads database and table of a table map: number and flags, then two names with their lengths before and zeros behind them.
func tableName(body []byte) (database, name string, ok bool) {
	cut := func() (string, bool) {
		if len(body) < 1 || len(body) < int(body[0])+2 {
			return "", false
		}
		s := string(body[1 : 1+body[0]])
		body = body[int(body[0])+2:]
		return s, true
	}
	if len(body) < 8 {
		return "", "", false
	}
	body = body[8:]
	if database, ok = cut(); ok {
		name, ok = cut()
	}
	return database, name, ok
}

func (st *stream) newRelation(given, database, name string, m *replication.TableMapEvent) (*relation, error) {
	var native map[string]string
	var lookErr error
	t, err := binlog.NewTable(m, binlog.Server{
		Charset: func(collation uint64) string { return st.charsets[collation] },
		Native: func(column string) string {
			if native == nil && lookErr == nil && st.srv.flavor == MariaDB {
				native, lookErr = st.src.nativeTypes(st.stop, database, name)
			}
			return native[column]
		},
	})
	if lookErr != nil {
		return nil, lookErr
	}
	if err != nil {
		return nil, err
	}
	columns, types := t.Columns()
	return &relation{name: given, table: t, schema: outrelay.NewSchema(given, columns, types)}, nil
}

// nativeTypes asks MariaDB which columns of a table are of a type that its binlog holds as BINARY. The answer is of now: a column that was BINARY when a row was
// written and is a uuid since is taken for a uuid.
func (s *Source) nativeTypes(stop <-chan struct{}, database, name string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupWait)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.hangUp()
	rows, err := c.rows(ctx, "SELECT COLUMN_NAME AS name, DATA_TYPE AS type FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? "+
		"AND DATA_TYPE IN ('uuid', 'inet6', 'inet4')", database, name)
	if err != nil {
		return nil, s.classify("information_schema.COLUMNS", err)
	}
	native := map[string]string{}
	for _, r := range rows {
		native[r["name"]] = r["type"]
	}
	return native, nil
}

// lookupWait bounds the question for a table's types.
const lookupWait = 30 * time.Second

// rows handles a rows event.
func (st *stream) rows(ev rowsEvent, body []byte) error {
	id, err := binlog.TableID(body)
	if err != nil {
		return err
	}
	rel, mapped := st.tables[id]
	if !mapped {
		return fmt.Errorf("rows of table number %d, which nothing maps: %w", id, binlog.ErrMalformed)
	}
	if rel == nil || st.txn.skip == skipAll {
		return nil
	}
	if !st.txn.open {
		return fmt.Errorf("rows outside of a transaction: %w", binlog.ErrMalformed)
	}
	if ev.partial {
		st.ignored(rel.name, ev.op, 1)
		return nil
	}
	rows, err := binlog.ParseRows(body, ev.version2, ev.twoImages, ev.compressed, st.src.o.MaxRowBytes)
	if err != nil {
		return fmt.Errorf("table %s: %w", rel.name, err)
	}
	if ev.op != "" {
		n, err := rows.Count(rel.table)
		if err != nil {
			return fmt.Errorf("table %s, %s: %w", rel.name, ev.op, err)
		}
		st.ignored(rel.name, ev.op, n)
		return nil
	}
	return st.inserts(rel, &rows)
}

// inserts makes events of the rows.
func (st *stream) inserts(rel *relation, rows *binlog.RowsBody) error {
	refuse := func(code, cause, fix string) error {
		return st.src.fail(outrelay.ErrDataHalt, code, fmt.Sprintf("table %s, transaction %s at %s:%d: %s", rel.name, st.txn.stamp.ID, st.file, st.pos, cause), fix+"; "+st.src.waysOut(), nil)
	}
	switch {
	case st.txn.xa:
		return refuse("xa", "the row was inserted in an XA transaction, which the binlog shows when it is prepared, not when it is committed", "insert outbox rows in ordinary transactions")
	case !rows.Full():
		return refuse("row-image", "the row lacks columns: its session had set binlog_row_image to MINIMAL or NOBLOB", "keep sessions from setting it")
	case !st.half.ID.IsZero():
		return st.vanished()
	}
	for rows.More() {
		if st.txn.ordinal < st.txn.skip { // an earlier stream has yielded it
			if err := rows.Skip(rel.table); err != nil {
				return fmt.Errorf("table %s, transaction %s: %w", rel.name, st.txn.stamp.ID, err)
			}
			st.txn.ordinal++
			continue
		}
		// A part is closed when another event follows, so that the last part is never empty.
		if st.b.bytes >= int64(st.src.o.MaxPartBytes) {
			if err := st.yield(false); err != nil {
				return err
			}
		}
		if err := st.b.add(rel, rows, st.txn.ordinal); err != nil {
			return fmt.Errorf("table %s, transaction %s: %w", rel.name, st.txn.stamp.ID, err)
		}
		st.txn.ordinal++
	}
	return nil
}

// ignored counts changes of an outbox table that are no events, and reports the first of their kind. Deletes are what services do to
// rows that they inserted: they are counted in silence.
func (st *stream) ignored(table, op string, n int) {
	if st.txn.skip == skipAll {
		return
	}
	if st.src.metrics.Ignore(table, op, n) && op != "DELETE" {
		st.src.log.Warn("a change of the outbox table that is no event is ignored; from now on it is only counted", "table", table, "op", op, "transaction", st.txn.stamp.ID.String())
	}
}
