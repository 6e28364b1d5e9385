package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// AddOffsetsToTxn, key 25: v0–4
//
//   - v1: throttle time; v2: PRODUCER_FENCED (KIP-588); v3: flexible; v4: TRANSACTION_ABORTABLE (KIP-890)
//
// It adds the group's partition of __consumer_offsets. Clients of transaction version 2 do not send it: TxnOffsetCommit v5 does that by itself.

func handleAddOffsetsToTxn(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AddOffsetsToTxnRequest)
	r := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	w := newWaiter()
	if s.startJoinTxn(req.TransactionalID, req.ProducerID, req.ProducerEpoch, 1, w, offsetsPartition(req.Group)) {
		return answer(r)
	}
	return func() kmsg.Response {
		res, ok := w.wait(c.ctx).(txn.Result)
		if !ok {
			return nil
		}
		r.ErrorCode = txnCode(res.Err, req.Version, 2)
		return r
	}
}

// offsetsPartition is where a group's offsets are.
func offsetsPartition(group string) txn.TopicPartition {
	return txn.TopicPartition{Topic: offsetsTopic, Partition: internalPartition(group)}
}
