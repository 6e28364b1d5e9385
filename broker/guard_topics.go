package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// The guards of the APIs about topics.

// guardProduce marks what may not be written; handleProduce answers it in its place.
func guardProduce(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*produceRequest)
	if req.txnID != nil && !g.may(auth.Write, auth.TransactionalID, *req.txnID) {
		for i := range req.topics {
			req.topics[i].denied = txnIDDenied
		}
		return nil, nil
	}
	for i := range req.topics {
		t := &req.topics[i]
		if allowed, _ := g.topic(auth.Write, t.name, t.id, req.version >= 13); !allowed {
			t.denied = topicDenied
		}
	}
	return nil, nil
}

// guardFetch leaves the decision to fetchCall.resolve: a session's partitions are known only there.
func guardFetch(*gate, kmsg.Request) (kmsg.Response, func(kmsg.Response)) { return nil, nil }

// mayRead decides about one topic of a fetch, at each fetch anew.
func (c *conn) mayRead(name string) bool {
	sess := c.session.Load()
	if sess == nil || !c.s.access.enforced {
		return sess != nil
	}
	return (&gate{s: c.s, c: c, sess: sess, key: 1}).may(auth.Read, auth.Topic, name)
}

func guardListOffsets(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.ListOffsetsRequest)
	var denied []kmsg.ListOffsetsRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.ListOffsetsRequestTopic) bool { return g.may(auth.Describe, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.ListOffsetsResponse)
		for _, t := range denied {
			st := kmsg.NewListOffsetsResponseTopic()
			st.Topic = t.Topic
			for _, p := range t.Partitions {
				sp := kmsg.NewListOffsetsResponseTopicPartition()
				sp.Partition, sp.Offset, sp.Timestamp, sp.LeaderEpoch, sp.ErrorCode = p.Partition, -1, -1, -1, topicDenied.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

// guardMetadata hides what may not be described: it is left out of a list of all, TOPIC_AUTHORIZATION_FAILED by name whether it exists or not, and
// unknown by id. A topic that is missing is created only for who may create it.
func guardMetadata(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.MetadataRequest)
	all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	var denied, absent []kmsg.MetadataRequestTopic
	if !all {
		req.Topics, denied = split(req.Topics, func(t *kmsg.MetadataRequestTopic) bool { return g.mayDescribe(t) })
		if req.Version < 4 || req.AllowAutoTopicCreation {
			req.Topics, absent = split(req.Topics, func(t *kmsg.MetadataRequestTopic) bool { return g.mayMake(t) })
		}
	}
	patch := func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.MetadataResponse)
		g.filterMetadata(req, resp, all)
		for _, t := range append(denied, absent...) {
			mt := kmsg.NewMetadataResponseTopic()
			mt.Topic, mt.TopicID, mt.ErrorCode = t.Topic, t.TopicID, topicDenied.Code
			if t.Topic == nil {
				mt.ErrorCode = kerr.UnknownTopicID.Code
			} else {
				mt.IsInternal = isInternal(*t.Topic)
			}
			resp.Topics = append(resp.Topics, mt)
		}
	}
	return nil, patch
}

func (g *gate) mayDescribe(t *kmsg.MetadataRequestTopic) bool {
	if t.Topic != nil {
		return g.may(auth.Describe, auth.Topic, *t.Topic)
	}
	allowed, _ := g.topic(auth.Describe, "", t.TopicID, true)
	return allowed
}

// mayMake reports whether a topic that a Metadata request names exists, or may be made by the client.
func (g *gate) mayMake(t *kmsg.MetadataRequestTopic) bool {
	return t.Topic == nil || g.s.topics.set().byName[*t.Topic] != nil || !*g.s.opts.AutoCreateTopics ||
		g.can(auth.Create, auth.Cluster, auth.ClusterName) || g.may(auth.Create, auth.Topic, *t.Topic)
}

func (g *gate) filterMetadata(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse, all bool) {
	if all || req.Version == 0 { // a list of v0 that became empty was taken for all
		resp.Topics, _ = split(resp.Topics, func(t *kmsg.MetadataResponseTopic) bool {
			return all && t.Topic != nil && g.can(auth.Describe, auth.Topic, *t.Topic) ||
				!all && containsTopic(req.Topics, t.Topic)
		})
	}
	for i := range resp.Topics {
		if t := &resp.Topics[i]; req.IncludeTopicAuthorizedOperations && t.ErrorCode == 0 && t.Topic != nil {
			t.AuthorizedOperations = g.operations(auth.Topic, *t.Topic)
		}
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = g.operations(auth.Cluster, auth.ClusterName)
	}
}

func containsTopic(topics []kmsg.MetadataRequestTopic, name *string) bool {
	for _, t := range topics {
		if t.Topic != nil && name != nil && *t.Topic == *name {
			return true
		}
	}
	return false
}

func guardCreateTopics(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.CreateTopicsRequest)
	var denied []kmsg.CreateTopicsRequestTopic
	if !g.can(auth.Create, auth.Cluster, auth.ClusterName) || ownsAny(req) {
		req.Topics, denied = split(req.Topics, func(t *kmsg.CreateTopicsRequestTopic) bool {
			return !auth.Owned(auth.Topic, t.Topic) && g.can(auth.Create, auth.Cluster, auth.ClusterName) || g.may(auth.Create, auth.Topic, t.Topic)
		})
	}
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.CreateTopicsResponse)
		for i := range resp.Topics {
			if st := &resp.Topics[i]; st.ErrorCode == 0 && !g.can(auth.DescribeConfigs, auth.Topic, st.Topic) {
				st.Configs, st.NumPartitions, st.ReplicationFactor, st.ConfigErrorCode = nil, -1, -1, topicDenied.Code
			}
		}
		for _, t := range denied {
			st := kmsg.NewCreateTopicsResponseTopic()
			st.Topic, st.NumPartitions, st.ReplicationFactor, st.ErrorCode, st.ErrorMessage = t.Topic, -1, -1, topicDenied.Code, new("Authorization failed.")
			resp.Topics = append(resp.Topics, st)
		}
	}
}

func ownsAny(req *kmsg.CreateTopicsRequest) bool {
	for i := range req.Topics {
		if auth.Owned(auth.Topic, req.Topics[i].Topic) {
			return true
		}
	}
	return false
}

// guardDeleteTopics: a topic asked for by id whose name may not be described stays nameless.
func guardDeleteTopics(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DeleteTopicsRequest)
	for _, name := range req.TopicNames {
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	req.TopicNames = nil
	var denied []kmsg.DeleteTopicsRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.DeleteTopicsRequestTopic) bool {
		if t.Topic != nil {
			return g.may(auth.Delete, auth.Topic, *t.Topic)
		}
		allowed, _ := g.topic(auth.Delete, "", t.TopicID, true)
		return allowed
	})
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DeleteTopicsResponse)
		for _, t := range denied {
			st := kmsg.NewDeleteTopicsResponseTopic()
			st.Topic, st.TopicID, st.ErrorCode = t.Topic, t.TopicID, topicDenied.Code
			if t.Topic == nil {
				if known := g.s.topics.set().byID[t.TopicID]; known != nil && g.can(auth.Describe, auth.Topic, known.Name) {
					st.Topic = new(known.Name)
				} else {
					st.ErrorCode = kerr.UnknownTopicID.Code
				}
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

func guardDeleteRecords(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DeleteRecordsRequest)
	var denied []kmsg.DeleteRecordsRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.DeleteRecordsRequestTopic) bool { return g.may(auth.Delete, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DeleteRecordsResponse)
		for _, t := range denied {
			st := kmsg.DeleteRecordsResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				st.Partitions = append(st.Partitions, kmsg.DeleteRecordsResponseTopicPartition{Partition: p.Partition, LowWatermark: -1, ErrorCode: topicDenied.Code})
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

func guardOffsetForLeaderEpoch(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
	var denied []kmsg.OffsetForLeaderEpochRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.OffsetForLeaderEpochRequestTopic) bool { return g.may(auth.Describe, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range denied {
			st := kmsg.NewOffsetForLeaderEpochResponseTopic()
			st.Topic = t.Topic
			for _, p := range t.Partitions {
				sp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				sp.Partition, sp.LeaderEpoch, sp.EndOffset, sp.ErrorCode = p.Partition, -1, -1, topicDenied.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

func guardCreatePartitions(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	var denied []kmsg.CreatePartitionsRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.CreatePartitionsRequestTopic) bool { return g.may(auth.Alter, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.CreatePartitionsResponse)
		for _, t := range denied {
			st := kmsg.NewCreatePartitionsResponseTopic()
			st.Topic, st.ErrorCode = t.Topic, topicDenied.Code
			resp.Topics = append(resp.Topics, st)
		}
	}
}

func guardDescribeProducers(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeProducersRequest)
	var denied []kmsg.DescribeProducersRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.DescribeProducersRequestTopic) bool { return g.may(auth.Read, auth.Topic, t.Topic) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DescribeProducersResponse)
		for _, t := range denied {
			st := kmsg.NewDescribeProducersResponseTopic()
			st.Topic = t.Topic
			for _, p := range t.Partitions {
				sp := kmsg.NewDescribeProducersResponseTopicPartition()
				sp.Partition, sp.ErrorCode = p, topicDenied.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
	}
}

// guardDescribeTopicPartitions: an empty list means all topics that the client may describe.
func guardDescribeTopicPartitions(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeTopicPartitionsRequest)
	var denied []kmsg.DescribeTopicPartitionsRequestTopic
	if len(req.Topics) == 0 {
		for _, name := range sortedNames(g.s.topics.set()) {
			if g.can(auth.Describe, auth.Topic, name) {
				req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
			}
		}
	} else {
		req.Topics, denied = split(req.Topics, func(t *kmsg.DescribeTopicPartitionsRequestTopic) bool {
			return g.may(auth.Describe, auth.Topic, t.Topic)
		})
	}
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	patch := func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DescribeTopicPartitionsResponse)
		for i := range resp.Topics {
			if t := &resp.Topics[i]; t.ErrorCode == 0 && t.Topic != nil {
				t.AuthorizedOperations = g.operations(auth.Topic, *t.Topic)
			}
		}
		for _, t := range denied {
			st := kmsg.NewDescribeTopicPartitionsResponseTopic()
			st.Topic, st.ErrorCode = new(t.Topic), topicDenied.Code
			resp.Topics = append(resp.Topics, st)
		}
	}
	if len(req.Topics) == 0 { // nothing is left, which the handler would take for all
		patch(resp)
		return resp, nil
	}
	return nil, patch
}
