package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/txn"
)

// TxnOffsetCommit, key 28: v0–5
//
//   - v1: throttle time; v2: leader epoch (KIP-320)
//   - v3: flexible, generation and member, which fence zombies (KIP-447)
//   - v4: TRANSACTION_ABORTABLE; v5: the group's partition joins the transaction by itself (KIP-890)
//
// Offsets are in the log when it answers, and count from the transaction's commit on.

func handleTxnOffsetCommit(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.TxnOffsetCommitRequest)
	tp := offsetsPartition(req.Group)
	if !s.anyToCommit(req) {
		return answer(txnOffsetErrors(req, kerr.UnknownTopicOrPartition)) // and nothing joins the transaction
	}
	if req.Version < 5 {
		guard, err := s.txnGuard(tp, req.ProducerID)
		if err != nil {
			return answer(txnOffsetErrors(req, err))
		}
		if err = s.verifyTxn(req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Version >= 4, tp); err != nil {
			return answer(txnOffsetErrors(req, err))
		}
		return s.commitTxnOffsets(c, req, guard)
	}
	w := newWaiter()
	if s.startJoinTxn(req.TransactionalID, req.ProducerID, req.ProducerEpoch, 2, w, tp) {
		return s.commitTxnOffsets(c, req, 0)
	}
	return func() kmsg.Response {
		res, ok := w.wait(c.ctx).(txn.Result)
		if !ok {
			return nil
		}
		if res.Err != nil {
			return txnOffsetErrors(req, res.Err)
		}
		return s.commitTxnOffsets(c, req, 0)()
	}
}

// anyToCommit reports whether one of the partitions exists.
func (s *Server) anyToCommit(req *kmsg.TxnOffsetCommitRequest) bool {
	known := s.partitionTopics()
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if _, ok := known(group.TopicPartition{Topic: t.Topic, Partition: p.Partition}); ok {
				return true
			}
		}
	}
	return false
}

// txnGuard takes the guard of a producer in a partition, before its transaction is verified.
func (s *Server) txnGuard(tp txn.TopicPartition, producerID int64) (replica.TxnGuard, *kerr.Error) {
	p, err := s.lookup(tp.Topic, tp.Partition)
	if err != nil {
		return 0, kerr.NotCoordinator
	}
	return p.TxnGuard(producerID), nil
}

func (s *Server) commitTxnOffsets(c *conn, req *kmsg.TxnOffsetCommitRequest, guard replica.TxnGuard) pending {
	return s.askGroup(req.Group, func(now time.Time, gc *group.Coordinator, w *waiter) {
		gc.CommitTxn(now, req, s.partitionTopics(), uint64(guard), w)
	}).pending(c, req)
}

// txnOffsetErrors is the answer when the transaction does not take the offsets.
func txnOffsetErrors(req *kmsg.TxnOffsetCommitRequest, err *kerr.Error) kmsg.Response {
	if err == kerr.ProducerFenced {
		err = kerr.InvalidProducerEpoch
	}
	r := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	for _, t := range req.Topics {
		rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: err.Code})
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}
