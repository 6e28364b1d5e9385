package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// SaslHandshake, key 17: v1 (KIP-43, KIP-152)
//
// It names the mechanism; SaslAuthenticate carries what the mechanism says. v0 is not served: after it, tokens come without any header, which no
// client of the last years does by default. On a connection that is known already it begins another authentication (KIP-368).

func handleSaslHandshake(_ *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.SASLHandshakeRequest)
	resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SupportedMechanisms = c.l.mechanisms()
	m := auth.Mechanism(req.Mechanism)
	switch {
	case len(c.l.sasl) == 0:
		resp.ErrorCode = kerr.IllegalSaslState.Code
	case !slices.Contains(c.l.sasl, m):
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		c.last = true
	default:
		c.sasl = auth.NewConversation(m, &c.s.access)
	}
	return answer(resp)
}
