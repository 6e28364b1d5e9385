package mysql

import (
	"fmt"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/sqlsink"
)

// batchText is what one transaction sends: its statements, in as few packets as the server takes.
//
//	set @outrelay_at = 0 ; start transaction read write
//	the handlers' statements
//	set @outrelay_at = 1
//	update … the first batch's offset … ; set @outrelay_at = 2, raising when the update matched no row
//	update … the second batch's offset … ; set @outrelay_at = 3, raising …
//	commit
//
// @outrelay_at tells afterwards at which step a statement was refused. Statements are parted by a line feed and a semicolon, since one may end in a
// comment.
type batchText struct {
	limit   int // bytes of a packet
	openMax time.Duration
	packets [][]byte
	used    int // of packets; the others' space is used again
}

// slack is left of a packet for what opens and ends it.
const slack = 1024

// idleMax is the wait_timeout of a session without a transaction: the pool's idle sessions are to last.
const idleMax = 8 * time.Hour

func (t *batchText) reset() { t.used = 0 }

// packet begins a new packet.
func (t *batchText) packet() {
	if t.used == len(t.packets) {
		t.packets = append(t.packets, nil)
	}
	t.packets[t.used] = t.packets[t.used][:0]
	t.used++
}

// add appends a statement as a whole.
func (t *batchText) add(statement string) { t.addBytes([]byte(statement)) }

func (t *batchText) addBytes(statement []byte) {
	switch {
	case t.used == 0:
		t.packet()
	case len(t.packets[t.used-1])+2+len(statement) > t.limit-slack:
		t.part()
	}
	p := &t.packets[t.used-1]
	if len(*p) > 0 {
		*p = append(*p, "\n;"...)
	}
	*p = append(*p, statement...)
}

// part ends the packet and begins the next one; between the two the server does not wait for ever.
func (t *batchText) part() {
	if t.used == 1 {
		t.packets[0] = fmt.Appendf(t.packets[0], "\n;set session wait_timeout = %d", seconds(t.openMax))
	}
	t.packet()
}

// begin is the transaction's beginning.
func (t *batchText) begin() {
	t.reset()
	t.add("set @outrelay_at = 0")
	t.add("start transaction read write")
}

// end moves the offsets and commits.
func (t *batchText) end(table string, bs []sinks.Batch, order []int) {
	t.add("set @outrelay_at = 1")
	for n, i := range order {
		t.add(moveSQL(table, &bs[i]) + "\n;" + raiseUnlessMoved(n+2)) // one after the other, in one packet
	}
	if failpoint.Enabled {
		t.part() // what comes before the COMMIT is with the server, and a crash or a stop here is of interest
	}
	t.commit()
}

// commit ends the transaction.
func (t *batchText) commit() {
	t.add("commit")
	if t.used > 1 {
		t.add(keepIdle)
	}
}

var keepIdle = fmt.Sprintf("set session wait_timeout = %d", seconds(idleMax))

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// moveSQL moves a batch's offset where its claim still holds (S3).
func moveSQL(table string, b *sinks.Batch) string {
	p := b.Claim.Partition
	guard := fmt.Sprintf(" and epoch = %d and next_offset = %d", b.Claim.Epoch, b.From)
	if failpoint.Bug("epoch-not-checked") {
		guard = ""
	}
	return fmt.Sprintf("update %s set next_offset = %d, updated_at = utc_timestamp(6) where log_id = %s and group_id = %s and topic_id = %s and `partition` = %d%s",
		table, b.Next, quote(p.LogID), quote(b.Claim.Group), quote(sqlsink.FormatUUID(p.TopicID)), p.Partition, guard)
}

// raiseUnlessMoved sets the step when the update before it matched one row (sessions count rows that match, not those that change), and raises
// error 1690 otherwise, by a sum that no unsigned number can hold: an update of no rows is no error by itself, and the COMMIT behind it would be run.
func raiseUnlessMoved(step int) string {
	return "set @outrelay_at = " + strconv.Itoa(step) + " + 0 * (18446744073709551615 + (row_count() <> 1))"
}

// appendStatement appends a handler's statement with the values that its parameters have in the record that is being bound.
func appendStatement(dst []byte, b *handler.Binder, st *handler.Compiled) ([]byte, error) {
	dst = append(dst, st.Pieces[0]...)
	for i, p := range st.Params {
		var err error
		if dst, err = appendValue(dst, b.Value(st, i)); err != nil {
			return dst, fmt.Errorf("%s: %w", p, err)
		}
		dst = append(dst, st.Pieces[i+1]...)
	}
	return dst, nil
}

// handlers appends the statements of all records of bs. numbered: with the step before each, from 1.
func (t *batchText) handlers(set *handler.Set, binder *handler.Binder, bs []sinks.Batch, calls []handler.Call, numbered bool) ([]handler.Call, error) {
	var scratch []byte
	err := binder.Bind(set, bs, func(k handler.Call) error {
		calls = append(calls, k)
		var err error
		if scratch, err = appendStatement(scratch[:0], binder, k.Statement); err != nil {
			return err
		}
		if len(scratch) > t.limit-slack {
			return fmt.Errorf("the statement has %d bytes with its values, more than the %d that the server's max_allowed_packet leaves for one; raise max_allowed_packet", len(scratch), t.limit-slack)
		}
		if numbered {
			t.add("set @outrelay_at = " + strconv.Itoa(len(calls)))
		}
		t.addBytes(scratch)
		return nil
	})
	return calls, err
}
