package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// JoinGroup, key 11: v0–9
//
//   - v1: rebalance timeout (KIP-62)
//   - v4: MEMBER_ID_REQUIRED (KIP-394)
//   - v5: group instance id (KIP-345)
//   - v6: flexible; v7: protocol type in the answer (KIP-559)
//   - v8: reason (KIP-800); v9: skip assignment (KIP-814)

func handleJoinGroup(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.JoinGroupRequest)
	client := group.Client{ID: c.clientID, Host: c.clientHost()}
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.Join(now, client, req, w)
	}).pending(c, req)
}
