package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// OffsetDelete, key 47: v0 (KIP-496)

func handleOffsetDelete(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.OffsetDeleteRequest)
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.DeleteOffsets(now, req, s.partitionTopics(), w)
	}).pending(c, req)
}
