package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// LeaveGroup, key 13: v0–5
//
//   - v1: throttle time
//   - v3: several members, by member or instance id (KIP-345)
//   - v4: flexible; v5: reason (KIP-800)

func handleLeaveGroup(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.LeaveGroupRequest)
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Leave(now, req, w)
	}).pending(c, req)
}
