package postgres

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

// The server sends every row in a packet of its own. While they come faster than pacerFrames a millisecond, reading each as it
// comes costs a wake-up of two threads per row, which the server then lacks: so the reader lets them gather for pacerWait, and tells
// the kernel not to wake anybody for fewer than pacerBytes meanwhile. Measured with transactions of one row on two cores: a
// third of the processor time. A source with fewer rows than that is never delayed.
const (
	pacerFrames = 8
	pacerWait   = 500 * time.Microsecond
	pacerBytes  = 64 << 10
)

// pacer belongs to the reader goroutine.
type pacer struct {
	raw    syscall.RawConn // nil when the connection is no socket
	since  time.Time
	frames int // since then
	busy   bool
}

func newPacer(c net.Conn) *pacer {
	p := &pacer{since: time.Now()}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if s, ok := c.(syscall.Conn); ok {
		p.raw, _ = s.SyscallConn()
	}
	return p
}

// wait is called when all that was received is decoded; lastRead is how much the last read brought.
func (p *pacer) wait(lastRead int) {
	now := time.Now()
	if d := now.Sub(p.since); d >= time.Millisecond {
		p.busy = int64(p.frames)*int64(time.Millisecond) >= pacerFrames*int64(d)
		p.since, p.frames = now, 0
	}
	if !p.busy || lastRead >= wireBufferBytes/2 {
		return
	}
	p.lowWater(pacerBytes)
	time.Sleep(pacerWait)
	p.lowWater(1) // before any read, which would otherwise wait for that much
}
