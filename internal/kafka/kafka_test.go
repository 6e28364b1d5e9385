package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

func newLog(t *testing.T, extra ...kgo.Opt) (*kfake.Cluster, *kgo.Client) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, newClient(t, c, extra...)
}

func newClient(t *testing.T, c *kfake.Cluster, extra ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kafka.NewClient(kafka.Options{Seeds: c.ListenAddrs()}, extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func transact(t *testing.T, cl *kgo.Client, commit bool, recs ...*kgo.Record) {
	t.Helper()
	ctx := context.Background()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

func TestPartitionOf_IsTheJavaClients(t *testing.T) {
	t.Parallel()
	// Computed by org.apache.kafka.common.utils.Utils.murmur2, from Kafka's UtilsTest: toPositive(murmur2(key)).
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		const n = 1000
		if got, want := kafka.PartitionOf([]byte(key), n), (hash&0x7fffffff)%n; got != want {
			t.Errorf("PartitionOf(%q) = %d, want %d", key, got, want)
		}
	}
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	ours := kafka.Partitioner().ForTopic("t")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		n := rapid.IntRange(1, 200).Draw(t, "partitions")
		if key == nil {
			key = []byte{}
		}
		want := theirs.Partition(&kgo.Record{Key: key}, n)
		if got := ours.Partition(&kgo.Record{Key: key, Partition: kafka.AnyPartition}, n); got != want {
			t.Fatalf("partition %d, franz-go's is %d", got, want)
		}
		if got := kafka.PartitionOf(key, int32(n)); int(got) != want {
			t.Fatalf("PartitionOf %d, franz-go's is %d", got, want)
		}
	})
}

func TestPartitioner_ObeysAnExplicitPartition(t *testing.T) {
	t.Parallel()
	p := kafka.Partitioner().ForTopic("t")
	r := &kgo.Record{Key: []byte("k"), Partition: 7}
	if got := p.Partition(r, 16); got != 7 {
		t.Errorf("partition %d, want 7", got)
	}
	if !p.RequiresConsistency(r) || !p.RequiresConsistency(&kgo.Record{Key: []byte("k"), Partition: kafka.AnyPartition}) {
		t.Error("a keyed or placed record must not move because its partition is down")
	}
	if p.RequiresConsistency(&kgo.Record{Partition: kafka.AnyPartition}) {
		t.Error("a null key may go anywhere")
	}
}

func TestReadRuns_followOnEachOther(t *testing.T) {
	t.Parallel()
	c, cl := newLog(t)
	ctx := context.Background()
	if _, err := kafka.EnsureTopic(ctx, cl, "t", 1, nil); err != nil {
		t.Fatal(err)
	}
	a := newClient(t, c, kgo.TransactionalID("a"), kgo.RecordPartitioner(kafka.Partitioner()))
	for i := range 12 {
		transact(t, a, i%3 > 0, &kgo.Record{Topic: "t", Value: []byte{byte(i)}}) // each with a marker
	}
	read := func(from, upTo int64) (runs []kafka.Run, values []byte) {
		err := kafka.ReadRuns(ctx, cl, "t", 0, from, upTo, func(r kafka.Run) error {
			runs = append(runs, r)
			for _, rec := range r.Records {
				if rec.Offset < r.From || rec.Offset >= r.Next {
					t.Errorf("offset %d in [%d, %d)", rec.Offset, r.From, r.Next)
				}
				values = append(values, rec.Value...)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range runs {
			if i > 0 && r.From != runs[i-1].Next {
				t.Errorf("run [%d, %d) after [%d, %d)", r.From, r.Next, runs[i-1].From, runs[i-1].Next)
			}
		}
		return runs, values
	}
	runs, values := read(0, 24)
	if runs[0].From != 0 || runs[len(runs)-1].Next != 24 || fmt.Sprint(values) != "[1 2 4 5 7 8 10 11]" {
		t.Errorf("%d runs to %d: %v", len(runs), runs[len(runs)-1].Next, values)
	}
	if runs, values = read(3, 9); runs[0].From != 3 || runs[len(runs)-1].Next != 9 || fmt.Sprint(values) != "[2 4]" {
		t.Errorf("of [3, 9): %v, %v", runs, values)
	}
	// What the log no longer holds is left out, and seen to be.
	os := kadm.Offsets{}
	os.AddOffset("t", 0, 10, -1)
	if _, err := kadm.NewClient(cl).DeleteRecords(ctx, os); err != nil {
		t.Fatal(err)
	}
	if runs, values = read(3, 24); runs[0].From != 10 || fmt.Sprint(values) != "[5 7 8 10 11]" {
		t.Errorf("after deletion: %v, %v", runs, values)
	}
}

func TestReadCommitted_SeesEverythingBelowTheMark(t *testing.T) {
	t.Parallel()
	c, cl := newLog(t)
	ctx := context.Background()
	if _, err := kafka.EnsureTopic(ctx, cl, "t", 1, nil); err != nil {
		t.Fatal(err)
	}
	a := newClient(t, c, kgo.TransactionalID("a"), kgo.RecordPartitioner(kafka.Partitioner()))
	b := newClient(t, c, kgo.TransactionalID("b"), kgo.RecordPartitioner(kafka.Partitioner()))
	rec := func(k, v string) *kgo.Record { return &kgo.Record{Topic: "t", Key: []byte(k), Value: []byte(v)} }
	transact(t, a, true, rec("a", "1"))
	transact(t, a, false, rec("a", "aborted"))
	transact(t, a, true, rec("a", "2"), rec("b", "1"))
	// b holds readers at its first record until it ends; a commits behind it.
	if err := b.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := b.ProduceSync(ctx, rec("b", "open")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	transact(t, a, true, rec("a", "3"))
	transact(t, a, false, rec("a", "aborted at the end"))

	hw, err := kafka.HighWatermarks(ctx, cl, "t")
	if err != nil {
		t.Fatal(err)
	}
	lso, err := kafka.StableOffsets(ctx, cl, "t")
	if err != nil {
		t.Fatal(err)
	}
	if lso[0] >= hw[0] {
		t.Fatalf("last stable offset %d, high watermark %d: the open transaction holds nothing", lso[0], hw[0])
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := kafka.ReadCommitted(short, cl, "t", 0, 0, hw[0], func(*kgo.Record) error { return nil }); err == nil {
		t.Fatal("read to the high watermark past an open transaction")
	}
	done := make(chan error, 1)
	var got []string
	go func() {
		done <- kafka.ReadCommitted(ctx, cl, "t", 0, 0, hw[0], func(r *kgo.Record) error {
			got = append(got, string(r.Key)+string(r.Value))
			return nil
		})
	}()
	if err := b.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := []string{"a1", "a2", "b1", "a3"}; !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	last, err := kafka.ReadCompacted(ctx, cl, "t", 0)
	if err != nil || string(last["a"].Value) != "3" || string(last["b"].Value) != "1" || len(last) != 2 {
		t.Errorf("last by key: %v, %v", last, err)
	}
}

func TestLastOfKey_LooksBackwardsUntilItFinds(t *testing.T) {
	t.Parallel()
	_, cl := newLog(t, kgo.RecordPartitioner(kafka.Partitioner()))
	ctx := context.Background()
	if _, err := kafka.EnsureTopic(ctx, cl, "t", 1, nil); err != nil {
		t.Fatal(err)
	}
	recs := []*kgo.Record{{Topic: "t", Key: []byte("old"), Value: []byte("found")}, {Topic: "t", Key: []byte("gone"), Value: []byte("x")}, {Topic: "t", Key: []byte("gone")}}
	for i := range 20_000 {
		recs = append(recs, &kgo.Record{Topic: "t", Key: []byte("busy"), Value: fmt.Append(nil, i)})
	}
	if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"old": "found", "busy": "19999", "gone": "", "never": ""} {
		r, err := kafka.LastOfKey(ctx, cl, "t", 0, key)
		if err != nil {
			t.Fatal(err)
		}
		if r == nil && want != "" || r != nil && string(r.Value) != want {
			t.Errorf("%s: %v, want %q", key, r, want)
		}
	}
}

func TestEnsureTopic_CreatesOnceAndSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	_, cl := newLog(t)
	ctx := context.Background()
	if _, err := kafka.Topic(ctx, cl, "t"); !errors.Is(err, kafka.ErrNoTopic) {
		t.Fatalf("Topic: %v, want ErrNoTopic", err)
	}
	if _, err := kafka.HighWatermarks(ctx, cl, "t"); !errors.Is(err, kafka.ErrNoTopic) {
		t.Fatalf("HighWatermarks: %v, want ErrNoTopic", err)
	}
	st, err := kafka.EnsureTopic(ctx, cl, "t", 3, map[string]string{"retention.ms": "1000"})
	if err != nil || !st.Created || st.Partitions != 3 || st.ID == ([16]byte{}) {
		t.Fatalf("created: %+v %v", st, err)
	}
	if hw, err := kafka.HighWatermarks(ctx, cl, "t"); err != nil || len(hw) != 3 {
		t.Fatalf("HighWatermarks at once after creation: %v %v", hw, err)
	}
	again, err := kafka.EnsureTopic(ctx, cl, "t", 5, map[string]string{"retention.ms": "2000"})
	if err != nil || again.Created || again.ID != st.ID {
		t.Fatalf("again: %+v %v", again, err)
	}
	if want := []string{"partitions is 3, not 5", "retention.ms is 1000, not 2000"}; !slices.Equal(again.Differs, want) {
		t.Errorf("differs %q, want %q", again.Differs, want)
	}
	ids, err := kafka.TopicIDs(ctx, cl, "t", "none")
	if err != nil || len(ids) != 1 || ids["t"] != st.ID {
		t.Errorf("ids %v, %v", ids, err)
	}
	if id, err := kafka.ClusterID(ctx, cl); err != nil || id == "" {
		t.Errorf("cluster id %q, %v", id, err)
	}
}

func TestClass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ err, want error }{
		"fenced":       {fmt.Errorf("x: %w", kerr.ProducerFenced), outrelay.ErrFenced},
		"old epoch":    {kerr.InvalidProducerEpoch, outrelay.ErrFenced},
		"too large":    {kerr.MessageTooLarge, outrelay.ErrRecord},
		"forbidden":    {kerr.TopicAuthorizationFailed, outrelay.ErrEnvironment},
		"moved":        {kerr.NotLeaderForPartition, outrelay.ErrTransient},
		"unknown":      {kerr.UnknownServerError, outrelay.ErrTransient},
		"connection":   {errors.New("EOF"), outrelay.ErrTransient},
		"has a class":  {fmt.Errorf("x: %w", outrelay.ErrDataHalt), outrelay.ErrDataHalt},
		"context over": {fmt.Errorf("x: %w", context.Canceled), context.Canceled},
		"none":         {nil, nil},
	} {
		if got := kafka.Class(c.err); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: class %v, want %v", name, got, c.want)
		}
		if c.err != nil && !errors.Is(kafka.Wrap(c.err, "place"), c.want) {
			t.Errorf("%s: Wrap lost the class", name)
		}
	}
}

func TestCheckTopicName(t *testing.T) {
	t.Parallel()
	long := make([]byte, 250)
	for i := range long {
		long[i] = 'a'
	}
	for name, ok := range map[string]bool{
		"outbox.event.order": true, "A-b_c.9": true, string(long[:249]): true,
		"": false, ".": false, "..": false, "../x": false, "a b": false, "é": false, string(long): false, "__x": false, "a\x00": false,
	} {
		if err := kafka.CheckTopicName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNewClient_NeedsASeed(t *testing.T) {
	t.Parallel()
	if _, err := kafka.NewClient(kafka.Options{}); !errors.Is(err, outrelay.ErrConfig) {
		t.Errorf("err %v, want ErrConfig", err)
	}
}
