package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/semaphore"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/segment"
)

// conn is one client connection. Its reader goroutine owns in, clientID, sasl, last and preAuthHeld, its writer goroutine owns out.
type conn struct {
	s  *Server
	l  *listener
	nc net.Conn

	// ctx ends when the connection does: every wait on behalf of the client ends with it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	session     atomic.Pointer[session] // who the client is; nil: not known yet. Set by the reader
	sasl        *auth.Conversation      // the authentication under way
	bare        bool                    // its tokens come without a header
	last        bool                    // the answer at hand is the last one
	preAuthHeld int64                   // bytes of Server.preAuth
	muted       atomic.Int64            // nothing is read before this time, in nanoseconds: the client has used more than its quota

	in       frameReader
	clientID string // of the request at hand; handlers that keep it must copy it before they return

	queue chan call           // started requests, in order; its capacity is the pipelining limit
	ahead *semaphore.Weighted // bytes of frames, Produce's apart, that were read and not answered yet; capacity pipelinedBytesMax
	owed  atomic.Int32
	out   []byte // reused for every answer
}

// call is a request that was started.
type call struct {
	api      *api
	corr     int32
	flexible bool // the answer's header has tagged fields
	started  time.Time
	pending  pending
	granted  int64  // bytes of the budget that it holds
	ahead    int64  // bytes of conn.ahead that it holds
	bare     []byte // the whole answer, where it is not one of an API

	worked         time.Duration // how long the writer has worked on it, where the API is late
	throttle       time.Duration // by quotas
	quotas         *auth.Quotas  // that the answer is counted against; nil: none
	user, clientID string        // whose
}

// piecesResponse is an answer that is written in several pieces, so that record bytes are not copied.
type piecesResponse interface {
	kmsg.Response
	// appendPieces appends the answer's body to b, with the records between as pieces of their own. It returns all pieces in
	// order and the b that they are parts of.
	appendPieces(b []byte) ([]piece, []byte)
	// release is called once the answer was sent, or will not be.
	release(s *Server)
}

// piece is a part of an answer: bytes in memory, or batches in a file.
type piece struct {
	bytes  []byte
	extent *segment.Extent
}

func newConn(s *Server, l *listener, nc net.Conn) *conn {
	if l.tls != nil {
		nc = tls.Server(nc, l.tls) // the handshake is made by greet
	}
	c := &conn{s: s, l: l, nc: nc, queue: make(chan call, s.opts.MaxPipelined), ahead: semaphore.NewWeighted(pipelinedBytesMax)}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	c.in = frameReader{s: s, nc: nc, br: bufio.NewReaderSize(nc, 4<<10)}
	return c
}

// close ends the connection; reader and writer notice.
func (c *conn) close(cause error) {
	c.cancel(cause)
	_ = c.nc.Close()
}

// advertised returns what answers on this connection call this node.
func (c *conn) advertised() (host string, port int32) { return c.l.host, c.l.port }

// clientHost returns the client's address as Kafka's tools show it.
func (c *conn) clientHost() string {
	if host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String()); err == nil {
		return "/" + host
	}
	return "/" + c.nc.RemoteAddr().String()
}

// serve runs the connection until it ends.
func (c *conn) serve() {
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		c.write()
	}()
	err := c.greet()
	if err == nil {
		err = c.read()
	}
	if errors.Is(err, errLastAnswer) {
		close(c.queue)
		<-wrote
		c.close(err)
	} else {
		c.close(err)
		close(c.queue)
		<-wrote
	}
	c.givePreAuth()
	c.logEnd(context.Cause(c.ctx))
}

func (c *conn) logEnd(err error) {
	var fe *frameError
	switch {
	case errors.As(err, &fe):
		c.s.metrics.refused.WithLabelValues(fe.reason).Inc()
		if fe.reason != "idle" && fe != errUnauthenticated && fe != errNotWho {
			c.s.log.Warn("connection closed", "client", c.nc.RemoteAddr().String(), "listener", c.l.name, "reason", fe.reason, "hint", fe.hint)
		}
	case errors.Is(err, errFrame):
		c.s.metrics.refused.WithLabelValues("malformed").Inc()
		c.s.log.Warn("connection closed", "client", c.nc.RemoteAddr().String(), "listener", c.l.name, "reason", err)
	case err == nil, errors.Is(err, errLastAnswer), errors.Is(err, io.EOF), errors.Is(err, ErrClosed), errors.Is(err, net.ErrClosed):
	default:
		c.s.log.Debug("connection closed", "client", c.nc.RemoteAddr().String(), "listener", c.l.name, "reason", err)
	}
}

// pipelinedBytesMax is what the frames of one connection may have together that were read and not answered yet; a larger one comes alone. A request that
// is decoded takes a few tens of times its frame, and a client that does not read its answers makes all of them wait.
const pipelinedBytesMax = 1 << 20

// read starts requests until the connection ends. It stops reading while MaxPipelined answers are owed, or pipelinedBytesMax bytes of requests, and
// while the budget has no room for a Produce body.
func (c *conn) read() error {
	busy := func() bool { return c.owed.Load() > 0 }
	for {
		if c.bare {
			if err := c.bareToken(); err != nil {
				return err
			}
			continue
		}
		if err := c.awaitUnmuted(c.ctx); err != nil {
			return err
		}
		n, h, err := c.in.next(busy)
		if err != nil {
			return err
		}
		if err := c.request(n, h); err != nil {
			return err
		}
	}
}

// request reads the rest of one request, starts it and queues its answer.
func (c *conn) request(n int, h header) error {
	a, err := c.table(h)
	if err != nil {
		return err
	}
	var granted, ahead int64
	if h.key == 0 {
		granted = min(int64(n), c.s.opts.MemoryBytes)
		if err := c.grant(granted); err != nil {
			return err
		}
	} else if c.l.tcp != nil { // clients of this process are never held back by what is no Produce
		ahead = min(int64(n), pipelinedBytesMax)
		done, err := c.admitFrame(n, ahead)
		if err != nil {
			return err
		}
		defer done()
	}
	call, err := c.start(a, h, n, granted)
	if err != nil {
		c.s.budget.Release(granted)
		return err
	}
	call.granted, call.ahead = granted, ahead
	c.charge(&call, n)
	return c.enqueue(call)
}

// admitFrame waits until there is room for the frame of a request that is no Produce: ahead bytes of the connection's own, which the writer gives back, and
// for a large one of what may arrive over all connections, which done gives back.
func (c *conn) admitFrame(n int, ahead int64) (done func(), err error) {
	if err := c.ahead.Acquire(c.ctx, ahead); err != nil {
		return nil, context.Cause(c.ctx)
	}
	if n <= frameStepBytes {
		return func() {}, nil
	}
	if err := c.s.arriving.Acquire(c.ctx, int64(n)); err != nil {
		return nil, context.Cause(c.ctx)
	}
	return func() { c.s.arriving.Release(int64(n)) }, nil
}

// enqueue hands a started request to the writer. It waits while too many answers are owed.
func (c *conn) enqueue(k call) error {
	c.owed.Add(1)
	select {
	case c.queue <- k:
		if c.last {
			return errLastAnswer
		}
		return nil
	case <-c.ctx.Done():
		c.s.budget.Release(k.granted)
		return context.Cause(c.ctx)
	}
}

// grant takes n bytes of the budget, waiting when there are none.
func (c *conn) grant(n int64) error {
	if c.s.budget.TryAcquire(n) {
		return nil
	}
	c.s.metrics.throttled.Inc()
	if err := c.s.budget.Acquire(c.ctx, n); err != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// start reads and decodes a request's body and calls its handler.
func (c *conn) start(a *api, h header, n int, granted int64) (call, error) {
	body, err := c.in.body(n, granted > 0)
	if err != nil {
		return call{}, err
	}
	if granted > 0 {
		defer c.s.bodies.Put(body) // handleProduce keeps nothing of it
	}
	started := time.Now()
	if a == nil {
		return call{}, &frameError{reason: "unknown api", hint: fmt.Sprintf("key %d, version %d", h.key, h.version)}
	}
	k := call{api: a, corr: h.corr, started: started}
	if h.version < a.min || h.version > a.max {
		if k.pending = c.s.unsupported(a, h); k.pending == nil {
			return call{}, &frameError{reason: "unsupported version", hint: fmt.Sprintf("api %d version %d, from %d to %d are served", h.key, h.version, a.min, a.max)}
		}
		return k, nil
	}
	k.flexible = h.version >= a.flexible
	body, err = parseHeader(&h, body, k.flexible)
	if err != nil {
		return call{}, err
	}
	req, err := decodeRequest(a, h.version, body)
	if err != nil {
		return call{}, fmt.Errorf("api %d version %d: %w", h.key, h.version, err)
	}
	if string(h.clientID) != c.clientID {
		c.clientID = string(h.clientID)
	}
	k.flexible = k.flexible && h.key != 18 // ApiVersions is answered with header v0, so that any client can read it
	k.pending, err = c.handle(a, req)
	return k, err
}

// handle calls the handler. A panic is a bug in one request: it ends this connection, not the server.
func (c *conn) handle(a *api, req kmsg.Request) (p pending, err error) {
	if a.late {
		return func() kmsg.Response { return c.guarded(a, req)() }, nil // under wait's recovery
	}
	defer c.recovered(a, &err)
	return c.guarded(a, req), nil
}

func (c *conn) recovered(a *api, err *error) {
	if r := recover(); r != nil {
		c.s.metrics.panics.Inc()
		c.s.log.Error("request handler panicked", "api", kmsg.NameForKey(a.key), "panic", r, "stack", string(debug.Stack()))
		*err = fmt.Errorf("api %s: panic: %v", kmsg.NameForKey(a.key), r)
	}
}

// write completes requests in their order and sends the answers. After the connection ended it still completes what was started, so
// that nothing it holds is kept.
func (c *conn) write() {
	for k := range c.queue {
		if k.bare != nil {
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout(len(k.bare))))
			if _, err := c.nc.Write(k.bare); err != nil {
				c.close(err)
			}
			c.owed.Add(-1)
			continue
		}
		resp, err := c.waitFor(&k)
		if err == nil && resp != nil && c.ctx.Err() == nil {
			c.chargeAnswer(&k, resp)
			err = c.send(k, resp)
		}
		if pr, ok := resp.(piecesResponse); ok {
			pr.release(c.s)
		}
		if k.granted > 0 {
			c.s.budget.Release(k.granted)
		}
		c.ahead.Release(k.ahead)
		c.owed.Add(-1)
		c.s.metrics.observe(k.api.key, time.Since(k.started))
		if err != nil {
			c.close(err)
		}
	}
}

// waitFor returns a request's answer, once it is there.
func (c *conn) waitFor(k *call) (resp kmsg.Response, err error) {
	defer c.recovered(k.api, &err)
	if k.api.late {
		began := time.Now()
		defer func() { k.worked = time.Since(began) }()
	}
	return k.pending(), nil
}

// send writes one answer. The deadline grows with its size, so that a slow reader is not a dead one.
func (c *conn) send(k call, resp kmsg.Response) error {
	b := append(c.out[:0], 0, 0, 0, 0)
	b = appendInt32(b, k.corr)
	if k.flexible {
		b = append(b, 0)
	}
	if pr, ok := resp.(piecesResponse); ok {
		pieces, b := pr.appendPieces(b)
		c.keep(b)
		return c.sendPieces(b, pieces)
	}
	b = resp.AppendTo(b)
	c.keep(b)
	putSize(b, len(b)-4)
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout(len(b))))
	_, err := c.nc.Write(b)
	return err
}

// sendPieces writes pieces, the first of which begins with the four bytes of b that are for their size.
func (c *conn) sendPieces(b []byte, pieces []piece) error {
	n := 0
	for _, p := range pieces {
		n += p.len()
	}
	putSize(b, n-4)
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout(n)))
	bufs := make(net.Buffers, 0, len(pieces))
	flush := func() error {
		_, err := bufs.WriteTo(c.nc)
		bufs = bufs[:0]
		return err
	}
	for _, p := range pieces {
		if p.extent == nil {
			bufs = append(bufs, p.bytes)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := p.extent.SendTo(c.nc); err != nil {
			return err
		}
	}
	return flush()
}

func (p piece) len() int {
	if p.extent != nil {
		return int(p.extent.Bytes())
	}
	return len(p.bytes)
}

// sendsFiles reports whether the kernel can send parts of files on this connection as they are.
func (c *conn) sendsFiles() bool { return c.l.tcp != nil && c.l.tls == nil }

// keep holds on to an answer's buffer for the next one, unless it is large.
func (c *conn) keep(b []byte) {
	if cap(b) <= 64<<10 {
		c.out = b[:0]
	} else {
		c.out = nil
	}
}

func putSize(b []byte, n int) {
	appendInt32(b[:0], int32(n))
}

func writeTimeout(n int) time.Duration {
	return 30*time.Second + time.Duration(n>>16)*time.Second // at least 64 KiB/s
}
