package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// The guards of the APIs about groups.

func guardOffsetCommit(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.OffsetCommitRequest)
	code := topicDenied.Code
	ok := func(t *kmsg.OffsetCommitRequestTopic) bool {
		allowed, _ := g.topic(auth.Read, t.Topic, t.TopicID, req.Version >= 10)
		return allowed
	}
	if !g.may(auth.Read, auth.Group, req.Group) {
		code = groupDenied.Code
		ok = func(*kmsg.OffsetCommitRequestTopic) bool { return false }
	}
	var denied []kmsg.OffsetCommitRequestTopic
	req.Topics, denied = split(req.Topics, ok)
	patch := func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.OffsetCommitResponse)
		for _, t := range denied {
			st := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
			for _, p := range t.Partitions {
				st.Partitions = append(st.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
	if len(req.Topics) == 0 && len(denied) > 0 {
		resp := req.ResponseKind()
		patch(resp)
		return resp, nil
	}
	return nil, patch
}

// guardOffsetFetch: who may describe the group sees the offsets of the topics that it may describe.
func guardOffsetFetch(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.OffsetFetchRequest)
	if req.Version < 8 {
		return guardOffsetFetchOne(g, req)
	}
	var denied []kmsg.OffsetFetchRequestGroup
	req.Groups, denied = split(req.Groups, func(rg *kmsg.OffsetFetchRequestGroup) bool { return g.may(auth.Describe, auth.Group, rg.Group) })
	hidden := make(map[string][]kmsg.OffsetFetchRequestGroupTopic)
	for i := range req.Groups {
		rg := &req.Groups[i]
		if rg.Topics != nil {
			rg.Topics, hidden[rg.Group] = split(rg.Topics, func(t *kmsg.OffsetFetchRequestGroupTopic) bool {
				allowed, _ := g.topic(auth.Describe, t.Topic, t.TopicID, req.Version >= 10)
				return allowed
			})
		}
	}
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.OffsetFetchResponse)
		for i := range resp.Groups {
			sg := &resp.Groups[i]
			if sg.ErrorCode == 0 {
				sg.Topics, _ = split(sg.Topics, func(t *kmsg.OffsetFetchResponseGroupTopic) bool {
					return t.Topic == "" || g.can(auth.Describe, auth.Topic, t.Topic) // an id that names nothing tells nothing
				})
			}
			sg.Topics = append(sg.Topics, offsetErrors(hidden[sg.Group], topicDenied.Code)...)
		}
		for _, rg := range denied {
			sg := kmsg.NewOffsetFetchResponseGroup()
			sg.Group, sg.ErrorCode = rg.Group, groupDenied.Code
			resp.Groups = append(resp.Groups, sg)
		}
	}
}

func guardOffsetFetchOne(g *gate, req *kmsg.OffsetFetchRequest) (kmsg.Response, func(kmsg.Response)) {
	code, refuseAll := topicDenied.Code, false
	if !g.may(auth.Describe, auth.Group, req.Group) {
		code, refuseAll = groupDenied.Code, true
	}
	var denied []kmsg.OffsetFetchRequestTopic
	if req.Topics != nil {
		req.Topics, denied = split(req.Topics, func(t *kmsg.OffsetFetchRequestTopic) bool {
			return !refuseAll && g.may(auth.Describe, auth.Topic, t.Topic)
		})
	}
	patch := func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.OffsetFetchResponse)
		resp.Topics, _ = split(resp.Topics, func(t *kmsg.OffsetFetchResponseTopic) bool { return g.can(auth.Describe, auth.Topic, t.Topic) })
		for _, t := range denied {
			st := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				sp := kmsg.NewOffsetFetchResponseTopicPartition()
				sp.Partition, sp.Offset, sp.LeaderEpoch, sp.Metadata, sp.ErrorCode = p, -1, -1, kmsg.StringPtr(""), code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
	if refuseAll {
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		resp.ErrorCode = code
		patch(resp)
		return resp, nil
	}
	return nil, patch
}

// guardFindCoordinator: before v4 there is one key.
func guardFindCoordinator(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.FindCoordinatorRequest)
	t, refused := auth.Group, groupDenied
	if req.CoordinatorType == coordinatorTxn {
		t, refused = auth.TransactionalID, txnIDDenied
	}
	if req.Version < 4 {
		if g.may(auth.Describe, t, req.CoordinatorKey) {
			return nil, nil
		}
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.NodeID, resp.Port, resp.ErrorCode, resp.ErrorMessage = -1, -1, refused.Code, &refused.Description
		return resp, nil
	}
	var denied []string
	req.CoordinatorKeys, denied = split(req.CoordinatorKeys, func(key *string) bool { return g.may(auth.Describe, t, *key) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.FindCoordinatorResponse)
		for _, key := range denied {
			sc := kmsg.NewFindCoordinatorResponseCoordinator()
			sc.Key, sc.NodeID, sc.Port, sc.ErrorCode, sc.ErrorMessage = key, -1, -1, refused.Code, &refused.Description
			resp.Coordinators = append(resp.Coordinators, sc)
		}
	}
}

func guardJoinGroup(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.JoinGroupRequest)
	if g.may(auth.Read, auth.Group, req.Group) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.ErrorCode, resp.Generation, resp.Protocol, resp.MemberID = groupDenied.Code, -1, kmsg.StringPtr(""), req.MemberID
	return resp, nil
}

func guardHeartbeat(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.HeartbeatRequest)
	if g.may(auth.Read, auth.Group, req.Group) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	resp.ErrorCode = groupDenied.Code
	return resp, nil
}

func guardLeaveGroup(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.LeaveGroupRequest)
	if g.may(auth.Read, auth.Group, req.Group) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	resp.ErrorCode = groupDenied.Code
	return resp, nil
}

func guardSyncGroup(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.SyncGroupRequest)
	if g.may(auth.Read, auth.Group, req.Group) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	resp.ErrorCode = groupDenied.Code
	return resp, nil
}

func guardDescribeGroups(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeGroupsRequest)
	var denied []string
	req.Groups, denied = split(req.Groups, func(name *string) bool { return g.may(auth.Describe, auth.Group, *name) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DescribeGroupsResponse)
		for i := range resp.Groups {
			if sg := &resp.Groups[i]; req.IncludeAuthorizedOperations && sg.ErrorCode == 0 {
				sg.AuthorizedOperations = g.operations(auth.Group, sg.Group)
			}
		}
		for _, name := range denied {
			sg := kmsg.NewDescribeGroupsResponseGroup()
			sg.Group, sg.ErrorCode = name, groupDenied.Code
			resp.Groups = append(resp.Groups, sg)
		}
	}
}

// guardListGroups leaves out what may not be described, unless the cluster may be.
func guardListGroups(g *gate, _ kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	if g.can(auth.Describe, auth.Cluster, auth.ClusterName) {
		return nil, nil
	}
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.ListGroupsResponse)
		resp.Groups, _ = split(resp.Groups, func(sg *kmsg.ListGroupsResponseGroup) bool { return g.can(auth.Describe, auth.Group, sg.Group) })
	}
}

func guardDeleteGroups(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DeleteGroupsRequest)
	var denied []string
	req.Groups, denied = split(req.Groups, func(name *string) bool { return g.may(auth.Delete, auth.Group, *name) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DeleteGroupsResponse)
		for _, name := range denied {
			sg := kmsg.NewDeleteGroupsResponseGroup()
			sg.Group, sg.ErrorCode = name, groupDenied.Code
			resp.Groups = append(resp.Groups, sg)
		}
	}
}

func guardOffsetDelete(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.OffsetDeleteRequest)
	if !g.may(auth.Delete, auth.Group, req.Group) {
		resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
		resp.ErrorCode = groupDenied.Code
		return resp, nil
	}
	var denied []kmsg.OffsetDeleteRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.OffsetDeleteRequestTopic) bool { return g.may(auth.Read, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.OffsetDeleteResponse)
		for _, t := range denied {
			st := kmsg.OffsetDeleteResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				st.Partitions = append(st.Partitions, kmsg.OffsetDeleteResponseTopicPartition{Partition: p.Partition, ErrorCode: topicDenied.Code})
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

// guardConsumerGroupHeartbeat: the group is read, and the topics that a member subscribes to are described to it. By a regular expression it is
// assigned what matches; reading it is decided at the fetch.
func guardConsumerGroupHeartbeat(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.ConsumerGroupHeartbeatRequest)
	code := int16(0)
	if !g.may(auth.Read, auth.Group, req.Group) {
		code = groupDenied.Code
	} else {
		for _, name := range req.SubscribedTopicNames {
			if !g.may(auth.Describe, auth.Topic, name) {
				code = topicDenied.Code
			}
		}
	}
	if code == 0 {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	resp.ErrorCode = code
	return resp, nil
}

func guardConsumerGroupDescribe(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.ConsumerGroupDescribeRequest)
	var denied []string
	req.Groups, denied = split(req.Groups, func(name *string) bool { return g.may(auth.Describe, auth.Group, *name) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.ConsumerGroupDescribeResponse)
		for i := range resp.Groups {
			if sg := &resp.Groups[i]; sg.ErrorCode == 0 {
				g.describeMembers(sg, req.IncludeAuthorizedOperations)
			}
		}
		for _, name := range denied {
			sg := kmsg.NewConsumerGroupDescribeResponseGroup()
			sg.Group, sg.ErrorCode = name, groupDenied.Code
			resp.Groups = append(resp.Groups, sg)
		}
	}
}

// describeMembers hides a group whose members use a topic that the client may not describe, as Kafka's does.
func (g *gate) describeMembers(sg *kmsg.ConsumerGroupDescribeResponseGroup, operations bool) {
	if operations {
		sg.AuthorizedOperations = g.operations(auth.Group, sg.Group)
	}
	for i := range sg.Members {
		for _, name := range sg.Members[i].SubscribedTopics {
			if !g.can(auth.Describe, auth.Topic, name) {
				sg.Members, sg.ErrorCode = nil, topicDenied.Code
				sg.ErrorMessage = new("the group reads topics that may not be described")
				return
			}
		}
	}
}
