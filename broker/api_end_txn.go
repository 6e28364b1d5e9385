package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// EndTxn, key 26: v0–5
//
//   - v1: throttle time; v2: PRODUCER_FENCED (KIP-588); v3: flexible; v4: TRANSACTION_ABORTABLE
//   - v5: each transaction has an epoch of its own, and the answer carries the next (KIP-890, transaction version 2)
//
// The answer comes when the markers are applied in every partition: readers see the end, and the producer can begin its next transaction
// without meeting CONCURRENT_TRANSACTIONS.

func handleEndTxn(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.EndTxnRequest)
	e := txn.End{
		ID: req.TransactionalID, ProducerID: req.ProducerID, ProducerEpoch: req.ProducerEpoch, Commit: req.Commit, Bump: req.Version >= 5,
	}
	w := s.askTxn(e.ID, func(now time.Time, tc *txn.Coordinator, w *waiter) { tc.EndTxn(now, e, w) })
	return func() kmsg.Response {
		res, ok := w.wait(c.ctx).(txn.Result)
		if !ok {
			return nil
		}
		r := req.ResponseKind().(*kmsg.EndTxnResponse)
		r.ErrorCode, r.ProducerID, r.ProducerEpoch = txnCode(res.Err, req.Version, 2), res.ProducerID, res.ProducerEpoch
		return r
	}
}
