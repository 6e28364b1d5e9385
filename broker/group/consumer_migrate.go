package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// upgrade lets a member of the consumer protocol into a classic group without members, which becomes a consumer group by the member's own
// records. Offsets stay as they are.
func (c *Coordinator) upgrade(_ time.Time, g *group) (*consumerGroup, *kerr.Error) {
	switch {
	case g.state == dead:
		return nil, kerr.CoordinatorNotAvailable
	case g.state != empty:
		return nil, kerr.GroupIDNotFound
	}
	c.forget(g)
	n := c.newConsumerGroup(g.name)
	n.classic = g.protocolType != ""
	return n, nil
}

// downgrade lets a member of the classic protocol into a consumer group without members: when what is known of the group is deleted, apart from
// its offsets, the member joins a classic one.
func (c *Coordinator) downgrade(now time.Time, g *consumerGroup, client Client, req *kmsg.JoinGroupRequest, to any) {
	refuse := func(e *kerr.Error) { c.reply(to, errJoin(e, req.MemberID)) }
	join := turn{run: func(now time.Time) { c.Join(now, client, req, to) }, refuse: refuse}
	if g.await(join) {
		return
	}
	s := c.stored(g.name)
	if len(s.members) > 0 {
		refuse(kerr.InconsistentGroupProtocol)
		return
	}
	c.step(now, g, s.tombstones(g.name), func(_ time.Time, err *kerr.Error) {
		if err != nil {
			refuse(err)
			return
		}
		g.turns = append([]turn{join}, g.turns...)
	})
}
