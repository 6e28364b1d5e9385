package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// DeleteGroups, key 42: v0–2
//
//   - v1: throttle time; v2: flexible

func handleDeleteGroups(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DeleteGroupsRequest)
	waiting := make([]*waiter, len(req.Groups))
	for i, name := range req.Groups {
		waiting[i] = s.askGroup(name, func(now time.Time, gc *group.Coordinator, w *waiter) { gc.DeleteGroup(now, name, w) })
	}
	return func() kmsg.Response {
		r := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
		for _, w := range waiting {
			g, ok := w.wait(c.ctx).(kmsg.DeleteGroupsResponseGroup)
			if !ok {
				return nil
			}
			r.Groups = append(r.Groups, g)
		}
		return r
	}
}
