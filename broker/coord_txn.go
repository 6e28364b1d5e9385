package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/txn"
)

// txnBeforeProduce makes sure that the transaction owns tps before data of them is proposed (KIP-890, Produce v12+): when it returns nil, the
// transaction's state with all of them in it is durable, by one record. It blocks only for the first produce of a transaction to a
// partition. Errors are *kerr.Error that a producer understands.
func (s *Server) txnBeforeProduce(ctx context.Context, txnID string, producerID int64, epoch int16, tps ...txn.TopicPartition) error {
	err := s.joinTxn(ctx, txnID, producerID, epoch, 2, tps...)
	if err != nil {
		return produceError(err)
	}
	return nil
}

// txnVerifyProduce is the check for producers that add partitions themselves (KIP-890, transaction version 1, Produce v3–11): data for a
// partition that is not in the open transaction is refused. It does not block.
func (s *Server) txnVerifyProduce(txnID string, producerID int64, epoch int16, tp txn.TopicPartition) error {
	var err *kerr.Error
	s.txnShard(txnID).do(func(_ time.Time, c *txn.Coordinator) {
		err = c.Verify(txnID, producerID, epoch, tp)
	})
	if err != nil {
		return produceError(err)
	}
	return nil
}

// produceError maps the coordinator's errors to those that a producer takes in answer to Produce: retriable ones become
// NOT_ENOUGH_REPLICAS, which is retried without looking for another leader (KIP-890).
func produceError(err *kerr.Error) *kerr.Error {
	switch err {
	case kerr.ProducerFenced:
		return kerr.InvalidProducerEpoch
	case kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress:
		return kerr.NotEnoughReplicas
	}
	return err
}

// joinTxn makes the transaction own partitions, durably, and waits for it.
func (s *Server) joinTxn(ctx context.Context, id string, producerID int64, epoch, version int16, tps ...txn.TopicPartition) *kerr.Error {
	w, owned := s.startJoinTxn(id, producerID, epoch, version, tps...)
	if owned {
		return nil
	}
	r, ok := w.wait(ctx).(txn.Result)
	if !ok {
		return kerr.CoordinatorNotAvailable
	}
	return r.Err
}

// startJoinTxn is joinTxn without waiting: owned says that the partitions are in already; otherwise w gets a txn.Result.
func (s *Server) startJoinTxn(id string, producerID int64, epoch, version int16, tps ...txn.TopicPartition) (w *waiter, owned bool) {
	s.txnShard(id).do(func(now time.Time, c *txn.Coordinator) {
		if owned = c.Has(id, producerID, epoch, tps...); owned {
			return
		}
		w = newWaiter()
		c.AddPartitions(now, id, producerID, epoch, version, tps, w)
	})
	return w, owned
}
