package broker

import (
	"encoding/binary"
	"errors"
	"math"
)

// errFrame: a request does not decode. The connection is closed: what follows cannot be trusted to be a frame.
var errFrame = errors.New("malformed request")

// reader reads the protocol's primitives from one frame. After the first thing that does not fit, ok is false and every
// read returns zero, so that callers check once. Nothing it returns is copied.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() {
	r.b, r.bad = nil, true
}

func (r *reader) span(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) int8() int8 {
	if s := r.span(1); s != nil {
		return int8(s[0])
	}
	return 0
}

func (r *reader) int16() int16 {
	if s := r.span(2); s != nil {
		return int16(binary.BigEndian.Uint16(s))
	}
	return 0
}

func (r *reader) int32() int32 {
	if s := r.span(4); s != nil {
		return int32(binary.BigEndian.Uint32(s))
	}
	return 0
}

func (r *reader) int64() int64 {
	if s := r.span(8); s != nil {
		return int64(binary.BigEndian.Uint64(s))
	}
	return 0
}

func (r *reader) uuid() (id [16]byte) {
	copy(id[:], r.span(16))
	return id
}

// uvarint reads an unsigned varint of at most 5 bytes and 32 bits.
func (r *reader) uvarint() uint32 {
	var x uint64
	for i := range 5 {
		if i >= len(r.b) {
			break
		}
		c := r.b[i]
		x |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if x > math.MaxUint32 {
				break
			}
			r.b = r.b[i+1:]
			return uint32(x)
		}
	}
	r.fail()
	return 0
}

// stringMax is the longest string of the protocol. Compact lengths could say more; Kafka refuses that too, and the records that group offsets
// and transactions are kept in could not hold it.
const stringMax = math.MaxInt16

// stringLen reads the length of a string (16 bits, or compact); -1 is null.
func (r *reader) stringLen(flexible bool) int {
	if flexible {
		n := r.compactLen()
		if n > stringMax {
			r.fail()
		}
		return n
	}
	n := int(r.int16())
	if n < -1 {
		r.fail()
	}
	return n
}

// bytesLen reads the length of bytes or an array (32 bits, or compact); -1 is null.
func (r *reader) bytesLen(flexible bool) int {
	if flexible {
		return r.compactLen()
	}
	n := int(r.int32())
	if n < -1 {
		r.fail()
	}
	return n
}

func (r *reader) compactLen() int {
	n := int64(r.uvarint()) - 1
	if n > math.MaxInt32 {
		r.fail()
		return -1
	}
	return int(n)
}

// arrayLen reads the length of an array whose elements take at least elem bytes each: a length that the rest of the frame
// cannot hold is refused before anything is allocated for it. Null is 0 elements.
func (r *reader) arrayLen(flexible bool, elem int) int {
	n := r.bytesLen(flexible)
	if r.bad || n <= 0 {
		return 0
	}
	if n > len(r.b)/elem {
		r.fail()
		return 0
	}
	return n
}

// stringBytes reads a string without copying it; nil is null.
func (r *reader) stringBytes(flexible bool) []byte {
	n := r.stringLen(flexible)
	if n < 0 {
		return nil
	}
	return r.span(n)
}

// bytes reads bytes without copying them; nil is null.
func (r *reader) bytes(flexible bool) []byte {
	n := r.bytesLen(flexible)
	if n < 0 {
		return nil
	}
	return r.span(n)
}

// tags skips tagged fields (KIP-482), calling known for each; known may be nil. Keys must ascend: one that repeats is
// refused, unknown ones are skipped.
func (r *reader) tags(flexible bool, known func(key uint32, r *reader)) {
	if !flexible {
		return
	}
	n := r.uvarint()
	last := int64(-1)
	for ; n > 0 && !r.bad; n-- {
		key := r.uvarint()
		val := r.span(int(r.uvarint()))
		if int64(key) <= last {
			r.fail()
			return
		}
		last = int64(key)
		if known != nil && !r.bad {
			known(key, &reader{b: val})
		}
	}
}

// end returns errFrame unless everything was read and nothing is left.
func (r *reader) end() error {
	if r.bad || len(r.b) != 0 {
		return errFrame
	}
	return nil
}

func appendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }
func appendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

func appendUvarint(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// appendLen appends the length of an array or bytes; -1 is null.
func appendLen(b []byte, n int, flexible bool) []byte {
	if flexible {
		return appendUvarint(b, uint32(n+1))
	}
	return appendInt32(b, int32(n))
}

func appendString(b []byte, s string, flexible bool) []byte {
	if flexible {
		b = appendUvarint(b, uint32(len(s)+1))
	} else {
		b = appendInt16(b, int16(len(s)))
	}
	return append(b, s...)
}

func appendNullableString(b []byte, s *string, flexible bool) []byte {
	if s != nil {
		return appendString(b, *s, flexible)
	}
	if flexible {
		return append(b, 0)
	}
	return appendInt16(b, -1)
}
