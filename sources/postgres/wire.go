package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	wireBufferBytes  = 256 << 10
	frameHeaderBytes = 5 // type and length
	xlogHeaderBytes  = 1 + 8 + 8 + 8
	keepaliveBytes   = 1 + 8 + 8 + 1
	statusBytes      = frameHeaderBytes + 1 + 8 + 8 + 8 + 8 + 1
)

// errFrameTooLarge: the server announces a message beyond the limit for a row.
var errFrameTooLarge = errors.New("message exceeds the limit")

// wire reads the frames of PostgreSQL's protocol from a connection through one large buffer. The reader goroutine owns it.
type wire struct {
	src      io.Reader
	buf      []byte
	from, to int // buf[from:to] is read and not yet returned
	bodyMax  int
	received int64 // bytes
	lastRead int   // bytes that the last read brought
}

func newWire(src io.Reader, bodyMax int) *wire {
	return &wire{src: src, buf: make([]byte, wireBufferBytes), bodyMax: bodyMax}
}

// next returns the type and body of the next frame. The body is valid until the next call.
func (w *wire) next() (typ byte, body []byte, err error) {
	if err := w.fill(frameHeaderBytes); err != nil {
		return 0, nil, err
	}
	typ = w.buf[w.from]
	size := binary.BigEndian.Uint32(w.buf[w.from+1:])
	if size < 4 {
		return 0, nil, fmt.Errorf("frame %q of length %d", typ, size)
	}
	n := int(size) - 4
	if n > w.bodyMax {
		return typ, nil, fmt.Errorf("frame %q of %d bytes: %w", typ, n, errFrameTooLarge)
	}
	if frameHeaderBytes+n > len(w.buf) {
		return w.large(typ, n)
	}
	if err := w.fill(frameHeaderBytes + n); err != nil {
		return 0, nil, err
	}
	body = w.buf[w.from+frameHeaderBytes : w.from+frameHeaderBytes+n]
	w.from += frameHeaderBytes + n
	return typ, body, nil
}

// complete reports whether next returns without reading from the connection.
func (w *wire) complete() bool {
	n := w.to - w.from
	return n >= frameHeaderBytes && uint64(n) > uint64(binary.BigEndian.Uint32(w.buf[w.from+1:]))
}

// large reads a body that does not fit the buffer into memory of its own. It grows as bytes arrive, so that a length alone claims
// nothing.
func (w *wire) large(typ byte, n int) (byte, []byte, error) {
	w.from += frameHeaderBytes
	body := append(make([]byte, 0, min(n, 4*wireBufferBytes)), w.buf[w.from:w.to]...)
	w.from, w.to = 0, 0
	for len(body) < n {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(n, 2*cap(body)))
			copy(grown, body)
			body = grown
		}
		m, err := w.src.Read(body[len(body):cap(body)])
		body = body[:len(body)+m]
		w.received += int64(m)
		if err != nil && len(body) < n {
			return 0, nil, err
		}
	}
	return typ, body, nil
}

// fill makes n unread bytes available; n is at most the buffer's size.
func (w *wire) fill(n int) error {
	if w.to-w.from >= n {
		return nil
	}
	if w.from == w.to {
		w.from, w.to = 0, 0
	} else if w.from+n > len(w.buf) {
		w.to = copy(w.buf, w.buf[w.from:w.to])
		w.from = 0
	}
	for w.to-w.from < n {
		m, err := w.src.Read(w.buf[w.to:])
		w.to += m
		w.received += int64(m)
		w.lastRead = m
		if err != nil && w.to-w.from < n {
			return err
		}
	}
	return nil
}

// appendStatus appends a standby status update. All three positions are always set: where flush or apply is zero, servers and
// libraries take write for it, and confirm what nobody has confirmed.
func appendStatus(b []byte, write, flush LSN, micros int64, reply bool) []byte {
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, statusBytes-1)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(write))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(micros))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}
