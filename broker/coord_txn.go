package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/txn"
)

// txnVerifyProduce is the check for producers that add partitions themselves (KIP-890, transaction version 1, Produce v3–11): data for a
// partition that is not in the open transaction is refused. It does not block.
func (s *Server) txnVerifyProduce(txnID string, producerID int64, epoch int16, abortable bool, tp txn.TopicPartition) error {
	if err := s.verifyTxn(txnID, producerID, epoch, abortable, tp); err != nil {
		return produceError(err)
	}
	return nil
}

// verifyTxn says why a partition is not in the producer's open transaction, or nil. abortable: the client knows TRANSACTION_ABORTABLE, which lets it
// abort and go on where INVALID_TXN_STATE ends it.
func (s *Server) verifyTxn(txnID string, producerID int64, epoch int16, abortable bool, tps ...txn.TopicPartition) (err *kerr.Error) {
	s.txnShard(txnID).do(func(_ time.Time, c *txn.Coordinator) {
		err = c.Verify(txnID, producerID, epoch, tps...)
	})
	if err == kerr.InvalidTxnState && abortable {
		return kerr.TransactionAbortable
	}
	return err
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

// startJoinTxn makes the transaction own partitions. It does not wait: owned says that they are in already; otherwise to gets a
// txn.Result when the record that names them is durable, and may be told before that its data can go ahead.
func (s *Server) startJoinTxn(id string, producerID int64, epoch, version int16, to answerer, tps ...txn.TopicPartition) (owned bool) {
	s.txnShard(id).do(func(now time.Time, c *txn.Coordinator) {
		if owned = c.Has(id, producerID, epoch, tps...); owned {
			return
		}
		c.AddPartitions(now, id, producerID, epoch, version, tps, to)
	})
	return owned
}
