package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

// txnClients are clients of both transaction versions.
var txnClients = map[string][]kgo.Opt{
	"v2": nil,
	"v1": {kgo.MaxVersions(kversion.V3_6_0())},
}

func inTxn(t testing.TB, cl *kgo.Client, end kgo.TransactionEndTry, topic string, values ...string) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		r := kgo.StringRecord(v)
		r.Topic, r.Key = topic, fmt.Append(nil, i)
		cl.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce %q: %v", v, err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Nothing is buffered: this waits until the client knows the partitions of a topic that is new to it. See kafka.Commit.
	if err := cl.AbortBufferedRecords(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

// Readers at read_committed see all of a committed transaction and nothing of an aborted one, in order, over power cuts.
func TestTxn_commitAndAbort(t *testing.T) {
	t.Parallel()
	for name, opts := range txnClients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := brokertest.New(t)
			cl := newClient(t, n, append([]kgo.Opt{kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation()}, opts...)...)
			want := map[string]bool{}
			for i := range 30 {
				var vs []string
				for j := range 5 {
					vs = append(vs, fmt.Sprintf("%d/%d", i, j))
				}
				end := kgo.TryAbort
				if i%3 > 0 {
					end = kgo.TryCommit
					for _, v := range vs {
						want[v] = true
					}
				}
				inTxn(t, cl, end, "t", vs...)
				if i%10 == 9 {
					n.CrashRestart()
				}
			}
			reader := newClient(t, n, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
			for _, r := range collect(t, reader, len(want)) {
				if !want[string(r.Value)] {
					t.Errorf("%q was aborted, or came twice", r.Value)
				}
				delete(want, string(r.Value))
			}
		})
	}
}

// Clients that know transaction version 2 use it: EndTxn v5 answers with the next epoch.
func TestTxn_clientsUseV2(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	var mu sync.Mutex
	seen := map[int16]int{}
	hook := &requestHook{fn: func(key int16) {
		mu.Lock()
		seen[key]++
		mu.Unlock()
	}}
	cl := newClient(t, n, kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation(), kgo.WithHooks(hook))
	inTxn(t, cl, kgo.TryCommit, "t", "a")
	pid, epoch, err := cl.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inTxn(t, cl, kgo.TryCommit, "t", "b")
	pid2, epoch2, err := cl.ProducerID(t.Context())
	if err != nil || pid2 != pid || epoch2 != epoch+1 {
		t.Errorf("producer %d/%d, then %d/%d (%v)", pid, epoch, pid2, epoch2, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen[24] != 0 || seen[26] != 2 {
		t.Errorf("AddPartitionsToTxn %d times, EndTxn %d times", seen[24], seen[26])
	}
}

type requestHook struct{ fn func(key int16) }

func (h *requestHook) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	h.fn(key)
}

// A transaction consumes and produces: its offsets count when it commits, and not when it aborts.
func TestTxn_consumeAndProduce(t *testing.T) {
	t.Parallel()
	for name, opts := range txnClients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := brokertest.New(t)
			cl := newClient(t, n, kgo.AllowAutoTopicCreation())
			const records = 200
			produceN(t, cl, "in", records)
			sess, err := kgo.NewGroupTransactSession(append([]kgo.Opt{
				kgo.SeedBrokers(n.TCPAddr()), kgo.TransactionalID("x"), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("in"), kgo.AllowAutoTopicCreation(),
				kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets(), kgo.FetchMaxPartitionBytes(200),
				kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.MetadataMinAge(50 * time.Millisecond),
			}, opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer sess.Close()
			done, rounds := 0, 0
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for done < records {
				fs := sess.PollRecords(ctx, 20)
				if ctx.Err() != nil {
					t.Fatalf("%d of %d in time", done, records)
				}
				rounds++
				if err := sess.Begin(); err != nil {
					t.Fatal(err)
				}
				fs.EachRecord(func(r *kgo.Record) {
					sess.Produce(ctx, &kgo.Record{Topic: "out", Key: r.Key, Value: r.Value}, nil)
				})
				end := kgo.TransactionEndTry(rounds%4 != 0)
				committed, err := sess.End(ctx, end)
				if err != nil {
					t.Fatal(err)
				}
				if committed {
					done += fs.NumRecords()
				}
			}
			seen := map[string]bool{}
			for _, r := range collect(t, newClient(t, n, kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), records) {
				if seen[string(r.Value)] {
					t.Errorf("%s twice", r.Value)
				}
				seen[string(r.Value)] = true
			}
			lag, err := kadm.NewClient(cl).Lag(ctx, "g")
			if g := lag["g"]; err != nil || g.Lag.Total() != 0 {
				t.Errorf("lag %d, %v", g.Lag.Total(), err)
			}
		})
	}
}

// A newer producer of the same id fences the older one and aborts what it has open.
func TestTxn_fencing(t *testing.T) {
	t.Parallel()
	for name, opts := range txnClients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := brokertest.New(t)
			o := append([]kgo.Opt{kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t")}, opts...)
			old, younger := newClient(t, n, o...), newClient(t, n, o...)
			if err := old.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := old.ProduceSync(t.Context(), kgo.StringRecord("open")).FirstErr(); err != nil {
				t.Fatal(err)
			}
			inTxn(t, younger, kgo.TryCommit, "t", "new")
			r := old.ProduceSync(t.Context(), kgo.StringRecord("late")).FirstErr()
			if !errors.Is(r, kerr.InvalidProducerEpoch) && !errors.Is(r, kerr.ProducerFenced) {
				t.Errorf("the old producer was told %v", r)
			}
			if err := old.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
				t.Error("the old producer committed")
			}
			inTxn(t, younger, kgo.TryCommit, "t", "newer")
			got := collect(t, newClient(t, n, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 2)
			for _, r := range got {
				if string(r.Value) != "new" && string(r.Value) != "newer" {
					t.Errorf("read %q", r.Value)
				}
			}
		})
	}
}

// A transaction whose producer is gone is aborted when its time is up, also over a restart of the broker, and readers go on.
func TestTxn_timeout(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"), kgo.TransactionTimeout(time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("open")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	n.CrashRestart()
	plain := newClient(t, n, kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := plain.ProduceSync(t.Context(), kgo.StringRecord("plain")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	got := collect(t, newClient(t, n, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 1)
	if string(got[0].Value) != "plain" {
		t.Errorf("read %q", got[0].Value)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("committed after the timeout")
	}
}

// Every version of the transaction requests answers in its own shape.
func TestTxn_everyVersion(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 2)
	for _, kind := range []int8{0, 1} {
		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorType, fc.CoordinatorKeys = kind, []string{"x"}
		if r := request[*kmsg.FindCoordinatorResponse](c, fc, 4); r.Coordinators[0].ErrorCode != 0 {
			t.Fatalf("FindCoordinator: %+v", r)
		}
	}
	for v := range int16(6) {
		id := fmt.Sprint("x", v)
		in := kmsg.NewPtrInitProducerIDRequest()
		in.TransactionalID, in.TransactionTimeoutMillis, in.ProducerID, in.ProducerEpoch = &id, 60_000, -1, -1
		pr := request[*kmsg.InitProducerIDResponse](c, in, v)
		if pr.ErrorCode != 0 || pr.ProducerID < 0 || pr.ProducerEpoch != 0 {
			t.Fatalf("InitProducerId v%d: %+v", v, pr)
		}
		in.TransactionalID = nil
		if r := request[*kmsg.InitProducerIDResponse](c, in, v); r.ErrorCode != 0 || r.ProducerID == pr.ProducerID || r.ProducerEpoch != 0 {
			t.Errorf("InitProducerId v%d without an id: %+v", v, r)
		}
		addEveryVersion(t, c, id, pr.ProducerID, v)
		ao := kmsg.NewPtrAddOffsetsToTxnRequest()
		ao.TransactionalID, ao.ProducerID, ao.Group = id, pr.ProducerID, "g"
		if r := request[*kmsg.AddOffsetsToTxnResponse](c, ao, min(v, 4)); r.ErrorCode != 0 {
			t.Errorf("AddOffsetsToTxn v%d: %+v", v, r)
		}
		oc := kmsg.NewPtrTxnOffsetCommitRequest()
		oc.TransactionalID, oc.ProducerID, oc.Group, oc.Generation = id, pr.ProducerID, "g", -1
		oc.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Partition: 0, Offset: int64(v) + 1}}}}
		if r := request[*kmsg.TxnOffsetCommitResponse](c, oc, v); r.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("TxnOffsetCommit v%d: %+v", v, r)
		}
		of := kmsg.NewPtrOffsetFetchRequest()
		of.Group, of.RequireStable, of.Topics = "g", true, []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		if r := request[*kmsg.OffsetFetchResponse](c, of, 7); r.Topics[0].Partitions[0].ErrorCode != kerr.UnstableOffsetCommit.Code {
			t.Errorf("OffsetFetch of an open commit: %+v", r)
		}
		e := kmsg.NewPtrEndTxnRequest()
		e.TransactionalID, e.ProducerID, e.Commit = id, pr.ProducerID, true
		r := request[*kmsg.EndTxnResponse](c, e, v)
		if r.ErrorCode != 0 || v >= 5 && (r.ProducerID != pr.ProducerID || r.ProducerEpoch != 1) {
			t.Errorf("EndTxn v%d: %+v", v, r)
		}
		if r := request[*kmsg.OffsetFetchResponse](c, of, 7); r.Topics[0].Partitions[0].Offset != int64(v)+1 {
			t.Errorf("OffsetFetch v%d: %+v", v, r)
		}
		e.ProducerEpoch = 7
		want := kerr.ProducerFenced.Code
		if v < 2 {
			want = kerr.InvalidProducerEpoch.Code
		}
		if r := request[*kmsg.EndTxnResponse](c, e, v); r.ErrorCode != want {
			t.Errorf("EndTxn v%d of another epoch: %+v", v, r)
		}
	}
}

func addEveryVersion(t *testing.T, c *rawConn, id string, pid int64, v int16) {
	t.Helper()
	ap := kmsg.NewPtrAddPartitionsToTxnRequest()
	ap.TransactionalID, ap.ProducerID = id, pid
	ap.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: []int32{0, 1}}}
	tx := kmsg.NewAddPartitionsToTxnRequestTransaction()
	tx.TransactionalID, tx.ProducerID = id, pid
	tx.Topics = []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: "t", Partitions: []int32{0, 1}}}
	ap.Transactions = append(ap.Transactions, tx)
	code := func() int16 {
		r := request[*kmsg.AddPartitionsToTxnResponse](c, ap, v)
		if v >= 4 {
			return r.Transactions[0].Topics[0].Partitions[1].ErrorCode
		}
		return r.Topics[0].Partitions[1].ErrorCode
	}
	if v >= 4 {
		ap.Transactions[0].VerifyOnly = true
		want := kerr.InvalidTxnState.Code
		if v >= 5 {
			want = kerr.TransactionAbortable.Code
		}
		if got := code(); got != want {
			t.Errorf("AddPartitionsToTxn v%d: verify: %d", v, got)
		}
		ap.Transactions[0].VerifyOnly = false
	}
	if got := code(); got != 0 {
		t.Errorf("AddPartitionsToTxn v%d: %d", v, got)
	}
	ap.Topics[0].Partitions, ap.Transactions[0].Topics[0].Partitions = []int32{0, 9}, []int32{0, 9}
	if got := code(); got != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("AddPartitionsToTxn v%d of a partition that is not there: %d", v, got)
	}
}

// Data of a transaction that was never begun, or of a partition that was not added, is refused for older clients, too (KIP-890).
func TestTxn_produceIsVerified(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	fc := kmsg.NewPtrFindCoordinatorRequest()
	fc.CoordinatorType, fc.CoordinatorKeys = 1, []string{"x"}
	request[*kmsg.FindCoordinatorResponse](c, fc, 4)
	id := "x"
	in := kmsg.NewPtrInitProducerIDRequest()
	in.TransactionalID, in.TransactionTimeoutMillis, in.ProducerID, in.ProducerEpoch = &id, 60_000, -1, -1
	pr := request[*kmsg.InitProducerIDResponse](c, in, 5)

	for _, v := range []int16{3, 7, 11, 12} {
		b := record.NewBuilder(record.BuilderOptions{ProducerID: pr.ProducerID, Epoch: 0, Transactional: true})
		b.Add(1_700_000_000_000, []byte("k"), []byte("v"), nil)
		p := produceRequest("t", 0, b.Build())
		p.TransactionID = &id
		r := request[*kmsg.ProduceResponse](c, p, v)
		want := kerr.InvalidTxnState.Code
		switch v {
		case 11:
			want = kerr.TransactionAbortable.Code
		case 12:
			want = 0
		}
		if got := r.Topics[0].Partitions[0].ErrorCode; got != want {
			t.Errorf("Produce v%d: error %d, want %d", v, got, want)
		}
	}
}

// BenchmarkTxn_one is one-record transactions, one after the other, over TCP and a real disk.
func BenchmarkTxn_one(b *testing.B) {
	for name, opts := range txnClients {
		b.Run(name, func(b *testing.B) {
			n := brokertest.New(b, brokertest.OnDisk(b))
			cl := newClient(b, n, append([]kgo.Opt{kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t")}, opts...)...)
			inTxn(b, cl, kgo.TryCommit, "t", "warm")
			for b.Loop() {
				inTxn(b, cl, kgo.TryCommit, "t", "v")
			}
		})
	}
}
