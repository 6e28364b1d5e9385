package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// DescribeGroups, key 15: v0–6
//
//   - v1: throttle time; v3: authorized operations (KIP-430)
//   - v4: group instance id (KIP-345); v5: flexible
//   - v6: GROUP_ID_NOT_FOUND and a message (KIP-1043); before, an unknown group is Dead

// groupOperations are the operations on a group as a bit field: READ, DELETE, DESCRIBE. Everybody may do all of them.
const groupOperations = 1<<3 | 1<<6 | 1<<8

func handleDescribeGroups(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeGroupsRequest)
	r := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, name := range req.Groups {
		s.groupShard(name).do(func(_ time.Time, gc *group.Coordinator) {
			g := gc.Describe(name, req.Version)
			if req.IncludeAuthorizedOperations && g.ErrorCode == 0 {
				g.AuthorizedOperations = groupOperations
			}
			r.Groups = append(r.Groups, g)
		})
	}
	return answer(r)
}
