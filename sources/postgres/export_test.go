package postgres

import (
	"bytes"
	"net"
	"sync"
	"time"

	"github.com/outrelay/outrelay/sources"
)

// Feed runs a stream over recorded frames, as if a server had sent them, and returns it with what the stream writes.
func Feed(s *Source, at Place, frames []byte) (sources.Stream, *FakeConn) {
	c := &FakeConn{in: bytes.NewReader(frames), closed: make(chan struct{}), Written: make(chan []byte, 1000)}
	st := newStream(s, c, at, map[uint32]string{25: "text"})
	st.wg.Add(2)
	go st.read()
	go st.write()
	return st, c
}

// FakeConn plays frames and then stays open.
type FakeConn struct {
	in      *bytes.Reader
	once    sync.Once
	closed  chan struct{}
	Written chan []byte
}

func (c *FakeConn) Read(b []byte) (int, error) {
	if n, err := c.in.Read(b); err == nil {
		return n, nil
	}
	<-c.closed
	return 0, net.ErrClosed
}

func (c *FakeConn) Write(b []byte) (int, error) {
	select {
	case c.Written <- bytes.Clone(b):
	default:
	}
	return len(b), nil
}

func (c *FakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *FakeConn) LocalAddr() net.Addr              { return nil }
func (c *FakeConn) RemoteAddr() net.Addr             { return nil }
func (c *FakeConn) SetDeadline(time.Time) error      { return nil }
func (c *FakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *FakeConn) SetWriteDeadline(time.Time) error { return nil }

// ParseTable is parseTable, for its test.
func ParseTable(s string) (schema, name string, err error) {
	t, err := parseTable(s)
	return t.schema, t.name, err
}

// SwitchPoint is switchPoint, for its test.
func SwitchPoint(history string, tli int32) (LSN, bool) { return switchPoint(history, tli) }
