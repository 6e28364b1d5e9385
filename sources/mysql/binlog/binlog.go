// Package binlog turns the rows of a binlog into text: what a server's client would be shown of each column, with the exceptions that a comment
// names. It is pure: bytes in, bytes out. The events around the rows are go-mysql's to read.
package binlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrMalformed: the bytes are not what the protocol says.
var ErrMalformed = errors.New("malformed binlog")

// ErrUnsupported: a column's type or character set is none that can be turned into text.
var ErrUnsupported = errors.New("unsupported column")

// HeaderBytes is the size of an event's header, ChecksumBytes that of the CRC32 behind its body.
const (
	HeaderBytes   = 19
	ChecksumBytes = 4
)

// Header is what stands before every event. MySQL internals, "Binlog Event header".
type Header struct {
	Timestamp uint32 // seconds, of the statement's start
	Type      byte
	ServerID  uint32
	Size      uint32 // with header and checksum
	LogPos    uint32 // where the next event begins in its file, modulo 2^32; 0 where the server does not say
	Flags     uint16
}

// ParseHeader reads the header of an event, whose bytes are all there.
func ParseHeader(event []byte) (Header, error) {
	if len(event) < HeaderBytes {
		return Header{}, fmt.Errorf("event of %d bytes: %w", len(event), ErrMalformed)
	}
	h := Header{
		Timestamp: binary.LittleEndian.Uint32(event), Type: event[4], ServerID: binary.LittleEndian.Uint32(event[5:]),
		Size: binary.LittleEndian.Uint32(event[9:]), LogPos: binary.LittleEndian.Uint32(event[13:]), Flags: binary.LittleEndian.Uint16(event[17:]),
	}
	if int64(h.Size) != int64(len(event)) {
		return h, fmt.Errorf("event of type %d says it has %d bytes, it has %d: %w", h.Type, h.Size, len(event), ErrMalformed)
	}
	return h, nil
}

// ChecksumFits reports whether the last four bytes of an event are the CRC32 of those before.
func ChecksumFits(event []byte) bool {
	n := len(event) - ChecksumBytes
	return n >= HeaderBytes && crc32.ChecksumIEEE(event[:n]) == binary.LittleEndian.Uint32(event[n:])
}

// PackedInt reads a length-encoded integer.
func PackedInt(b []byte) (v uint64, n int, err error) {
	if len(b) > 0 {
		switch b[0] {
		case 0xfc:
			n = 3
		case 0xfd:
			n = 4
		case 0xfe:
			n = 9
		case 0xfb, 0xff: // NULL and an error: no number
			return 0, 0, fmt.Errorf("number begins with %#x: %w", b[0], ErrMalformed)
		default:
			return uint64(b[0]), 1, nil
		}
	}
	if n == 0 || len(b) < n {
		return 0, 0, fmt.Errorf("number cut off: %w", ErrMalformed)
	}
	return littleEndian(b[1:n]), n, nil
}

func littleEndian(b []byte) (v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func bigEndian(b []byte) (v uint64) {
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}
