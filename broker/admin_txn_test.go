package broker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

// openTxn begins a transaction with one record in t/0, and returns its producer.
func openTxn(t *testing.T, n *brokertest.Node, id string) (cl *kgo.Client, producerID int64, epoch int16) {
	t.Helper()
	cl = newClient(t, n, kgo.TransactionalID(id), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionTimeout(time.Minute))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	producerID, epoch, err := cl.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cl, producerID, epoch
}

func TestDescribeTransactions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	cl, pid, epoch := openTxn(t, n, "x")
	describe := func(id string) kmsg.DescribeTransactionsResponseTransactionState {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{id}
		return request[*kmsg.DescribeTransactionsResponse](c, req, 0).TransactionStates[0]
	}
	d := describe("x")
	if d.ErrorCode != 0 || d.State != "Ongoing" || d.ProducerID != pid || d.ProducerEpoch != epoch || d.TimeoutMillis != 60_000 || d.StartTimestamp <= 0 {
		t.Errorf("open: %+v", d)
	}
	if len(d.Topics) != 1 || d.Topics[0].Topic != "t" || !slices.Equal(d.Topics[0].Partitions, []int32{0}) {
		t.Errorf("open: topics %+v", d.Topics)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if d := describe("x"); d.State != "CompleteCommit" || d.StartTimestamp != -1 || len(d.Topics) != 0 || d.ProducerEpoch != epoch+1 {
		t.Errorf("ended: %+v", d)
	}
	if d := describe("y"); d.ErrorCode != kerr.TransactionalIDNotFound.Code || d.TransactionalID != "y" {
		t.Errorf("unknown: %+v", d)
	}
	if d := describe(""); d.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("empty: %+v", d)
	}
}

func TestListTransactions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 1)
	_, pid, _ := openTxn(t, n, "shop.open")
	done, _, _ := openTxn(t, n, "shop.done")
	if err := done.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		since int16
		set   func(r *kmsg.ListTransactionsRequest)
		want  []string
		code  int16
	}{
		{"all", 0, func(*kmsg.ListTransactionsRequest) {}, []string{"shop.done", "shop.open"}, 0},
		{"state", 0, func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"CompleteAbort"} }, []string{"shop.done"}, 0},
		{"unknown state", 0, func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"Lost"} }, nil, 0},
		{"producer", 0, func(r *kmsg.ListTransactionsRequest) { r.ProducerIDFilters = []int64{pid, 1 << 40} }, []string{"shop.open"}, 0},
		{"longer than ever", 1, func(r *kmsg.ListTransactionsRequest) { r.DurationFilterMillis = 1 << 62 }, nil, 0},
		{"pattern", 2, func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("shop|shop.o.*") }, []string{"shop.open"}, 0},
		{"pattern of a part", 2, func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("shop") }, nil, 0},
		{"empty pattern", 2, func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("") }, []string{"shop.done", "shop.open"}, 0},
		{"bad pattern", 2, func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("(") }, nil, kerr.InvalidRegularExpression.Code},
		{
			"long pattern", 2, func(r *kmsg.ListTransactionsRequest) {
				r.TransactionalIDPattern = kmsg.StringPtr(string(make([]byte, 2000)))
			},
			nil, kerr.InvalidRegularExpression.Code,
		},
	} {
		versions(t, 66, n, func(t *testing.T, c *rawConn, v int16) {
			if v < tc.since {
				return
			}
			req := kmsg.NewPtrListTransactionsRequest()
			tc.set(req)
			r := request[*kmsg.ListTransactionsResponse](c, req, v)
			var got []string
			for _, st := range r.TransactionStates {
				got = append(got, st.TransactionalID)
			}
			slices.Sort(got)
			if r.ErrorCode != tc.code || !slices.Equal(got, tc.want) {
				t.Errorf("%s, v%d: error %d, %v", tc.name, v, r.ErrorCode, got)
			}
			if want := tc.name == "unknown state"; want != slices.Equal(r.UnknownStateFilters, []string{"Lost"}) {
				t.Errorf("%s, v%d: unknown states %v", tc.name, v, r.UnknownStateFilters)
			}
		})
	}
}

// A transaction that hangs, open in its partition and unknown to any coordinator, can be ended from outside; one that is under way cannot.
func TestWriteTxnMarkers(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 1)
	cl, pid, epoch := openTxn(t, n, "x")
	versions(t, 27, n, func(t *testing.T, c *rawConn, v int16) {
		mark := func(topic string, partition int32, pid int64, epoch int16) int16 {
			req := kmsg.NewPtrWriteTxnMarkersRequest()
			m := kmsg.NewWriteTxnMarkersRequestMarker()
			m.ProducerID, m.ProducerEpoch = pid, epoch
			m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: topic, Partitions: []int32{partition}}}
			req.Markers = append(req.Markers, m)
			r := request[*kmsg.WriteTxnMarkersResponse](c, req, v)
			if r.Markers[0].ProducerID != pid {
				t.Errorf("v%d: answer of producer %d", v, r.Markers[0].ProducerID)
			}
			return r.Markers[0].Topics[0].Partitions[0].ErrorCode
		}
		for _, e := range []int16{epoch, epoch + 1} {
			if got := mark("t", 0, pid, e); got != kerr.InvalidTxnState.Code {
				t.Errorf("v%d: the coordinator's transaction, epoch %d: error %d", v, e, got)
			}
		}
		if got := mark("none", 0, 7, 0); got != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("v%d: unknown topic: error %d", v, got)
		}
		if got := mark("t", 0, 7, -1); got != kerr.InvalidProducerEpoch.Code {
			t.Errorf("v%d: epoch -1: error %d", v, got)
		}
		// Data that no coordinator knows of can come only from inside.
		hanging := int64(1000 + v)
		b := record.NewBuilder(record.BuilderOptions{ProducerID: hanging, Epoch: 3, Transactional: true})
		b.Add(1_700_000_000_000, nil, []byte("hangs"), nil)
		if err := n.Append("t", 0, b.Build()); err != nil {
			t.Fatal(err)
		}
		if got := mark("t", 0, hanging, 2); got != kerr.InvalidProducerEpoch.Code {
			t.Errorf("v%d: an older epoch: error %d", v, got)
		}
		if !activeTxn(c, hanging) {
			t.Errorf("v%d: the transaction does not hang", v)
		}
		if got := mark("t", 0, hanging, 3); got != 0 {
			t.Errorf("v%d: the hanging transaction: error %d", v, got)
		}
		if activeTxn(c, hanging) {
			t.Errorf("v%d: the transaction still hangs", v)
		}
	})
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	got := collect(t, newClient(t, n, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 1)
	if got[0].ProducerID != pid {
		t.Errorf("read a record of producer %d", got[0].ProducerID)
	}
}

// activeTxn reports whether t/0 holds a transaction of the producer open.
func activeTxn(c *rawConn, pid int64) bool {
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	for _, a := range request[*kmsg.DescribeProducersResponse](c, req, 0).Topics[0].Partitions[0].ActiveProducers {
		if a.ProducerID == pid {
			return a.CurrentTxnStartOffset >= 0
		}
	}
	return false
}
