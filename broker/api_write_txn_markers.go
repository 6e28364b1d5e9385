package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/txn"
)

// WriteTxnMarkers, key 27: v1–2
//
//   - v1: flexible; v2: the transaction version that the marker is of (KIP-1228)
//
// Brokers of Kafka's end transactions with it; here markers stay inside. What is left is the operator who ends a hanging
// transaction, one that its partition holds open and no coordinator knows of (KIP-664, `kafka-transactions abort`). A transaction that
// its coordinator does have open is refused with INVALID_TXN_STATE, other than by Kafka: its end would be decided twice, and differently
// (T4). Fencing its transactional id ends it, and so does its timeout.

// markerCall gathers the outcomes of one request.
type markerCall struct {
	resp  *kmsg.WriteTxnMarkersResponse
	waits []markerWait
}

// markerWait is one partition of one marker; done has room for its outcome.
type markerWait struct {
	marker, topic, partition int
	done                     chan *kerr.Error
}

func handleWriteTxnMarkers(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.WriteTxnMarkersRequest)
	call := &markerCall{resp: req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)}
	for i := range req.Markers {
		call.start(s, &req.Markers[i])
	}
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		call.wait(ctx)
		return call.resp
	}
}

// start proposes one marker in every partition it names.
func (call *markerCall) start(s *Server, rm *kmsg.WriteTxnMarkersRequestMarker) {
	sm := kmsg.NewWriteTxnMarkersResponseMarker()
	sm.ProducerID = rm.ProducerID
	for j := range rm.Topics {
		rt := &rm.Topics[j]
		st := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
		st.Topic = rt.Topic
		for k, index := range rt.Partitions {
			sp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
			sp.Partition = index
			st.Partitions = append(st.Partitions, sp)
			w := markerWait{marker: len(call.resp.Markers), topic: j, partition: k, done: make(chan *kerr.Error, 1)}
			call.waits = append(call.waits, w)
			s.foreignMarker(rm, rt.Topic, index, w.done)
		}
		sm.Topics = append(sm.Topics, st)
	}
	call.resp.Markers = append(call.resp.Markers, sm)
}

// foreignMarker proposes a marker that no coordinator of this node decided on.
func (s *Server) foreignMarker(rm *kmsg.WriteTxnMarkersRequestMarker, topic string, index int32, done chan<- *kerr.Error) {
	p, err := s.lookup(topic, index)
	if err == nil && topic == txnStateTopic {
		err = kerr.InvalidTopicException // nothing in it is transactional
	}
	if err == nil && s.txnOwns(rm.ProducerID, txn.TopicPartition{Topic: topic, Partition: index}) {
		err = kerr.InvalidTxnState
	}
	if err != nil {
		done <- err
		return
	}
	write := p.WriteMarker
	if rm.TransactionVersion >= 2 {
		write = p.WriteMarkerV2
	}
	write(rm.ProducerID, rm.ProducerEpoch, rm.Committed, rm.CoordinatorEpoch, func(r replica.ProduceResult) {
		if r.Err != nil {
			done <- kafkaError(r.Err)
			return
		}
		done <- nil
	})
}

// wait sets the outcomes; what takes too long is REQUEST_TIMED_OUT, and may still be written.
func (call *markerCall) wait(ctx context.Context) {
	for _, w := range call.waits {
		sp := &call.resp.Markers[w.marker].Topics[w.topic].Partitions[w.partition]
		select {
		case err := <-w.done:
			if err != nil {
				sp.ErrorCode = err.Code
			}
		case <-ctx.Done():
			sp.ErrorCode = kerr.RequestTimedOut.Code
		}
	}
}

// txnOwns reports whether a coordinator of this node has the partition in a transaction of the producer that is under way.
func (s *Server) txnOwns(producerID int64, tp txn.TopicPartition) (owned bool) {
	for _, sh := range s.shards().txns {
		sh.do(func(_ time.Time, tc *txn.Coordinator) { owned = owned || tc.Owns(producerID, tp) })
	}
	return owned
}
