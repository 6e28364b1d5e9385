package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/auth"
)

// listener is one address, in memory or TCP.
type listener struct {
	name string
	host string // advertised
	port int32
	tls  *tls.Config      // nil: plaintext
	sasl []auth.Mechanism // that are offered; none: no SASL
	tcp  net.Listener     // nil in memory
	mem  chan net.Conn    // nil for TCP
	done chan struct{}
	once sync.Once

	saidAt time.Time // when it was last logged that accepting fails; the accepting goroutine's
}

func (l *listener) advertised() string { return net.JoinHostPort(l.host, strconv.Itoa(int(l.port))) }

func (l *listener) close() {
	l.once.Do(func() {
		close(l.done)
		if l.tcp != nil {
			_ = l.tcp.Close()
		}
	})
}

// dial connects in memory. It blocks until the server accepts.
func (l *listener) dial(ctx context.Context) (net.Conn, error) {
	a, b := memPipe("client.internal", memAddr(l.advertised()))
	select {
	case l.mem <- b:
		return a, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "mem", Addr: memAddr(l.advertised()), Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bindListeners makes the in-memory listener and binds the TCP ones.
func (s *Server) bindListeners() error {
	host, port, _ := splitAddr(s.opts.InternalAddr)
	s.listeners = []*listener{{
		name: "internal", host: host, port: port,
		mem: make(chan net.Conn), done: make(chan struct{}),
	}}
	for _, o := range s.opts.Listeners {
		ln, err := net.Listen("tcp", o.Addr)
		if err != nil {
			return listenError(o, err)
		}
		l := &listener{name: o.Name, tls: o.TLS, sasl: o.SASL, tcp: ln, done: make(chan struct{})}
		s.listeners = append(s.listeners, l)
		if err := l.advertise(o); err != nil {
			return err
		}
		s.log.Info("kafka listener", "name", l.name, "address", ln.Addr().String(), "advertised", l.advertised(), "protocol", o.protocol())
	}
	return nil
}

// advertise decides what answers on this listener call this node.
func (l *listener) advertise(o Listener) (err error) {
	if o.Advertised != "" {
		l.host, l.port, err = splitAddr(o.Advertised)
		if err == nil && l.port == 0 {
			_, l.port, err = splitAddr(l.tcp.Addr().String())
		}
		return err
	}
	if l.host, l.port, err = splitAddr(l.tcp.Addr().String()); err != nil {
		return err
	}
	given, _, _ := splitAddr(o.Addr)
	switch ip := net.ParseIP(l.host); {
	case ip != nil && ip.IsUnspecified():
		// A client cannot connect to a wildcard address; the host's name is the best guess, as Kafka's.
		if l.host, err = os.Hostname(); err != nil {
			return fmt.Errorf("broker: listener %s: %w: say what to advertise", o.Name, err)
		}
	case given != "" && net.ParseIP(given) == nil:
		l.host = given
	}
	return nil
}

func listenError(o Listener, err error) error {
	e := &outrelay.Error{
		Class: outrelay.ErrEnvironment, Code: "listen", Place: "listener " + o.Name,
		Cause: "cannot listen on " + o.Addr, Err: err, Fix: "choose another address, or check what the host allows",
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		e.Code, e.Fix = "port-in-use", "another process has this port: stop it, or choose another port (--kafka-listen)"
	}
	return e
}

// accept serves the connections of one listener until it is closed.
func (s *Server) accept(l *listener) {
	for {
		nc, err := l.accept()
		if err != nil {
			select {
			case <-l.done:
				return
			default:
			}
			l.acceptFailed(s, err) // out of file descriptors, most likely
			pause := s.clock.NewTimer(acceptPause)
			select {
			case <-l.done:
				pause.Stop()
				return
			case <-pause.C():
			}
			continue
		}
		s.admit(l, nc)
	}
}

// admit serves a new connection, or closes it where there are too many.
func (s *Server) admit(l *listener, nc net.Conn) {
	refuse := func(reason string) {
		s.metrics.refused.WithLabelValues(reason).Inc()
		_ = nc.Close()
	}
	ip := addressOf(nc)
	if reason := s.addresses.take(ip, s.clock.Now()); reason != "" {
		refuse(reason)
		return
	}
	c := newConn(s, l, nc)
	if !c.takePreAuth() {
		s.addresses.give(ip)
		refuse("authentication memory")
		return
	}
	if !s.conns.add(c, s.connectionsMax) {
		c.givePreAuth()
		s.addresses.give(ip)
		refuse("connections")
		return
	}
	s.goRun(func() {
		defer s.addresses.give(ip)
		defer s.conns.remove(c)
		c.serve()
	})
}

// addressOf returns the client's address; the zero one in memory.
func addressOf(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (l *listener) accept() (net.Conn, error) {
	if l.tcp != nil {
		return l.tcp.Accept()
	}
	select {
	case c := <-l.mem:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// connSet is the open connections.
type connSet struct {
	mu     sync.Mutex
	open   map[*conn]struct{}
	tcp    int // how many of them count against the limit
	closed bool
}

// add registers c, or returns false when limit TCP connections are open or the server is closing.
func (cs *connSet) add(c *conn, limit int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed || c.l.tcp != nil && cs.tcp >= limit {
		return false
	}
	if cs.open == nil {
		cs.open = make(map[*conn]struct{})
	}
	cs.open[c] = struct{}{}
	if c.l.tcp != nil {
		cs.tcp++
	}
	return true
}

func (cs *connSet) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	if c.l.tcp != nil {
		cs.tcp--
	}
}

func (cs *connSet) closeAll() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.open {
		c.close(ErrClosed)
	}
}

func (cs *connSet) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}
