package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FindCoordinator, key 10: v0–6
//
//   - v1: coordinator type (KIP-98), throttle time, error message
//   - v3: flexible (KIP-482)
//   - v4: several keys (KIP-699)
//   - v5: TRANSACTION_ABORTABLE (KIP-890); v6: share groups (KIP-932), which are not served
//
// The coordinators' topics are made when they are first asked for. The answer waits until this node leads the partition, so that
// what follows it does not meet NOT_COORDINATOR.

const (
	coordinatorGroup int8 = 0
	coordinatorTxn   int8 = 1
)

func handleFindCoordinator(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.FindCoordinatorRequest)
	return func() kmsg.Response {
		r := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		if req.Version < 4 {
			fc := s.findCoordinator(c, req.CoordinatorType, req.CoordinatorKey)
			r.NodeID, r.Host, r.Port, r.ErrorCode, r.ErrorMessage = fc.NodeID, fc.Host, fc.Port, fc.ErrorCode, fc.ErrorMessage
			return r
		}
		for _, key := range req.CoordinatorKeys {
			r.Coordinators = append(r.Coordinators, s.findCoordinator(c, req.CoordinatorType, key))
		}
		return r
	}
}

func (s *Server) findCoordinator(c *conn, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := kmsg.NewFindCoordinatorResponseCoordinator()
	r.Key, r.NodeID, r.Port = key, -1, -1
	var err *kerr.Error
	switch kind {
	case coordinatorGroup:
		err = s.openCoordinator(c.ctx, offsetsTopic, key)
	case coordinatorTxn:
		err = s.openCoordinator(c.ctx, txnStateTopic, key)
	default:
		err = kerr.InvalidRequest
	}
	if err != nil {
		r.ErrorCode, r.ErrorMessage = err.Code, &err.Description
		return r
	}
	r.NodeID = s.opts.NodeID
	r.Host, r.Port = c.advertised()
	return r
}

// openCoordinator makes the coordinators' topic if need be, and waits until this node leads the key's partition.
func (s *Server) openCoordinator(ctx context.Context, topic, key string) *kerr.Error {
	if err := s.ensureInternalTopic(ctx, topic); err != nil {
		s.log.Warn("coordinator topic cannot be made", "topic", topic, "error", err)
		return kerr.CoordinatorNotAvailable
	}
	return s.waitCoordinator(ctx, topic, key)
}
