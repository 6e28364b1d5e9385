package broker_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
)

// rawConn speaks the protocol byte by byte.
type rawConn struct {
	net.Conn
	t    testing.TB
	corr int32
}

func dialRaw(t testing.TB, n *brokertest.Node) *rawConn {
	t.Helper()
	return &rawConn{Conn: n.Dial(), t: t}
}

// frame returns a request with its size in front, and its correlation id.
func (c *rawConn) frame(req kmsg.Request, version int16) ([]byte, int32) {
	c.corr++
	req.SetVersion(version)
	b := make([]byte, 4, 64)
	b = binary.BigEndian.AppendUint16(b, uint16(req.Key()))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(c.corr))
	b = append(b, headerTail(req, version)...)
	b = req.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b, c.corr
}

// send writes a request and returns its correlation id.
func (c *rawConn) send(req kmsg.Request, version int16) int32 {
	c.t.Helper()
	b, corr := c.frame(req, version)
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
	return corr
}

// receive reads one answer: its correlation id and the bytes after it.
func (c *rawConn) receive() (int32, []byte) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("answer cut: %v", err)
	}
	return int32(binary.BigEndian.Uint32(b)), b[4:]
}

// request sends a request and decodes its answer.
func request[R kmsg.Response](c *rawConn, req kmsg.Request, version int16) R {
	c.t.Helper()
	corr := c.send(req, version)
	got, b := c.receive()
	if got != corr {
		c.t.Fatalf("answer %d to request %d", got, corr)
	}
	return decode[R](c.t, req, b)
}

// decode decodes what follows an answer's correlation id.
func decode[R kmsg.Response](t testing.TB, req kmsg.Request, b []byte) R {
	t.Helper()
	if req.IsFlexible() && req.Key() != 18 {
		b = b[1:]
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(b); err != nil {
		t.Fatalf("answer to %s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	return resp.(R)
}

// closed fails the test unless the server closes the connection, without having said anything.
func (c *rawConn) closed() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection is still open")
	}
	if len(b) > 0 {
		c.t.Fatalf("answered %q before closing", b)
	}
}

// alive fails the test unless the server still answers new connections.
func alive(t testing.TB, n *brokertest.Node) {
	t.Helper()
	c := dialRaw(t, n)
	defer func() { _ = c.Close() }()
	if r := request[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0); r.ErrorCode != 0 {
		t.Fatalf("ApiVersions: error %d", r.ErrorCode)
	}
}
