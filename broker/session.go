package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/outrelay/outrelay/broker/auth"
)

// What a connection may cost before it is known who its client is.
const (
	// preAuthFrameBytes caps a frame: what SaslHandshake, SaslAuthenticate and ApiVersions need is far smaller.
	preAuthFrameBytes = 16 << 10
	// plainConnBytes and tlsConnBytes are what a connection is counted with: its buffers and one frame, and the state of a TLS handshake.
	plainConnBytes = 32 << 10
	tlsConnBytes   = 96 << 10
)

// session is a client that is known: by SASL, by its certificate, or by the listener it came to. A connection without one has no table of
// APIs; there is nothing in it to call. It is immutable: a new authentication makes a new one.
type session struct {
	who  auth.Principal
	host string // the client's address, as access control lists name it
	mech auth.Mechanism
	apis map[int16]*api

	until time.Time // when it must have authenticated again (KIP-368); zero: never
}

// errLastAnswer ends the reader: nothing more is read, and the connection closes when the answers that are owed were sent.
var errLastAnswer = errors.New("closed after its last answer")

// enter makes the client known. It is called by the reader, and ends the limits of those who are not.
func (c *conn) enter(who auth.Principal, mech auth.Mechanism, until time.Time) {
	c.session.Store(&session{who: who, host: c.address(), mech: mech, apis: c.s.apis, until: until})
	c.in.preAuth, c.in.limit, c.in.until = false, time.Time{}, time.Time{}
	c.givePreAuth()
}

// address returns the client's address without the port.
func (c *conn) address() string {
	if host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String()); err == nil {
		return host
	}
	return c.nc.RemoteAddr().String()
}

// takePreAuth counts the connection among those whose client is not known yet; false says that there are too many.
func (c *conn) takePreAuth() bool {
	n := int64(plainConnBytes)
	if c.l.tls != nil {
		n = tlsConnBytes
	}
	if c.l.tcp == nil {
		return true
	}
	if c.s.preAuth.Add(n) > c.s.opts.PreAuthBytes {
		c.s.preAuth.Add(-n)
		return false
	}
	c.preAuthHeld = n
	return true
}

func (c *conn) givePreAuth() {
	c.s.preAuth.Add(-c.preAuthHeld)
	c.preAuthHeld = 0
}

// greet does what comes before the first frame: the TLS handshake, and the session of a client that needs no SASL. It blocks, within
// the limit for authentication.
func (c *conn) greet() error {
	switch {
	case c.l.tcp == nil:
		c.enter(auth.Internal, "", time.Time{})
		return nil
	case c.l.tls == nil && len(c.l.sasl) == 0:
		c.enter(auth.Anonymous, "", time.Time{})
		return nil
	}
	c.in.preAuth, c.in.limit = true, time.Now().Add(c.s.opts.AuthTimeout)
	who := auth.Anonymous
	if tc, ok := c.nc.(*tls.Conn); ok {
		var err error
		if who, err = c.handshake(tc); err != nil {
			return err
		}
	}
	if len(c.l.sasl) == 0 {
		c.enter(who, "", time.Time{})
	}
	return nil
}

// handshake completes the TLS handshake and returns whom the client's certificate names.
func (c *conn) handshake(tc *tls.Conn) (auth.Principal, error) {
	ctx, cancel := context.WithDeadline(c.ctx, c.in.limit)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil && c.ctx.Err() == nil {
			return "", errAuthTimeout
		}
		return "", &frameError{reason: "tls handshake", hint: handshakeHint(err)}
	}
	certs := tc.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return auth.Anonymous, nil
	}
	who, ok := auth.OfCertificate(certs[0])
	if !ok && len(c.l.sasl) == 0 {
		return "", &frameError{reason: "certificate", hint: "the client's certificate names nobody: it needs a URI, DNS name or e-mail address as subject alternative name"}
	}
	return who, nil
}

func handshakeHint(err error) string {
	if rh, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		if looksLikeHTTP(rh.RecordHeader[:4]) {
			return "an HTTP request came to the Kafka port; the console and metrics are on the HTTP address"
		}
		return "a client without TLS came to a TLS listener; set security.protocol=SSL or SASL_SSL"
	}
	return err.Error()
}

// errUnauthenticated stands in the audit log already.
var errUnauthenticated = &frameError{reason: "unauthenticated"}

var errAuthTimeout = &frameError{reason: "authentication timeout", hint: "the client did not say in time who it is"}

// table returns the API of a request, nil where there is none. Before the client is known there are the three that make it known.
func (c *conn) table(h header) (*api, error) {
	s := c.session.Load()
	if s == nil {
		if a := c.s.greetings[h.key]; a != nil {
			return a, nil
		}
		c.s.audit.unauthenticated(c, h.key)
		return nil, errUnauthenticated
	}
	if !s.until.IsZero() && c.s.clock.Now().After(s.until) && c.s.greetings[h.key] == nil {
		return nil, &frameError{reason: "session expired", hint: "the client did not authenticate again in time (KIP-368)"}
	}
	return s.apis[h.key], nil
}

// mechanisms returns the names of the SASL mechanisms that the listener offers.
func (l *listener) mechanisms() []string {
	names := make([]string, len(l.sasl))
	for i, m := range l.sasl {
		names[i] = string(m)
	}
	return names
}
