package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// InitProducerId, key 22: v0–5
//
//   - v1: throttle time; v2: flexible
//   - v3: producer id and epoch of one that goes on (KIP-360)
//   - v4: PRODUCER_FENCED (KIP-588); v5: TRANSACTION_ABORTABLE (KIP-890)
//
// Without a transactional id it is a fresh producer id at epoch 0. With one, an open transaction is aborted first, and the answer
// waits for that.

func handleInitProducerID(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.InitProducerIDRequest)
	w := newWaiter()
	if req.TransactionalID == nil {
		s.pids.get(s, func(id int64, err *kerr.Error) {
			w.answer(txn.Result{Err: err, ProducerID: id})
		})
	} else {
		in := txn.Init{
			ID: *req.TransactionalID, Timeout: time.Duration(req.TransactionTimeoutMillis) * time.Millisecond,
			ExpectedProducerID: -1, ExpectedProducerEpoch: -1,
		}
		if req.Version >= 3 {
			in.ExpectedProducerID, in.ExpectedProducerEpoch = req.ProducerID, req.ProducerEpoch
		}
		s.txnShard(in.ID).do(func(now time.Time, tc *txn.Coordinator) { tc.InitProducerID(now, in, w) })
	}
	return func() kmsg.Response {
		res, ok := w.wait(c.ctx).(txn.Result)
		if !ok {
			return nil
		}
		r := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		r.ProducerID, r.ProducerEpoch = res.ProducerID, res.ProducerEpoch
		if r.ErrorCode = txnCode(res.Err, req.Version, 4); res.Err != nil {
			r.ProducerID, r.ProducerEpoch = -1, -1
		}
		return r
	}
}
