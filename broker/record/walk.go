package record

import (
	"encoding/binary"
	"fmt"

	"github.com/outrelay/outrelay"
)

// recordBytesMin is the size of the smallest record: seven one-byte fields.
const recordBytesMin = 7

// Record is one record of a batch. A nil Key is the null key, a nil Value a tombstone; empty and nil differ.
type Record struct {
	OffsetDelta    int32
	TimestampDelta int64
	Key, Value     []byte
	Headers        []outrelay.Header
}

// Offset returns the offset of r, a record of b.
func (b Batch) Offset(r Record) int64 { return b.BaseOffset() + int64(r.OffsetDelta) }

// Timestamp returns the timestamp in ms of r, a record of b.
func (b Batch) Timestamp(r Record) int64 {
	if b.LogAppendTime() {
		return b.MaxTimestamp()
	}
	return b.BaseTimestamp() + r.TimestampDelta
}

// Records calls fn for each record of b, a whole batch, in order, decompressing where needed (at most OutputMaxDefault bytes). An error of fn
// ends the walk and is returned. Keys, values and header values alias b, or the decompressed bytes when b is compressed: neither is
// reused, so they may be kept as long as b stays as it is. Errors wrap ErrCorrupt or ErrTooLarge. Safe for concurrent use.
func Records(b Batch, fn func(Record) error) error { return (*Codecs)(nil).Records(b, fn) }

// Records is the function Records with the decompressors and the limit of c.
func (c *Codecs) Records(b Batch, fn func(Record) error) error {
	return c.records(b, true, fn)
}

// RecordsBare is Records without the headers, which saves their allocation.
func (c *Codecs) RecordsBare(b Batch, fn func(Record) error) error {
	return c.records(b, false, fn)
}

func (c *Codecs) records(b Batch, headers bool, fn func(Record) error) error {
	p, err := c.payload(b)
	if err != nil {
		return err
	}
	w := walker{p: p, left: b.Count()}
	for w.next() {
		r := Record{OffsetDelta: w.offsetDelta, TimestampDelta: w.timestampDelta, Key: w.key, Value: w.value}
		if headers && w.headerCount > 0 {
			if r.Headers, err = parseHeaders(w.headers, w.headerCount); err != nil {
				return err
			}
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return w.err
}

// payload returns the records of b, decompressed.
func (c *Codecs) payload(b Batch) ([]byte, error) {
	p := []byte(b[HeaderBytes:])
	if b.Count() == 0 {
		if len(p) != 0 && b.Codec() == CodecNone {
			return nil, fmt.Errorf("%d bytes after no records: %w", len(p), ErrCorrupt)
		}
		return nil, nil // compaction has left the header alone
	}
	if b.Codec() == CodecNone {
		return p, nil
	}
	return c.Decompress(p, b.Codec())
}

// walker walks encoded records without allocating. Every record has to fill its length exactly, and the last one the payload.
type walker struct {
	p    []byte
	at   int
	left int32
	err  error

	offsetDelta    int32
	timestampDelta int64
	key, value     []byte
	headerCount    int32
	headers        []byte // the encoded headers after their count
	rest           []byte // the encoding from the key's length on; what a rewrite with another delta copies
}

// next parses the next record and reports whether there was one; at the end, or at an error, it is false.
func (w *walker) next() bool {
	if w.err != nil {
		return false
	}
	if w.left == 0 {
		if w.at != len(w.p) {
			w.err = fmt.Errorf("%d bytes after the last record: %w", len(w.p)-w.at, ErrCorrupt)
		}
		return false
	}
	if int64(w.left)*recordBytesMin > int64(len(w.p)-w.at) {
		w.err = fmt.Errorf("%d bytes left for %d records: %w", len(w.p)-w.at, w.left, ErrCorrupt)
		return false
	}
	r := reader{p: w.p, at: w.at}
	n := r.varint()
	if r.bad || n < 0 || int(n) > len(w.p)-r.at {
		w.err = fmt.Errorf("record at byte %d: length: %w", w.at, ErrCorrupt)
		return false
	}
	r.p = w.p[:r.at+int(n)]
	r.skip(1) // attributes: none are defined
	w.timestampDelta = r.varlong()
	w.offsetDelta = r.varint()
	rest := r.at
	w.key = r.bytes()
	w.value = r.bytes()
	w.headerCount = r.varint()
	headers := r.at
	if w.headerCount < 0 {
		r.bad = true
	}
	for range max(w.headerCount, 0) {
		if r.bad {
			break
		}
		if k := r.bytes(); k == nil {
			r.bad = true // a header's key is not nullable
		}
		r.bytes()
	}
	if r.bad || r.at != len(r.p) {
		w.err = fmt.Errorf("record at byte %d: its fields do not fill its %d bytes: %w", w.at, n, ErrCorrupt)
		return false
	}
	w.headers, w.rest = r.p[headers:], r.p[rest:]
	w.at = r.at
	w.left--
	return true
}

func parseHeaders(p []byte, n int32) ([]outrelay.Header, error) {
	r := reader{p: p}
	hs := make([]outrelay.Header, 0, n) // the walker has counted them, so n is bounded by the record's size
	for range n {
		k := r.bytes()
		v := r.bytes()
		hs = append(hs, outrelay.Header{Key: string(k), Value: v})
	}
	if r.bad {
		return nil, fmt.Errorf("headers: %w", ErrCorrupt)
	}
	return hs, nil
}

// reader reads fields of p; after the first that does not fit, bad is set and the results mean nothing.
type reader struct {
	p   []byte
	at  int
	bad bool
}

func (r *reader) skip(n int) {
	if n > len(r.p)-r.at {
		r.bad = true
		return
	}
	r.at += n
}

// varlong reads a zigzag varint of at most ten bytes.
func (r *reader) varlong() int64 {
	v, n := binary.Varint(r.p[r.at:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.at += n
	return v
}

// varint reads a zigzag varint of at most five bytes.
func (r *reader) varint() int32 {
	v, n := binary.Varint(r.p[r.at:])
	if n <= 0 || n > 5 || v != int64(int32(v)) {
		r.bad = true
		return 0
	}
	r.at += n
	return int32(v)
}

// bytes reads a length and as many bytes; length -1 is nil, a smaller one is bad.
func (r *reader) bytes() []byte {
	n := r.varint()
	if r.bad || n < -1 || int(n) > len(r.p)-r.at {
		r.bad = true
		return nil
	}
	if n == -1 {
		return nil
	}
	b := r.p[r.at : r.at+int(n) : r.at+int(n)]
	r.at += int(n)
	return b
}
