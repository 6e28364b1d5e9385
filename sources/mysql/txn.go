package mysql

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
	"github.com/outrelay/outrelay/sources/mysql/gtid"
)

// txnState is the transaction that the reader is in the middle of.
type txnState struct {
	open        bool
	stamp       Stamp
	committedAt time.Time
	begun       bool // BEGIN has come: a COMMIT ends it. One without is a single statement.
	xa          bool
	ordinal     int // events so far
	from        int // the first of the part under way: what lies before was yielded
	skip        int // of these, how many were yielded by an earlier stream; skipAll: all
	part        int
	savepoints  map[string]int // how many events there were
}

const skipAll = -1

// gtidMySQL reads a GTID_EVENT: flags, UUID, number, logical clock, then the time of the commit here and, where its first bit says so, where it was first made.
func (st *stream) gtidMySQL(body []byte) error {
	const fixed = 1 + 16 + 8
	if len(body) < fixed {
		return fmt.Errorf("GTID of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	id := gtid.ID{N: binary.LittleEndian.Uint64(body[17:])}
	copy(id.Server[:], body[1:17])
	if id.N == 0 || id.N >= 1<<63 {
		return fmt.Errorf("GTID number %d: %w", id.N, binlog.ErrMalformed)
	}
	const clock, micros, isOther = 1 + 8 + 8, 7, 1 << 55
	now, first := int64(0), int64(0)
	if at := fixed + clock; len(body) >= at+micros {
		now = int64(little(body[at : at+micros]))
		first = now
		if now&isOther != 0 && len(body) >= at+2*micros {
			now, first = now&^isOther, int64(little(body[at+micros:at+2*micros]))
		}
	}
	return st.begin(Stamp{TxnID{My: id}, first}, time.UnixMicro(now), false)
}

func little(b []byte) (v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// gtidTagged reads the event of an id with a tag (MySQL 8.3 and newer).
func (st *stream) gtidTagged(event []byte) error {
	e, err := st.parse(event)
	if err != nil {
		return err
	}
	g, ok := e.Event.(*replication.GtidTaggedLogEvent)
	if !ok || len(g.SID) != 16 || g.GNO < 1 {
		return fmt.Errorf("tagged GTID: %w", binlog.ErrMalformed)
	}
	id := gtid.ID{Tag: g.Tag.String(), N: uint64(g.GNO)}
	copy(id.Server[:], g.SID)
	if _, err := gtid.ParseID(id.String()); err != nil {
		return fmt.Errorf("%w: %w", binlog.ErrMalformed, err)
	}
	first := g.OriginalCommitTimestamp
	if first == 0 {
		first = g.ImmediateCommitTimestamp
	}
	return st.begin(Stamp{TxnID{My: id}, int64(first)}, time.UnixMicro(int64(g.ImmediateCommitTimestamp)), false)
}

// gtidMariaDB reads a GTID_EVENT of MariaDB: sequence, domain, flags; the server's number stands in the header, the time of the commit too.
func (st *stream) gtidMariaDB(h binlog.Header, body []byte) error {
	if len(body) < 13 {
		return fmt.Errorf("GTID of %d bytes: %w", len(body), binlog.ErrMalformed)
	}
	id := gtid.Maria{Seq: binary.LittleEndian.Uint64(body), Domain: binary.LittleEndian.Uint32(body[8:]), Server: h.ServerID}
	if id.Seq == 0 {
		return fmt.Errorf("GTID %s: %w", id, binlog.ErrMalformed)
	}
	at := time.Unix(int64(h.Timestamp), 0)
	standalone := body[12]&replication.BINLOG_MARIADB_FL_STANDALONE != 0
	if err := st.begin(Stamp{TxnID{Maria: id}, at.UnixMicro()}, at, !standalone); err != nil {
		return err
	}
	st.txn.xa = body[12]&mariaPreparedXA != 0
	return nil
}

// mariaPreparedXA is the flag of a transaction that is only prepared: MariaDB's XA START.
const mariaPreparedXA = 64

// begin opens a transaction. One that lies behind the position is passed over, after a look whether it is the one that was published (R6).
func (st *stream) begin(stamp Stamp, at time.Time, begun bool) error {
	if st.txn.open {
		return fmt.Errorf("transaction %s within %s: %w", stamp.ID, st.txn.stamp.ID, binlog.ErrMalformed)
	}
	st.txn = txnState{open: true, stamp: stamp, committedAt: at.UTC(), begun: begun}
	clear(st.tables)
	switch stamp.ID {
	case st.again.ID:
		if st.again.At != stamp.At {
			return st.rewritten(st.again)
		}
		st.again = Stamp{}
	case st.half.ID:
		if st.half.At != stamp.At {
			return st.rewritten(st.half)
		}
		st.txn.skip, st.txn.from = st.done, st.done
		st.half = Stamp{}
	}
	if st.q.at.Executed.holds(stamp.ID) { // only this goroutine changes it
		st.txn.skip = skipAll
		return st.outOfOrder()
	}
	return nil
}

// outOfOrder is the halt for a transaction of MariaDB whose number is not above those before it in its domain: nothing can tell it from one that was yielded. MySQL's ids are
// of a set, and what is in it is the same transaction.
func (st *stream) outOfOrder() error {
	id := st.txn.stamp.ID.Maria
	if id.IsZero() {
		return nil
	}
	return st.src.fail(outrelay.ErrDataHalt, "gtid-out-of-order", fmt.Sprintf("the binlog holds transaction %s, at %s:%d, behind %s: a session has set gtid_seq_no, or two servers wrote to one domain", id, st.file, st.pos, st.q.at.Executed.pos.Of(id.Domain)),
		"set gtid_strict_mode = ON, which keeps servers from it; "+st.src.waysOut(), nil)
}

// rewritten is the halt for an id that was given twice.
func (st *stream) rewritten(was Stamp) error {
	return st.src.fail(outrelay.ErrPositionLost, "history-rewritten", fmt.Sprintf("the server's transaction %s committed at %s, the one of that id that was published at %s: its binlog was reset since, or it was restored; "+
		"transactions that committed since may not have been read", was.ID, micros(st.txn.stamp.At), micros(was.At)), st.src.waysOut(), nil)
}

func micros(at int64) string { return time.UnixMicro(at).UTC().Format(time.RFC3339Nano) }

// vanished is the halt for a transaction of which a part was published and which the server does not send again.
func (st *stream) vanished() error {
	return st.src.fail(outrelay.ErrPositionLost, "transaction-vanished", fmt.Sprintf("the transaction %s was published in part (%d events), and the server goes on with %s", st.half.ID, st.done, st.txn.stamp.ID),
		st.src.waysOut(), nil)
}

// commit ends the transaction.
func (st *stream) commit() error {
	if !st.txn.open {
		return fmt.Errorf("commit outside of a transaction: %w", binlog.ErrMalformed)
	}
	st.txn.open = false
	switch {
	case st.txn.skip == skipAll:
		return nil
	case st.txn.ordinal < st.txn.skip:
		return st.src.fail(outrelay.ErrPositionLost, "transaction-vanished", fmt.Sprintf("the transaction %s was published in part (%d events), and the server sends it with %d", st.txn.stamp.ID, st.txn.skip, st.txn.ordinal),
			st.src.waysOut(), nil)
	case len(st.b.events) > 0:
		return st.yield(true)
	}
	at := st.whole()
	if !st.half.ID.IsZero() {
		half, done := st.half, st.done
		st.q.advanceWithin(func(p *Place) { at(p); p.Txn, p.Done = half, done })
		return nil
	}
	st.q.advance(at)
	return nil
}

// whole returns the move to behind the transaction.
func (st *stream) whole() func(*Place) {
	return func(p *Place) {
		p.Executed.add(st.txn.stamp.ID)
		p.Last, p.Txn, p.Done = st.txn.stamp, Stamp{}, 0
		p.File, p.Pos = st.file, st.pos
	}
}

// yield pushes the events gathered so far.
func (st *stream) yield(last bool) error {
	if !st.q.waitForRoom(st.stop) {
		return errStopped
	}
	st.q.full.Store(false)
	events, bytes := st.b.take()
	move := st.whole()
	if !last {
		move = func(p *Place) { p.Txn, p.Done = st.txn.stamp, st.txn.ordinal }
	}
	st.q.push(events, bytes, st.txn.part, last, st.src.clock.Now(), func(p *Place) {
		move(p)
		p.CommittedAt = st.txn.committedAt
		p.Events += int64(len(events))
	})
	st.txn.part++
	st.txn.from = st.txn.ordinal
	st.src.metrics.Events.Add(float64(len(events)))
	if last {
		st.src.metrics.Txns.Inc()
	}
	return nil
}

// rollbackTo takes back the events behind a number of them. A server writes rows that it rolls back only where the transaction has touched a table of an engine that
// cannot; what was yielded of them already cannot be taken back.
func (st *stream) rollbackTo(n int) error {
	if st.txn.skip == skipAll || n >= st.txn.ordinal {
		return nil
	}
	if n < st.txn.from {
		return st.src.fail(outrelay.ErrDataHalt, "rolled-back-in-part", fmt.Sprintf("the transaction %s, at %s:%d, rolls back %d events of which %d were published: it is larger than a part, and mixes the outbox with a table that is not transactional",
			st.txn.stamp.ID, st.file, st.pos, st.txn.ordinal-n, st.txn.from-n), "make all tables of such transactions InnoDB; "+st.src.waysOut(), nil)
	}
	st.b.drop(n - st.txn.from)
	st.txn.ordinal = n
	return nil
}
