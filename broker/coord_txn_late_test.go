package broker_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

// oldTxn is a transactional producer of transaction version 1, by hand.
type oldTxn struct {
	t   *testing.T
	c   *rawConn
	id  string
	pid int64
}

func newOldTxn(t *testing.T, n *brokertest.Node, id string) *oldTxn {
	t.Helper()
	c := dialRaw(t, n)
	for kind, key := range []string{"g", id} {
		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorType, fc.CoordinatorKeys = int8(kind), []string{key}
		request[*kmsg.FindCoordinatorResponse](c, fc, 4)
	}
	in := kmsg.NewPtrInitProducerIDRequest()
	in.TransactionalID, in.TransactionTimeoutMillis = &id, 60_000
	r := request[*kmsg.InitProducerIDResponse](c, in, 2)
	if r.ErrorCode != 0 {
		t.Fatalf("InitProducerId: error %d", r.ErrorCode)
	}
	return &oldTxn{t: t, c: c, id: id, pid: r.ProducerID}
}

// add adds t/0 and the offsets of group g to the transaction.
func (o *oldTxn) add() {
	o.t.Helper()
	ap := kmsg.NewPtrAddPartitionsToTxnRequest()
	ap.TransactionalID, ap.ProducerID = o.id, o.pid
	ap.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	if r := request[*kmsg.AddPartitionsToTxnResponse](o.c, ap, 3); r.Topics[0].Partitions[0].ErrorCode != 0 {
		o.t.Fatalf("AddPartitionsToTxn: %+v", r)
	}
	ao := kmsg.NewPtrAddOffsetsToTxnRequest()
	ao.TransactionalID, ao.ProducerID, ao.Group = o.id, o.pid, "g"
	if r := request[*kmsg.AddOffsetsToTxnResponse](o.c, ao, 3); r.ErrorCode != 0 {
		o.t.Fatalf("AddOffsetsToTxn: %+v", r)
	}
}

func (o *oldTxn) batch(seq int32) *kmsg.ProduceRequest {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: o.pid, Sequence: seq, Transactional: true})
	b.Add(1_700_000_000_000, []byte("k"), []byte("v"), nil)
	req := produceRequest("t", 0, b.Build())
	req.TransactionID = &o.id
	return req
}

func (o *oldTxn) offsets() *kmsg.TxnOffsetCommitRequest {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.Group, req.Generation = o.id, o.pid, "g", -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Partition: 0, Offset: 1}}}}
	return req
}

// Clients of transaction version 1 keep their epoch, so nothing but the check at apply keeps a batch that was verified in time, and is late
// all the same, from opening a transaction that nobody ends (KIP-890, L4). Whoever wins the race, the data is in the transaction or refused.
func TestTxn_lateDataOfOldClientsIsRefused(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	o := newOldTxn(t, n, "x")
	data, offsets := dialRaw(t, n), dialRaw(t, n)
	seq := int32(0)
	for range 150 {
		o.add()
		p, oc := o.batch(seq), o.offsets()
		data.send(p, 11)
		offsets.send(oc, 3)
		end := kmsg.NewPtrEndTxnRequest()
		end.TransactionalID, end.ProducerID, end.Commit = o.id, o.pid, true
		if r := request[*kmsg.EndTxnResponse](o.c, end, 3); r.ErrorCode != 0 {
			t.Fatalf("EndTxn: error %d", r.ErrorCode)
		}
		_, b := data.receive()
		switch code := decode[*kmsg.ProduceResponse](t, p, b).Topics[0].Partitions[0].ErrorCode; code {
		case 0:
			seq++
		case kerr.TransactionAbortable.Code, kerr.InvalidTxnState.Code: // when it came, and when it was applied
		default:
			t.Fatalf("Produce: error %d", code)
		}
		_, b = offsets.receive()
		switch code := decode[*kmsg.TxnOffsetCommitResponse](t, oc, b).Topics[0].Partitions[0].ErrorCode; code {
		case 0, kerr.InvalidTxnState.Code:
		default:
			t.Fatalf("TxnOffsetCommit: error %d", code)
		}
		if activeTxn(c, o.pid) {
			t.Fatal("a transaction hangs")
		}
		of := kmsg.NewPtrOffsetFetchRequest()
		of.Group, of.RequireStable, of.Topics = "g", true, []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		if code := request[*kmsg.OffsetFetchResponse](c, of, 7).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatalf("an offset hangs: error %d", code)
		}
	}
}
