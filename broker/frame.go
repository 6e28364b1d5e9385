package broker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// frameBytesMin is the smallest frame: a request header without a client id.
	frameBytesMin = 8
	// frameStepBytes is how much is allocated for a body before the first of it has arrived.
	frameStepBytes = 64 << 10
	// smallFrameBytes caps requests that carry names and numbers; listFrameBytes those that carry a list of all of a client's
	// partitions or members.
	smallFrameBytes = 1 << 20
	listFrameBytes  = 8 << 20
)

// frameBytesMax returns the largest frame that is accepted for an API key. A decoded request takes a few tens of times
// the bytes of its frame, so what needs no large frame gets none.
func (s *Server) frameBytesMax(key int16) int {
	switch key {
	case 0:
		return s.opts.FrameBytesMax
	case 1, 2, 8, 9, 11, 14, 19, 24, 28: // Fetch, ListOffsets, OffsetCommit, OffsetFetch, JoinGroup, SyncGroup, CreateTopics, AddPartitionsToTxn, TxnOffsetCommit
		return listFrameBytes
	}
	return smallFrameBytes
}

// arrivingBytes is what frames above frameStepBytes, Produce's apart, may have together while they arrive and are decoded. Others wait, and not for each other:
// what is decoded holds none of it.
func arrivingBytes(o Options) int64 { return max(o.MemoryBytes/8, listFrameBytes) }

// header is the start of a request. The bytes before the body differ by version; clientID aliases the frame.
type header struct {
	key, version int16
	corr         int32
	clientID     []byte
}

// frameError is why a connection is closed; hint is what the peer probably is.
type frameError struct {
	reason string // a label: few values
	hint   string
}

func (e *frameError) Error() string {
	if e.hint == "" {
		return e.reason
	}
	return e.reason + ": " + e.hint
}

// frameReader reads request frames from one connection. It never allocates more than twice what has arrived, except for a
// Produce body, whose bytes were granted by the server's budget before.
type frameReader struct {
	s  *Server
	nc net.Conn
	br *bufio.Reader

	until time.Time // the read deadline that is set

	preAuth bool      // the client is not known: frames are small
	limit   time.Time // the latest read deadline; zero: none
}

// deadline lets reads wait for about d from now. One that is nearly right already stays: setting it costs more than it is worth.
func (f *frameReader) deadline(d time.Duration) {
	t := time.Now().Add(d)
	if !f.limit.IsZero() && t.After(f.limit) {
		t = f.limit
	}
	if off := t.Sub(f.until); off < 0 || off > d/16 {
		f.until = t
		_ = f.nc.SetReadDeadline(t)
	}
}

// next waits for the start of a request and returns its size and first 8 bytes. busy says whether answers are still owed: then
// the connection is not idle.
func (f *frameReader) next(busy func() bool) (size int, h header, err error) {
	for {
		f.deadline(f.s.opts.IdleTimeout)
		_, err := f.br.Peek(1)
		if err == nil {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if f.expired() {
				return 0, h, errAuthTimeout
			}
			if busy() {
				f.until = time.Time{}
				continue
			}
			return 0, h, &frameError{reason: "idle"}
		}
		return 0, h, err
	}
	if f.br.Buffered() < 4+frameBytesMin {
		f.deadline(f.s.opts.FrameTimeout)
	}
	b, err := f.br.Peek(4)
	if err != nil {
		return 0, h, f.readError(err)
	}
	size = int(int32(binary.BigEndian.Uint32(b)))
	if err := f.checkSize(size, b); err != nil {
		return 0, h, err
	}
	b, err = f.br.Peek(4 + frameBytesMin)
	if err != nil {
		return 0, h, f.readError(err)
	}
	h.key = int16(binary.BigEndian.Uint16(b[4:]))
	h.version = int16(binary.BigEndian.Uint16(b[6:]))
	h.corr = int32(binary.BigEndian.Uint32(b[8:]))
	most := f.s.frameBytesMax(h.key)
	if f.preAuth {
		most = preAuthFrameBytes
	}
	if size > most {
		return 0, h, &frameError{reason: "frame too large", hint: fmt.Sprintf("api %d: %d bytes, at most %d", h.key, size, most)}
	}
	_, _ = f.br.Discard(4 + frameBytesMin)
	return size - frameBytesMin, h, nil
}

// token reads a frame without a header, of a client that is not known yet.
func (f *frameReader) token() ([]byte, error) {
	f.deadline(f.s.opts.FrameTimeout)
	b, err := f.br.Peek(4)
	if err != nil {
		return nil, f.readError(err)
	}
	n := int(int32(binary.BigEndian.Uint32(b)))
	if n < 0 || n > preAuthFrameBytes {
		return nil, &frameError{reason: "frame size", hint: fmt.Sprintf("%d bytes of a SASL token", n)}
	}
	_, _ = f.br.Discard(4)
	return f.body(n, false)
}

// checkSize refuses a size that no request has, with a guess at what it was.
func (f *frameReader) checkSize(size int, first []byte) error {
	if size >= frameBytesMin && size <= f.s.opts.FrameBytesMax {
		return nil
	}
	if looksLikeHTTP(first) {
		return &frameError{reason: "http", hint: "an HTTP request came to the Kafka port; the console and metrics are on the HTTP address"}
	}
	if first[0] == 0x16 && first[1] == 3 {
		return &frameError{reason: "tls", hint: "a TLS handshake came to a plaintext listener; set security.protocol=PLAINTEXT or use the TLS listener"}
	}
	return &frameError{reason: "frame size", hint: fmt.Sprintf("%d bytes, from %d to %d are accepted", size, frameBytesMin, f.s.opts.FrameBytesMax)}
}

// body reads the rest of a frame. granted says that the budget holds n bytes for it.
func (f *frameReader) body(n int, granted bool) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if f.br.Buffered() < n {
		f.deadline(f.s.opts.FrameTimeout)
	}
	if granted || n <= frameStepBytes {
		b := f.s.lend(n, granted)
		_, err := io.ReadFull(f.br, b)
		return b, f.readError(err)
	}
	b := make([]byte, 0, frameStepBytes)
	for len(b) < n {
		step := min(n-len(b), len(b)+frameStepBytes)
		grown := make([]byte, len(b)+step)
		copy(grown, b)
		if _, err := io.ReadFull(f.br, grown[len(b):]); err != nil {
			return nil, f.readError(err)
		}
		b = grown
	}
	return b, nil
}

// expired reports whether the time for authentication is over.
func (f *frameReader) expired() bool { return !f.limit.IsZero() && !time.Now().Before(f.limit) }

func looksLikeHTTP(first []byte) bool {
	switch string(first) {
	case "GET ", "POST", "HEAD", "PUT ", "OPTI":
		return true
	}
	return false
}

func (f *frameReader) readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if f.expired() {
			return errAuthTimeout
		}
		return &frameError{reason: "frame timeout", hint: "a request was begun and did not arrive in time"}
	}
	return err
}

// parseHeader reads what follows the first 8 bytes of a request header: v1 has a client id, v2 tagged fields too.
func parseHeader(h *header, b []byte, flexible bool) (body []byte, err error) {
	r := reader{b: b}
	h.clientID = r.stringBytes(false) // never compact, by KIP-482's exception
	r.tags(flexible, nil)
	if r.bad {
		return nil, errFrame
	}
	return r.b, nil
}

// decodeRequest makes the request that body holds. The request may alias body.
func decodeRequest(a *api, version int16, body []byte) (kmsg.Request, error) {
	var req kmsg.Request
	if a.request != nil {
		req = a.request()
	} else {
		req = kmsg.RequestForKey(a.key)
	}
	req.SetVersion(version)
	if err := checkSchema(a.key, version, body); err != nil {
		return nil, err
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return req, nil
}

// requestFlexible reports whether a request's header is v2.
func requestFlexible(key, version int16) bool {
	req := kmsg.RequestForKey(key)
	if req == nil {
		return false
	}
	req.SetVersion(version)
	return req.IsFlexible()
}

// lend returns a buffer for a body: a Produce body's goes back to the pool once its request was started, since what is proposed is copied.
func (s *Server) lend(n int, produce bool) []byte {
	if produce {
		return s.bodies.Get(n)
	}
	return make([]byte, n)
}
