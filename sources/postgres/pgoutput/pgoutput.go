// Package pgoutput decodes the messages of PostgreSQL's logical replication plugin pgoutput, protocol version 1. It does no I/O, keeps no
// transaction, and allocates nothing for a row.
//
// The bytes come from a server, perhaps of a newer version, perhaps through something that alters them: every length is checked
// against what is there, and what is not understood is an error, never skipped.
// Format: PostgreSQL documentation, "Logical Replication Message Formats".
package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrMalformed: the bytes are no message of this protocol.
var ErrMalformed = errors.New("malformed pgoutput message")

// Kind is a message's type, the byte it begins with.
type Kind byte

// The kinds of protocol version 1. StreamAbort belongs to version 2, but PostgreSQL 18 may send one on version 1: it says that a
// transaction which was never streamed was aborted, so it is ignored.
const (
	KindBegin       Kind = 'B'
	KindCommit      Kind = 'C'
	KindOrigin      Kind = 'O'
	KindRelation    Kind = 'R'
	KindType        Kind = 'Y'
	KindInsert      Kind = 'I'
	KindUpdate      Kind = 'U'
	KindDelete      Kind = 'D'
	KindTruncate    Kind = 'T'
	KindMessage     Kind = 'M'
	KindStreamAbort Kind = 'A'
)

// relationsMax bounds the relation cache: a publication of outbox tables has a handful.
const relationsMax = 100_000

// Message is a decoded message. Only the fields of its Kind are set; slices point into the bytes that were decoded.
type Message struct {
	Kind Kind

	FinalLSN   LSN // Begin: the commit record's position; Commit: the same again
	EndLSN     LSN // Commit: the end of the commit record
	CommitTime time.Time
	Xid        uint32

	Relation  *Relation // Relation, Insert, Update, Delete
	Tuple     []byte    // Insert: the new row; read it with SplitTuple
	Relations []uint32  // Truncate; valid until the next Decode
}

// Relation is a table as it was when the following rows were written. It is never changed after it was made: another Relation message
// makes another.
type Relation struct {
	OID       uint32
	Namespace string
	Name      string
	Columns   []Column
	User      any // for the owner of the Decoder, who sets it once
}

// Column is a column of a Relation.
type Column struct {
	Name    string
	TypeOID uint32
	TypeMod int32
	Key     bool
}

// Type is a type that is not built in, as a Type message names it.
type Type struct {
	Namespace string
	Name      string
}

// Decoder remembers the relations and types of one stream. It is not safe for concurrent use.
type Decoder struct {
	relations map[uint32]*Relation
	types     map[uint32]Type
	last      *Relation // the relation of the row before: rows come in runs
	truncated []uint32
}

// NewDecoder returns a Decoder for a new stream.
func NewDecoder() *Decoder {
	return &Decoder{relations: map[uint32]*Relation{}, types: map[uint32]Type{}}
}

// Relation returns the relation with that OID, nil when the stream has not announced it.
func (d *Decoder) Relation(oid uint32) *Relation {
	if d.last != nil && d.last.OID == oid {
		return d.last
	}
	r := d.relations[oid]
	if r != nil {
		d.last = r
	}
	return r
}

// Type returns what the stream has said of a type that is not built in.
func (d *Decoder) Type(oid uint32) (Type, bool) {
	t, ok := d.types[oid]
	return t, ok
}

// Decode reads the one message in b into m. m's slices point into b. Errors wrap ErrMalformed.
func (d *Decoder) Decode(b []byte, m *Message) error {
	if len(b) == 0 {
		return fmt.Errorf("empty message: %w", ErrMalformed)
	}
	*m = Message{Kind: Kind(b[0])}
	r := reader{b: b[1:]}
	switch m.Kind {
	case KindBegin:
		m.FinalLSN, m.CommitTime, m.Xid = LSN(r.uint64()), r.time(), r.uint32()
	case KindCommit:
		r.skip(1) // flags, unused
		m.FinalLSN, m.EndLSN, m.CommitTime = LSN(r.uint64()), LSN(r.uint64()), r.time()
	case KindOrigin:
		r.skip(8)
		r.string()
	case KindRelation:
		return d.relation(&r, m)
	case KindType:
		return d.typ(&r)
	case KindInsert:
		return d.row(&r, m)
	case KindUpdate, KindDelete:
		m.Relation = d.Relation(r.uint32())
		if m.Relation == nil && !r.failed {
			return fmt.Errorf("%c for a relation that was not announced: %w", m.Kind, ErrMalformed)
		}
		if r.failed {
			return fmt.Errorf("%c message of %d bytes: %w", m.Kind, len(b), ErrMalformed)
		}
		return nil // the row is of no interest: these are counted, not published
	case KindTruncate:
		return d.truncate(&r, m)
	case KindMessage, KindStreamAbort:
		return nil
	default:
		return fmt.Errorf("message type %q, begins % x: %w", b[0], b[:min(len(b), 16)], ErrMalformed)
	}
	return r.done(m.Kind)
}

func (d *Decoder) relation(r *reader, m *Message) error {
	rel := &Relation{OID: r.uint32(), Namespace: r.string(), Name: r.string()}
	r.skip(1) // replica identity
	n := int(r.uint16())
	if rel.Namespace == "" {
		rel.Namespace = "pg_catalog" // the protocol's short form
	}
	const columnBytesMin = 1 + 1 + 4 + 4
	if n*columnBytesMin > len(r.b) {
		return fmt.Errorf("relation with %d columns in %d bytes: %w", n, len(r.b), ErrMalformed)
	}
	rel.Columns = make([]Column, n)
	for i := range rel.Columns {
		flags := r.byte()
		rel.Columns[i] = Column{Key: flags&1 != 0, Name: r.string(), TypeOID: r.uint32(), TypeMod: int32(r.uint32())}
	}
	if err := r.done(KindRelation); err != nil {
		return err
	}
	if len(d.relations) >= relationsMax && d.relations[rel.OID] == nil {
		return fmt.Errorf("more than %d relations: %w", relationsMax, ErrMalformed)
	}
	d.relations[rel.OID] = rel
	d.last = rel
	m.Relation = rel
	return nil
}

func (d *Decoder) typ(r *reader) error {
	oid, t := r.uint32(), Type{Namespace: r.string(), Name: r.string()}
	if err := r.done(KindType); err != nil {
		return err
	}
	if len(d.types) >= relationsMax {
		return fmt.Errorf("more than %d types: %w", relationsMax, ErrMalformed)
	}
	d.types[oid] = t
	return nil
}

func (d *Decoder) row(r *reader, m *Message) error {
	oid, tag := r.uint32(), r.byte()
	if r.failed || tag != 'N' || len(r.b) < 2 {
		return fmt.Errorf("insert with tuple tag %q: %w", tag, ErrMalformed)
	}
	m.Relation = d.Relation(oid)
	if m.Relation == nil {
		return fmt.Errorf("insert for relation %d that was not announced: %w", oid, ErrMalformed)
	}
	m.Tuple = r.b
	if n := int(binary.BigEndian.Uint16(r.b)); n != len(m.Relation.Columns) {
		return fmt.Errorf("row of %s.%s has %d columns, the relation %d: %w", m.Relation.Namespace, m.Relation.Name, n, len(m.Relation.Columns), ErrMalformed)
	}
	return nil
}

func (d *Decoder) truncate(r *reader, m *Message) error {
	n := int64(r.uint32())
	r.skip(1) // options
	if n*4 != int64(len(r.b)) || r.failed {
		return fmt.Errorf("truncate of %d relations in %d bytes: %w", n, len(r.b), ErrMalformed)
	}
	d.truncated = d.truncated[:0]
	for range n {
		d.truncated = append(d.truncated, r.uint32())
	}
	m.Relations = d.truncated
	return nil
}

// SplitTuple appends the columns of a row to dst: text as the server prints it, nil for NULL. The values point into tuple and cannot be
// grown into each other. Errors wrap ErrMalformed.
func SplitTuple(tuple []byte, dst [][]byte) ([][]byte, error) {
	if len(tuple) < 2 {
		return dst, fmt.Errorf("row of %d bytes: %w", len(tuple), ErrMalformed)
	}
	n := int(binary.BigEndian.Uint16(tuple))
	i := 2
	for c := range n {
		if i >= len(tuple) {
			return dst, fmt.Errorf("row ends at column %d of %d: %w", c, n, ErrMalformed)
		}
		kind := tuple[i]
		i++
		if kind == 'n' {
			dst = append(dst, nil)
			continue
		}
		if kind != 't' {
			// 'u', a value that was not sent because it did not change, has no place in an insert; 'b' was not asked for.
			return dst, fmt.Errorf("column %d of kind %q: %w", c, kind, ErrMalformed)
		}
		if len(tuple)-i < 4 {
			return dst, fmt.Errorf("row ends at column %d of %d: %w", c, n, ErrMalformed)
		}
		size := binary.BigEndian.Uint32(tuple[i:])
		i += 4
		if size > math.MaxInt32 || int(size) > len(tuple)-i {
			return dst, fmt.Errorf("column %d of %d bytes with %d left: %w", c, size, len(tuple)-i, ErrMalformed)
		}
		end := i + int(size)
		dst = append(dst, tuple[i:end:end])
		i = end
	}
	if i != len(tuple) {
		return dst, fmt.Errorf("%d bytes after the row: %w", len(tuple)-i, ErrMalformed)
	}
	return dst, nil
}

// reader takes values off a message. After the first that is not there, failed is set and everything reads as zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.failed, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) string() string {
	i := bytes.IndexByte(r.b, 0)
	if i < 0 {
		r.failed, r.b = true, nil
		return ""
	}
	s := string(r.b[:i])
	r.b = r.b[i+1:]
	return s
}

// time reads microseconds since 2000-01-01.
func (r *reader) time() time.Time { return Time(int64(r.uint64())) }

const unixMicrosAt2000 = 946_684_800_000_000

// Time converts PostgreSQL's timestamps of the replication protocol, microseconds since 2000-01-01 00:00:00 UTC.
func Time(micros int64) time.Time {
	if micros > math.MaxInt64-unixMicrosAt2000 {
		micros = math.MaxInt64 - unixMicrosAt2000
	}
	return time.UnixMicro(micros + unixMicrosAt2000).UTC()
}

// Micros is the reverse of Time.
func Micros(t time.Time) int64 { return t.UnixMicro() - unixMicrosAt2000 }

func (r *reader) done(k Kind) error {
	if r.failed {
		return fmt.Errorf("%c message too short: %w", k, ErrMalformed)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%d bytes after a %c message: %w", len(r.b), k, ErrMalformed)
	}
	return nil
}
