package group

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Describe answers DescribeGroups for one group. Member metadata and assignments are shown in Stable only, as in Kafka; authorized
// operations are the caller's to fill in.
func (c *Coordinator) Describe(name string, version int16) kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group, r.AuthorizedOperations = name, math.MinInt32
	if !c.loaded {
		r.ErrorCode = kerr.NotCoordinator.Code
		return r
	}
	g := c.group(name)
	if g == nil {
		r.State = dead.String()
		if version >= 6 { // KIP-1043
			text := "Group " + name + " not found."
			if c.consumers[name] != nil {
				text = "Group " + name + " is not a classic group."
			}
			r.ErrorCode, r.ErrorMessage = kerr.GroupIDNotFound.Code, &text
		}
		return r
	}
	r.State, r.ProtocolType = g.state.String(), g.protocolType
	if g.state == stable {
		r.Protocol = g.protocol
	}
	for _, m := range g.members {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.id, orNil(m.instance), m.client.ID, m.client.Host
		rm.ProtocolMetadata, rm.MemberAssignment = []byte{}, []byte{}
		if g.state == stable {
			rm.ProtocolMetadata, rm.MemberAssignment = m.metadata(g.protocol), m.assignment
		}
		r.Members = append(r.Members, rm)
	}
	return r
}

// List answers ListGroups for this coordinator's groups; empty filters let all pass, and upper and lower case do not matter
// (KIP-518, KIP-848).
func (c *Coordinator) List(states, types []string) []kmsg.ListGroupsResponseGroup {
	has := func(filter []string, s string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, s) })
	}
	var out []kmsg.ListGroupsResponseGroup
	for _, name := range slices.Sorted(maps.Keys(c.consumers)) {
		if s := c.stored(name).phase(); c.store.groups[name] != nil && has(states, s) && has(types, "consumer") {
			lg := kmsg.NewListGroupsResponseGroup()
			lg.Group, lg.ProtocolType, lg.GroupState, lg.GroupType = name, "consumer", s, "consumer"
			out = append(out, lg)
		}
	}
	for _, name := range c.groupNames() {
		g := c.groups[name]
		if has(states, g.state.String()) && has(types, "classic") {
			lg := kmsg.NewListGroupsResponseGroup()
			lg.Group, lg.ProtocolType, lg.GroupState, lg.GroupType = name, g.protocolType, g.state.String(), "classic"
			out = append(out, lg)
		}
	}
	return out
}

// subscribed returns the topics that members of a consumer group subscribe to; nil when some member does not say.
func (g *group) subscribed() map[string]bool {
	topics := map[string]bool{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if g.protocol != "" && p.name != g.protocol {
				continue
			}
			var v kmsg.ConsumerMemberMetadata
			if err := v.ReadFrom(p.metadata); err != nil {
				return nil
			}
			for _, t := range v.Topics {
				topics[t] = true
			}
		}
	}
	return topics
}
