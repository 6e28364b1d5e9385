package broker

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// SaslHandshake, key 17: v0–1 (KIP-43, KIP-152)
//
//   - v0: what the mechanism says follows in frames without any header. librdkafka asks for it in ApiVersions before it authenticates at all
//   - v1: it is carried by SaslAuthenticate
//
// On a connection that is known already v1 begins another authentication (KIP-368).

func handleSaslHandshake(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.SASLHandshakeRequest)
	resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SupportedMechanisms = c.l.mechanisms()
	m := auth.Mechanism(req.Mechanism)
	switch {
	case len(c.l.sasl) == 0:
		resp.ErrorCode = kerr.IllegalSaslState.Code
	case req.Version == 0 && c.session.Load() != nil:
		resp.ErrorCode = kerr.IllegalSaslState.Code
		c.last = true
	case !slices.Contains(c.l.sasl, m):
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		c.last = true
	default:
		c.sasl, c.bare = auth.NewConversation(m, &s.access), req.Version == 0
	}
	return answer(resp)
}

// errNotWho stands in the audit log already.
var errNotWho = &frameError{reason: "authentication"}

// bareToken serves one frame of an authentication that SaslHandshake v0 began. There is no place for an error: a failure closes the connection.
func (c *conn) bareToken() error {
	msg, err := c.in.token()
	if err != nil {
		return err
	}
	reply, done, err := c.sasl.Step(msg)
	if err != nil {
		c.s.audit.authenticationFailed(c, c.sasl)
		return errNotWho
	}
	if done {
		c.authenticated()
	}
	token := appendInt32(make([]byte, 0, 4+len(reply)), int32(len(reply)))
	return c.enqueue(call{api: c.s.greetings[36], started: time.Now(), bare: append(token, reply...)})
}
