package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// Heartbeat, key 12: v0–4
//
//   - v1: throttle time; v3: group instance id (KIP-345); v4: flexible

func handleHeartbeat(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.HeartbeatRequest)
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Heartbeat(now, req, w)
	}).pending(c, req)
}
