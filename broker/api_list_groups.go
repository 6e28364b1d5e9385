package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// ListGroups, key 16: v0–5
//
//   - v1: throttle time; v3: flexible
//   - v4: states (KIP-518); v5: types (KIP-848)

func handleListGroups(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ListGroupsRequest)
	r := req.ResponseKind().(*kmsg.ListGroupsResponse)
	for _, sh := range s.shards().groups {
		sh.do(func(_ time.Time, gc *group.Coordinator) {
			r.Groups = append(r.Groups, gc.List(req.StatesFilter, req.TypesFilter)...)
		})
	}
	return answer(r)
}
