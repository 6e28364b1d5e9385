package mysql

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/klauspost/compress/zstd"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

// errStopped: Close was called.
var errStopped = errors.New("stopped")

// reader is what belongs to the reader goroutine.
type reader struct {
	outboxes []table
	wanted   map[string]string // their names in Options.Tables, by tableKey
	fold     bool              // names of tables are the same in any case

	parser   *replication.BinlogParser // of the events that come seldom; it is given them without checksums
	checksum bool                      // events have one
	inner    []byte                    // an event within a compressed transaction
	zstd     *zstd.Decoder             // nil before the first

	file string // where the event under way stands
	pos  uint64 // and where it ends

	tables map[uint64]*relation // of the transaction under way, by the numbers of its table maps; nil for those that are no outbox
	known  map[string]*relation // the newest version of each outbox table, by tableKey
	b      builder
	txn    txnState
	again  Stamp // the position's last transaction, should it be sent again; zero once it was
	half   Stamp // the transaction that an earlier stream has yielded in part; zero once it was met
	done   int   // how much of it

	received     int // bytes not yet counted
	warnedFormat bool
}

func newReader(tables []table, srv server, at Place) reader {
	r := reader{outboxes: tables, wanted: map[string]string{}, fold: srv.foldCase, parser: replication.NewBinlogParser(), file: at.File, pos: at.Pos,
		tables: map[uint64]*relation{}, known: map[string]*relation{}, again: at.Last}
	r.parser.SetFlavor(string(srv.flavor))
	if at.Done > 0 {
		r.half, r.done = at.Txn, at.Done
	}
	for _, t := range tables {
		r.wanted[r.tableKey(t.database, t.name)] = t.given
	}
	return r
}

func (r *reader) tableKey(database, name string) string {
	if r.fold {
		database, name = strings.ToLower(database), strings.ToLower(name)
	}
	return database + "\x00" + name
}

// read is the reader goroutine: it decodes the stream into the queue until the connection ends.
func (st *stream) read() {
	defer st.wg.Done()
	defer close(st.readDone)
	defer st.d.close()
	err := st.readAll()
	if st.zstd != nil {
		st.zstd.Close()
	}
	st.drained()
	if !errors.Is(err, errStopped) {
		st.q.fail(st.readError(err))
	}
}

// drained is called when all that was received is decoded.
func (st *stream) drained() {
	st.src.metrics.Bytes.Add(float64(st.received))
	st.received = 0
	st.q.announce()
}

func (st *stream) readAll() error {
	for {
		event, err := st.d.next()
		if err != nil {
			return err
		}
		st.received += len(event)
		if err := st.event(event); err != nil {
			return err
		}
	}
}

// readError gives what ended the reader its class.
func (st *stream) readError(err error) error {
	s := st.src
	halt := func(code, fix string) error {
		return s.fail(outrelay.ErrDataHalt, code, fmt.Sprintf("after %s, at %s:%d", st.placeText(), st.file, st.pos), fix, err)
	}
	switch {
	case errors.Is(err, binlog.ErrTooLarge):
		return halt("row-too-large", "raise the source's row limit, or "+s.waysOut())
	case errors.Is(err, binlog.ErrUnsupported):
		return halt("column-unsupported", "docs/sources has the types that are read; change the column's, or "+s.waysOut())
	case errors.Is(err, binlog.ErrNoMetadata):
		return halt("row-metadata", "this part of the binlog was written while binlog_row_metadata was not FULL, so what its columns are called is unknown; "+s.waysOut())
	case errors.Is(err, binlog.ErrMalformed):
		return halt("stream-malformed", "this is a fault of the server, of outrelay, or of something between them; the position is unchanged")
	}
	return st.streamError(err)
}

// event checks an event as the server sent it, and handles it.
func (st *stream) event(event []byte) error {
	h, err := binlog.ParseHeader(event)
	if err != nil {
		return err
	}
	st.moveTo(h)
	artificial := h.Flags&replication.LOG_EVENT_ARTIFICIAL_F != 0 || h.Type == byte(replication.ROTATE_EVENT)
	switch {
	case h.Type == byte(replication.FORMAT_DESCRIPTION_EVENT):
		return st.format(event)
	case artificial && binlog.ChecksumFits(event): // what the server makes up may come before the format
		event = event[:len(event)-binlog.ChecksumBytes]
	case artificial || !st.checksum:
	case !binlog.ChecksumFits(event):
		return fmt.Errorf("event of type %d: checksum: %w", h.Type, binlog.ErrMalformed)
	default:
		event = event[:len(event)-binlog.ChecksumBytes]
	}
	return st.handle(h, event)
}

// moveTo takes note of where the event ends. Files larger than 4 GiB wrap the number around.
func (st *stream) moveTo(h binlog.Header) {
	switch replication.EventType(h.Type) {
	case replication.HEARTBEAT_EVENT, replication.HEARTBEAT_LOG_EVENT_V2, replication.FORMAT_DESCRIPTION_EVENT, replication.ROTATE_EVENT:
		return
	}
	switch {
	case h.Flags&replication.LOG_EVENT_ARTIFICIAL_F != 0:
	case h.LogPos == 0: // MariaDB 11.4 and newer, within a transaction
		st.pos += uint64(h.Size)
	default:
		pos := st.pos&^0xffffffff | uint64(h.LogPos)
		if pos < st.pos {
			pos += 1 << 32
		}
		st.pos = pos
	}
}

// format reads how the events of this file are made up. The parser is given it without the checksum's kind, as events are given to it without checksums.
func (st *stream) format(event []byte) error {
	n := len(event) - binlog.ChecksumBytes - 1
	if n < binlog.HeaderBytes+57 {
		return fmt.Errorf("format of %d bytes: %w", len(event), binlog.ErrMalformed)
	}
	switch event[n] {
	case byte(replication.BINLOG_CHECKSUM_ALG_OFF):
		st.checksum = false
	case byte(replication.BINLOG_CHECKSUM_ALG_CRC32):
		st.checksum = true
		if !binlog.ChecksumFits(event) {
			return fmt.Errorf("format: checksum: %w", binlog.ErrMalformed)
		}
	default:
		return fmt.Errorf("checksums of kind %d: %w", event[n], binlog.ErrMalformed)
	}
	event = bytes.Clone(event)
	event[n] = byte(replication.BINLOG_CHECKSUM_ALG_OFF)
	_, err := st.parse(event)
	return err
}

// parse gives an event, without its checksum, to go-mysql, whose decoders trust lengths.
func (st *stream) parse(event []byte) (e *replication.BinlogEvent, err error) {
	defer func() {
		if p := recover(); p != nil {
			e, err = nil, fmt.Errorf("event of type %d: %v: %w", event[4], p, binlog.ErrMalformed)
		}
	}()
	event = bytes.Clone(event)
	binary.LittleEndian.PutUint32(event[9:], uint32(len(event)))
	if e, err = st.parser.Parse(event); err != nil {
		return nil, fmt.Errorf("event of type %d: %w: %w", event[4], binlog.ErrMalformed, err)
	}
	return e, nil
}

// handle handles an event, which has no checksum any more.
func (st *stream) handle(h binlog.Header, event []byte) error {
	body := event[binlog.HeaderBytes:]
	switch typ := replication.EventType(h.Type); typ {
	case replication.ROTATE_EVENT:
		return st.rotate(body)
	case replication.GTID_EVENT:
		return st.gtidMySQL(body)
	case replication.GTID_TAGGED_LOG_EVENT:
		return st.gtidTagged(event)
	case replication.MARIADB_GTID_EVENT:
		return st.gtidMariaDB(h, body)
	case replication.ANONYMOUS_GTID_EVENT:
		return st.src.fail(outrelay.ErrDataHalt, "gtid-mode", fmt.Sprintf("after %s the binlog holds a transaction without an id, at %s:%d", st.placeText(), st.file, st.pos),
			"turn gtid_mode = ON; "+st.src.waysOut(), nil)
	case replication.QUERY_EVENT, replication.MARIADB_QUERY_COMPRESSED_EVENT, replication.EXECUTE_LOAD_QUERY_EVENT:
		return st.query(typ, body)
	case replication.TABLE_MAP_EVENT:
		return st.tableMap(event)
	case replication.XID_EVENT:
		return st.commit()
	case replication.XA_PREPARE_LOG_EVENT:
		return st.commit() // its rows were refused, where it had any of ours
	case replication.TRANSACTION_PAYLOAD_EVENT:
		return st.payload(body)
	case replication.INCIDENT_EVENT:
		return st.incident(body)
	default:
		if op, ok := rowsEvents[typ]; ok {
			return st.rows(op, body)
		}
		if !harmless[typ] && h.Flags&replication.LOG_EVENT_IGNORABLE_F == 0 {
			return fmt.Errorf("event of unknown type %d, which begins %x: %w", h.Type, body[:min(len(body), 16)], binlog.ErrMalformed)
		}
	}
	return nil
}

// harmless are the events that say nothing of rows.
var harmless = map[replication.EventType]bool{
	replication.STOP_EVENT: true, replication.INTVAR_EVENT: true, replication.RAND_EVENT: true, replication.USER_VAR_EVENT: true,
	replication.BEGIN_LOAD_QUERY_EVENT: true, replication.APPEND_BLOCK_EVENT: true, replication.DELETE_FILE_EVENT: true,
	replication.HEARTBEAT_EVENT: true, replication.HEARTBEAT_LOG_EVENT_V2: true, replication.IGNORABLE_EVENT: true, replication.ROWS_QUERY_EVENT: true,
	replication.PREVIOUS_GTIDS_EVENT: true, replication.TRANSACTION_CONTEXT_EVENT: true, replication.VIEW_CHANGE_EVENT: true,
	replication.MARIADB_ANNOTATE_ROWS_EVENT: true, replication.MARIADB_BINLOG_CHECKPOINT_EVENT: true, replication.MARIADB_GTID_LIST_EVENT: true,
	replication.MARIADB_START_ENCRYPTION_EVENT: true,
}

// rotate takes the name of the file that follows, which is a name and no path.
func (st *stream) rotate(body []byte) error {
	if len(body) < 9 {
		return fmt.Errorf("rotate of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	name := string(body[8:])
	if !plainName(name) {
		return fmt.Errorf("rotate to %.80q: %w", name, binlog.ErrMalformed)
	}
	st.file, st.pos = name, binary.LittleEndian.Uint64(body)
	return nil
}

// incident is the halt for what a server says of itself: that events may be missing from its binlog.
func (st *stream) incident(body []byte) error {
	text := ""
	if len(body) > 3 && int(body[2]) <= len(body)-3 {
		text = string(body[3 : 3+int(body[2])])
	}
	return st.src.fail(outrelay.ErrPositionLost, "incident", fmt.Sprintf("the server reports an incident in its binlog at %s:%d (%q): transactions that committed after %s may be missing from it",
		st.file, st.pos, text, st.placeText()), st.src.waysOut(), nil)
}
