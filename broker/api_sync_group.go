package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// SyncGroup, key 14: v0–5
//
//   - v1: throttle time
//   - v3: group instance id (KIP-345)
//   - v4: flexible; v5: protocol type and name (KIP-559)

func handleSyncGroup(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.SyncGroupRequest)
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Sync(now, req, w)
	}).pending(c, req)
}
