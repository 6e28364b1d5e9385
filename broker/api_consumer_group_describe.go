package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

// ConsumerGroupDescribe, key 69: v0–1 (KIP-848)
//
//   - v1: the protocol that each member speaks (KIP-1099)

func handleConsumerGroupDescribe(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ConsumerGroupDescribeRequest)
	r := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	for _, name := range req.Groups {
		s.groupShard(name).do(func(_ time.Time, gc *group.Coordinator) {
			g := gc.DescribeConsumer(name)
			if req.IncludeAuthorizedOperations && g.ErrorCode == 0 {
				g.AuthorizedOperations = groupOperations
			}
			r.Groups = append(r.Groups, g)
		})
	}
	return answer(r)
}
