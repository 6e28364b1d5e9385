package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// ConsumerGroupHeartbeat, key 68: v0–1 (KIP-848)
//
//   - v0: the group's coordinator makes the member's id if it has none
//   - v1: subscription by a regular expression, resolved here (RE2); the client makes its own member id
//
// The answer comes after what it says is durable and applied.

func handleConsumerGroupHeartbeat(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ConsumerGroupHeartbeatRequest)
	if s.featureLevel(featureGroups) < 1 {
		r := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		r.ErrorCode = kerr.UnsupportedVersion.Code
		r.ErrorMessage = new("group.version is 0 (UpdateFeatures): only the classic protocol is served")
		return answer(r)
	}
	client := group.Client{ID: c.clientID, Host: c.clientHost()}
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.ConsumerHeartbeat(now, client, req, w)
	}).pending(c, req)
}
