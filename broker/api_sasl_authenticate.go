package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// SaslAuthenticate, key 36: v0–2
//
//   - v0: KIP-152; v1: session lifetime (KIP-368); v2: flexible
//
// A failure is one error with one text, whatever was wrong, and closes the connection. It runs in the connection's reader: what comes
// behind it is read by whoever the client is then.

func handleSaslAuthenticate(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.SASLAuthenticateRequest)
	resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	if c.sasl == nil || c.bare {
		resp.ErrorCode = kerr.IllegalSaslState.Code
		resp.ErrorMessage = new("SaslHandshake comes first")
		c.last = len(c.l.sasl) > 0
		return answer(resp)
	}
	reply, done, err := c.sasl.Step(req.SASLAuthBytes)
	who := auth.User(c.sasl.Claimed())
	before := c.session.Load()
	if err == nil && done && before != nil && (before.who != who || before.mech != c.sasl.Mechanism()) {
		err = auth.ErrAuthentication // a session is one principal's, by one mechanism
	}
	if err != nil {
		s.audit.authenticationFailed(c, c.sasl)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		resp.ErrorMessage = new("Authentication failed during authentication due to invalid credentials with SASL mechanism " + string(c.sasl.Mechanism()))
		c.last = true
		return answer(resp)
	}
	resp.SASLAuthBytes = reply
	if resp.SASLAuthBytes == nil {
		resp.SASLAuthBytes = []byte{}
	}
	if done {
		c.authenticated()
		resp.SessionLifetimeMillis = s.opts.Access.SessionLifetime.Milliseconds()
	}
	return answer(resp)
}

// authenticated ends an authentication that succeeded.
func (c *conn) authenticated() {
	var until time.Time
	if life := c.s.opts.Access.SessionLifetime; life > 0 {
		until = c.s.clock.Now().Add(life)
	}
	c.enter(auth.User(c.sasl.Claimed()), c.sasl.Mechanism(), until)
	c.sasl, c.bare = nil, false
}
