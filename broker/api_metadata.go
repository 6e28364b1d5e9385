package broker

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata, key 3: v0–13
//
//   - v0: no topics means all of them; from v1 on null means all, none means none
//   - v1: controller, racks, internal flag; v2: cluster id (KIP-78)
//   - v4: whether missing topics may be created (KIP-204)
//   - v5: offline replicas (KIP-112); v7: leader epochs (KIP-320)
//   - v8–10: authorized operations (KIP-430); v9: flexible
//   - v10: topic ids (KIP-516); v12: topics asked for by id
//   - v13: an error for the whole answer (KIP-1102)
//
// A topic that is created here has its partitions at once: the answer says so, since clients exist that poll for ever otherwise.

// adminTimeout bounds what a request does to the cluster's metadata when the request says nothing.
const adminTimeout = 15 * time.Second

func handleMetadata(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	host, port := c.advertised()
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = s.opts.NodeID, host, port
	resp.Brokers = append(resp.Brokers, b)
	resp.ControllerID = s.opts.NodeID
	resp.ClusterID = kmsg.StringPtr(s.ClusterID())
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	set := s.topics.set()
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		for _, name := range sortedNames(set) {
			resp.Topics = append(resp.Topics, s.topicMetadata(set.byName[name]))
		}
		addTopicOperations(req, resp)
		return answer(resp)
	}
	create := *s.opts.AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation)
	if create && s.anyMissing(req) {
		// In the writer: creating takes an fsync, and requests behind this one need not wait for it.
		return func() kmsg.Response {
			ctx, cancel := context.WithTimeout(c.ctx, adminTimeout)
			defer cancel()
			s.metadataTopics(ctx, req, resp, true)
			return resp
		}
	}
	s.metadataTopics(c.ctx, req, resp, false)
	return answer(resp)
}

func (s *Server) anyMissing(req *kmsg.MetadataRequest) bool {
	set := s.topics.set()
	for i := range req.Topics {
		if n := req.Topics[i].Topic; n != nil && set.byName[*n] == nil {
			return true
		}
	}
	return false
}

func (s *Server) metadataTopics(ctx context.Context, req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse, create bool) {
	seen := make(map[string]bool, len(req.Topics))
	for i := range req.Topics {
		rt := &req.Topics[i]
		if rt.Topic == nil {
			resp.Topics = append(resp.Topics, s.metadataByID(rt.TopicID))
			continue
		}
		if name := *rt.Topic; !seen[name] {
			seen[name] = true
			resp.Topics = append(resp.Topics, s.metadataByName(ctx, name, create))
		}
	}
	addTopicOperations(req, resp)
}

// addTopicOperations says of each topic what may be done with it, if the client asked.
func addTopicOperations(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	for i := range resp.Topics {
		if req.IncludeTopicAuthorizedOperations && resp.Topics[i].ErrorCode == 0 {
			resp.Topics[i].AuthorizedOperations = topicOperations
		}
	}
}

func (s *Server) metadataByID(id [16]byte) kmsg.MetadataResponseTopic {
	if t := s.topics.set().byID[id]; t != nil {
		return s.topicMetadata(t)
	}
	mt := kmsg.NewMetadataResponseTopic()
	mt.TopicID, mt.ErrorCode = id, kerr.UnknownTopicID.Code
	return mt
}

func (s *Server) metadataByName(ctx context.Context, name string, create bool) kmsg.MetadataResponseTopic {
	if t := s.topics.set().byName[name]; t != nil {
		return s.topicMetadata(t)
	}
	err := kerr.UnknownTopicOrPartition
	if !validTopicName(name) {
		err = kerr.InvalidTopicException
	} else if create {
		if cerr := s.autoCreate(ctx, name); cerr == nil {
			if t := s.topics.set().byName[name]; t != nil {
				return s.topicMetadata(t)
			}
		} else {
			err = kafkaError(cerr)
		}
	}
	mt := kmsg.NewMetadataResponseTopic()
	mt.Topic, mt.ErrorCode, mt.IsInternal = &name, err.Code, isInternal(name)
	return mt
}

// autoCreate makes a topic that a client asked for, with the defaults.
func (s *Server) autoCreate(ctx context.Context, name string) error {
	if isInternal(name) {
		return s.ensureInternalTopic(ctx, name)
	}
	_, err := s.createTopic(ctx, name, s.opts.DefaultPartitions, nil)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	if err == nil {
		s.log.Info("topic created for a client", "topic", name, "partitions", s.opts.DefaultPartitions)
	}
	return err
}

func (s *Server) topicMetadata(t *topic) kmsg.MetadataResponseTopic {
	mt := kmsg.NewMetadataResponseTopic()
	mt.Topic, mt.TopicID, mt.IsInternal = new(t.Name), t.ID, t.internal()
	mt.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.partitions))
	for i, p := range t.partitions {
		mp := kmsg.NewMetadataResponseTopicPartition()
		mp.Partition = int32(i)
		for _, r := range t.Partitions[i].Replicas {
			mp.Replicas = append(mp.Replicas, r.Node)
		}
		if p == nil {
			mp.Leader, mp.ErrorCode = -1, kerr.LeaderNotAvailable.Code
			mp.OfflineReplicas = mp.Replicas
		} else {
			mp.Leader, mp.LeaderEpoch, mp.ISR = s.opts.NodeID, p.LeaderEpoch(), mp.Replicas
			switch {
			case p.Damage() != nil: // still found here, so that who asks is told KAFKA_STORAGE_ERROR
				mp.ISR, mp.OfflineReplicas = nil, mp.Replicas
			case !p.Leads():
				mp.Leader, mp.ErrorCode = -1, kerr.LeaderNotAvailable.Code
			}
		}
		mt.Partitions[i] = mp
	}
	return mt
}
