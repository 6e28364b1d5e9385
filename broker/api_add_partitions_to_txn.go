package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// AddPartitionsToTxn, key 24: v0–5
//
//   - v1: throttle time; v2: PRODUCER_FENCED (KIP-588); v3: flexible
//   - v4: several transactions, and checks without adding (KIP-890); for brokers, but any client may
//   - v5: TRANSACTION_ABORTABLE (KIP-890)
//
// Clients of transaction version 2 do not send it: Produce v12 adds partitions by itself.

// txnAddition is one transaction's part of the request.
type txnAddition struct {
	id      string
	topics  []kmsg.AddPartitionsToTxnRequestTransactionTopic
	errs    map[txn.TopicPartition]*kerr.Error // known at once
	waiting *waiter
	err     *kerr.Error
}

func handleAddPartitionsToTxn(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AddPartitionsToTxnRequest)
	asks := req.Transactions
	if req.Version < 4 {
		ask := kmsg.NewAddPartitionsToTxnRequestTransaction()
		ask.TransactionalID, ask.ProducerID, ask.ProducerEpoch = req.TransactionalID, req.ProducerID, req.ProducerEpoch
		for _, t := range req.Topics {
			ask.Topics = append(ask.Topics, kmsg.AddPartitionsToTxnRequestTransactionTopic{Topic: t.Topic, Partitions: t.Partitions})
		}
		asks = []kmsg.AddPartitionsToTxnRequestTransaction{ask}
	}
	adds := make([]*txnAddition, len(asks))
	for i := range asks {
		adds[i] = s.startAddition(&asks[i], req.Version)
	}
	return func() kmsg.Response {
		r := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
		for _, a := range adds {
			if a.waiting != nil {
				res, ok := a.waiting.wait(c.ctx).(txn.Result)
				if !ok {
					return nil
				}
				a.err = res.Err
			}
			a.answer(r)
		}
		return r
	}
}

// startAddition adds partitions if all of them exist: one that does not keeps the others out (OPERATION_NOT_ATTEMPTED).
func (s *Server) startAddition(ask *kmsg.AddPartitionsToTxnRequestTransaction, version int16) *txnAddition {
	a := &txnAddition{id: ask.TransactionalID, topics: ask.Topics, errs: map[txn.TopicPartition]*kerr.Error{}}
	var tps []txn.TopicPartition
	set := s.topics.set()
	for _, t := range ask.Topics {
		for _, p := range t.Partitions {
			tp := txn.TopicPartition{Topic: t.Topic, Partition: p}
			tps = append(tps, tp)
			if _, err := set.byName[t.Topic].partition(p); err == kerr.UnknownTopicOrPartition {
				a.errs[tp] = err
			} else if isInternal(t.Topic) {
				a.errs[tp] = kerr.TopicAuthorizationFailed // the coordinators' own
			}
		}
	}
	if len(a.errs) > 0 {
		a.err = kerr.OperationNotAttempted
		return a
	}
	if len(tps) == 0 {
		return a
	}
	if ask.VerifyOnly {
		a.err = s.verifyTxn(a.id, ask.ProducerID, ask.ProducerEpoch, version >= 5, tps...)
		return a
	}
	w := newWaiter()
	if !s.startJoinTxn(a.id, ask.ProducerID, ask.ProducerEpoch, 1, w, tps...) {
		a.waiting = w
	}
	return a
}

func (a *txnAddition) code(tp txn.TopicPartition, version int16) int16 {
	if err := a.errs[tp]; err != nil {
		return err.Code
	}
	return txnCode(a.err, version, 2)
}

// answer adds a's part to the answer.
func (a *txnAddition) answer(r *kmsg.AddPartitionsToTxnResponse) {
	rt := kmsg.NewAddPartitionsToTxnResponseTransaction()
	rt.TransactionalID = a.id
	for _, t := range a.topics {
		tt := kmsg.AddPartitionsToTxnResponseTransactionTopic{Topic: t.Topic}
		old := kmsg.AddPartitionsToTxnResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			code := a.code(txn.TopicPartition{Topic: t.Topic, Partition: p}, r.Version)
			tt.Partitions = append(tt.Partitions, kmsg.AddPartitionsToTxnResponseTransactionTopicPartition{Partition: p, ErrorCode: code})
			old.Partitions = append(old.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{Partition: p, ErrorCode: code})
		}
		rt.Topics = append(rt.Topics, tt)
		if r.Version < 4 {
			r.Topics = append(r.Topics, old)
		}
	}
	if r.Version >= 4 {
		r.Transactions = append(r.Transactions, rt)
	}
}
