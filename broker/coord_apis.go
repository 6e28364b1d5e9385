package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/group"
	"github.com/outrelay/outrelay/broker/txn"
)

// coordinatorAPIs returns the rows of the API table that the group and transaction coordinators serve.
func (s *Server) coordinatorAPIs() []api {
	return []api{
		{key: 8, min: 0, max: 10, handle: handleOffsetCommit},
		{key: 9, min: 0, max: 10, handle: handleOffsetFetch, late: true},
		{key: 10, min: 0, max: 6, handle: handleFindCoordinator},
		{key: 11, min: 0, max: 9, handle: handleJoinGroup},
		{key: 12, min: 0, max: 4, handle: handleHeartbeat},
		{key: 13, min: 0, max: 5, handle: handleLeaveGroup},
		{key: 14, min: 0, max: 5, handle: handleSyncGroup},
		{key: 15, min: 0, max: 6, handle: handleDescribeGroups, late: true},
		{key: 16, min: 0, max: 5, handle: handleListGroups, late: true},
		{key: 22, min: 0, max: 5, handle: handleInitProducerID},
		{key: 24, min: 0, max: 5, handle: handleAddPartitionsToTxn},
		{key: 25, min: 0, max: 4, handle: handleAddOffsetsToTxn},
		{key: 26, min: 0, max: 5, handle: handleEndTxn},
		{key: 28, min: 0, max: 5, handle: handleTxnOffsetCommit},
		{key: 42, min: 0, max: 2, handle: handleDeleteGroups},
		{key: 47, min: 0, max: 0, handle: handleOffsetDelete},
		{key: 68, min: 0, max: 1, handle: handleConsumerGroupHeartbeat},
		{key: 69, min: 0, max: 1, handle: handleConsumerGroupDescribe, late: true},
	}
}

// askGroup starts a request of one group and returns who waits for the answer.
func (s *Server) askGroup(name string, ask func(now time.Time, c *group.Coordinator, w *waiter)) *waiter {
	w := newWaiter()
	s.groupShard(name).do(func(now time.Time, c *group.Coordinator) { ask(now, c, w) })
	return w
}

// askTxn starts a request of one transactional id and returns who waits for its txn.Result.
func (s *Server) askTxn(id string, ask func(now time.Time, c *txn.Coordinator, w *waiter)) *waiter {
	w := newWaiter()
	s.txnShard(id).do(func(now time.Time, c *txn.Coordinator) { ask(now, c, w) })
	return w
}

// txnCode is the code of a transaction coordinator's error: PRODUCER_FENCED came with KIP-360, and older versions of a request say
// INVALID_PRODUCER_EPOCH.
func txnCode(err *kerr.Error, version, fencedFrom int16) int16 {
	switch {
	case err == nil:
		return 0
	case err == kerr.ProducerFenced && version < fencedFrom:
		return kerr.InvalidProducerEpoch.Code
	}
	return err.Code
}
