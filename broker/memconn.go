package broker

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memConnBytes is what each direction of an in-memory connection buffers. A writer blocks when it is full, as a socket does.
const memConnBytes = 256 << 10

// memPipe returns the two ends of a buffered connection in memory. Unlike net.Pipe, a write returns once its bytes are
// buffered, so that requests can be pipelined.
func memPipe(client, server memAddr) (net.Conn, net.Conn) {
	a, b := newMemHalf(), newMemHalf()
	return &memConn{in: a, out: b, local: client, remote: server}, &memConn{in: b, out: a, local: server, remote: client}
}

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

type memConn struct {
	in, out       *memHalf
	local, remote memAddr
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions: what the peer has not read yet stays readable, as with a socket closed in order.
func (c *memConn) Close() error {
	c.in.closeRead()
	c.out.closeWrite()
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) SetDeadline(t time.Time) error {
	c.in.rd.set(c.in, t)
	c.out.wd.set(c.out, t)
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.rd.set(c.in, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.wd.set(c.out, t)
	return nil
}

// memHalf is one direction: a ring that grows to memConnBytes.
type memHalf struct {
	mu     sync.Mutex
	cond   *sync.Cond // anything below changed
	ring   []byte
	start  int // first byte held
	held   int
	noMore bool // the writer closed
	gone   bool // the reader closed
	rd, wd memDeadline
}

type memDeadline struct {
	passed bool
	timer  *time.Timer
}

func newMemHalf() *memHalf {
	h := &memHalf{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

// set arms the deadline; h.mu is not held.
func (d *memDeadline) set(h *memHalf, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		h.cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.timer == timer {
			d.passed = true
			h.cond.Broadcast()
		}
	})
	d.timer = timer
}

func (h *memHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for h.held == 0 {
		switch {
		case h.gone:
			return 0, net.ErrClosed
		case h.noMore:
			return 0, io.EOF
		case h.rd.passed:
			return 0, os.ErrDeadlineExceeded
		}
		h.cond.Wait()
	}
	n := 0
	for n < len(p) && h.held > 0 {
		end := min(h.start+h.held, len(h.ring))
		k := copy(p[n:], h.ring[h.start:end])
		n += k
		h.held -= k
		h.start += k
		if h.start == len(h.ring) {
			h.start = 0
		}
	}
	if h.held == 0 {
		h.start = 0
	}
	h.cond.Broadcast()
	return n, nil
}

func (h *memHalf) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n < len(p) {
		switch {
		case h.noMore:
			return n, net.ErrClosed
		case h.gone:
			return n, io.ErrClosedPipe
		case h.wd.passed:
			return n, os.ErrDeadlineExceeded
		}
		if h.held == memConnBytes {
			h.cond.Wait()
			continue
		}
		h.grow(len(p) - n)
		at := (h.start + h.held) % len(h.ring)
		end := len(h.ring)
		if at < h.start {
			end = h.start
		}
		k := copy(h.ring[at:end], p[n:])
		n += k
		h.held += k
		h.cond.Broadcast()
	}
	return n, nil
}

// grow makes room for more bytes, up to memConnBytes in all.
func (h *memHalf) grow(more int) {
	want := min(h.held+more, memConnBytes)
	if want <= len(h.ring) {
		return
	}
	size := max(4096, len(h.ring))
	for size < want {
		size *= 2
	}
	ring := make([]byte, size)
	k := copy(ring, h.ring[h.start:min(h.start+h.held, len(h.ring))])
	copy(ring[k:], h.ring[:h.held-k])
	h.ring, h.start = ring, 0
}

func (h *memHalf) closeRead() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	h.held, h.ring, h.start = 0, nil, 0
	h.cond.Broadcast()
}

func (h *memHalf) closeWrite() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noMore = true
	h.cond.Broadcast()
}
