package group

import (
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConsumer answers ConsumerGroupDescribe for one group. Authorized operations are the caller's to fill in.
func (c *Coordinator) DescribeConsumer(name string) kmsg.ConsumerGroupDescribeResponseGroup {
	r := kmsg.NewConsumerGroupDescribeResponseGroup()
	r.Group, r.AuthorizedOperations = name, math.MinInt32
	sg := c.store.groups[name]
	switch {
	case !c.loaded:
		r.ErrorCode = kerr.NotCoordinator.Code
		return r
	case name == "":
		r.ErrorCode = kerr.InvalidGroupID.Code
		return r
	case sg == nil || sg.consumer == nil:
		text := "Group " + name + " not found."
		if c.groups[name] != nil {
			text = "Group " + name + " is not a consumer group."
		}
		r.ErrorCode, r.ErrorMessage = kerr.GroupIDNotFound.Code, &text
		return r
	}
	s, topics := sg.consumer, c.o.Metadata()
	r.State, r.Epoch, r.AssignmentEpoch, r.AssignorName = s.phase(), s.epoch, s.targetEpoch, s.preferred()
	for _, id := range s.ids() {
		m := s.members[id]
		d := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		d.MemberID, d.InstanceID, d.RackID, d.MemberEpoch = id, orNil(m.instance), orNil(m.rack), m.epoch
		d.ClientID, d.ClientHost, d.SubscribedTopics, d.SubscribedTopicRegex = m.client.ID, m.client.Host, m.topics, orNil(m.regex)
		d.Assignment, d.TargetAssignment = described(m.assigned, topics), described(s.target[id], topics)
		if d.MemberType = 1; m.classic != nil {
			d.MemberType = 0
		}
		r.Members = append(r.Members, d)
	}
	return r
}

// described is an assignment with the names of its topics; one that is gone has none.
func described(s slots, topics Metadata) kmsg.Assignment {
	a := kmsg.NewAssignment()
	for _, ps := range groupSlots(s) {
		t := kmsg.NewAssignmentTopicPartition()
		t.TopicID = ps[0].topic
		t.Topic, _ = topics.TopicName(t.TopicID)
		for _, p := range ps {
			t.Partitions = append(t.Partitions, p.partition)
		}
		a.TopicPartitions = append(a.TopicPartitions, t)
	}
	return a
}

// subscribedBy returns the topics that members of a consumer group subscribe to.
func (c *Coordinator) subscribedBy(g *consumerGroup) map[string]bool {
	p := c.newPlan(g)
	topics := map[string]bool{}
	for _, m := range p.now.members {
		for _, t := range p.subscription(m) {
			topics[t] = true
		}
	}
	return topics
}
