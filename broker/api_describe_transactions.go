package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// DescribeTransactions, key 65: v0 (KIP-664)
//
// The partitions are those of the open transaction, or of an ended one those that lack their marker.

func handleDescribeTransactions(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeTransactionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	for _, id := range req.TransactionalIDs {
		st := kmsg.NewDescribeTransactionsResponseTransactionState()
		st.TransactionalID, st.ProducerID, st.ProducerEpoch, st.StartTimestamp = id, -1, -1, -1
		s.txnShard(id).do(func(_ time.Time, tc *txn.Coordinator) {
			d, err := tc.Describe(id)
			if err != nil {
				st.ErrorCode = err.Code
				return
			}
			st.State, st.TimeoutMillis, st.StartTimestamp = d.State.String(), int32(d.Timeout.Milliseconds()), d.StartMs
			st.ProducerID, st.ProducerEpoch = d.ProducerID, d.ProducerEpoch
			st.Topics = describedTopics(d.Partitions)
		})
		resp.TransactionStates = append(resp.TransactionStates, st)
	}
	return answer(resp)
}

// describedTopics gathers sorted partitions by topic.
func describedTopics(tps []txn.TopicPartition) (topics []kmsg.DescribeTransactionsResponseTransactionStateTopic) {
	for _, tp := range tps {
		if n := len(topics); n == 0 || topics[n-1].Topic != tp.Topic {
			topics = append(topics, kmsg.DescribeTransactionsResponseTransactionStateTopic{Topic: tp.Topic})
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, tp.Partition)
	}
	return topics
}
