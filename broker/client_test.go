package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

func TestClient_allCodecs(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic := "codec." + name
			cl := newClient(t, n, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.ConsumeTopics(topic), kgo.DefaultProduceTopic(topic))
			const records = 500
			sent := map[string]int{}
			for i := range records {
				v := fmt.Sprintf("%d %s", i, strings.Repeat("x", i))
				sent[v]++
				cl.Produce(t.Context(), &kgo.Record{Key: fmt.Append(nil, i%7), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte(v)}}},
					func(_ *kgo.Record, err error) {
						if err != nil {
							t.Error(err)
						}
					})
			}
			if err := cl.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, r := range collect(t, cl, records) {
				if sent[string(r.Value)]--; sent[string(r.Value)] < 0 || string(r.Headers[0].Value) != string(r.Value) {
					t.Fatalf("record %q came twice, or changed", r.Value)
				}
			}
		})
	}
}

// What was acknowledged is there after a restart and after a power cut, with the same topic ids.
func TestClient_restarts(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"))
	id := n.ClusterID()
	total := 0
	for round := range 6 {
		for i := range 50 {
			r := cl.ProduceSync(t.Context(), kgo.StringRecord(fmt.Sprintf("%d/%d", round, i)))
			if err := r.FirstErr(); err != nil {
				t.Fatal(err)
			}
			total++
		}
		if round%2 == 0 {
			n.Restart()
		} else {
			n.CrashRestart()
		}
		if n.ClusterID() != id {
			t.Fatalf("cluster id changed: %s, %s", id, n.ClusterID())
		}
	}
	seen := map[string]bool{}
	for _, r := range collect(t, newClient(t, n, kgo.ConsumeTopics("t")), total) {
		if seen[string(r.Value)] {
			t.Fatalf("%s twice", r.Value)
		}
		seen[string(r.Value)] = true
	}
}

// A client of this process works over the in-memory listener alone.
func TestClient_inMemory(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.Listeners = nil })
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.InternalAddr()), kgo.Dialer(n.Dialer()), kgo.AllowAutoTopicCreation(),
		kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if r := collect(t, cl, 1); string(r[0].Value) != "v" {
		t.Errorf("%q", r[0].Value)
	}
}

func TestAdmin_topics(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	adm := kadm.NewClient(newClient(t, n))
	ctx := t.Context()
	created, err := adm.CreateTopics(ctx, -1, -1, map[string]*string{"retention.ms": kadm.StringPtr("1000")}, "a", "b", "bad name")
	if err != nil {
		t.Fatal(err)
	}
	if created["a"].Err != nil || created["a"].NumPartitions != 16 || !errors.Is(created["bad name"].Err, kerr.InvalidTopicException) {
		t.Fatalf("%+v", created)
	}
	if again, _ := adm.CreateTopics(ctx, 1, 1, nil, "a"); !errors.Is(again["a"].Err, kerr.TopicAlreadyExists) {
		t.Errorf("created twice: %v", again["a"].Err)
	}
	for name, c := range map[string]struct {
		partitions int32
		rf         int16
		configs    map[string]*string
		want       error
	}{
		"B87 1 M partitions":   {1_000_000, 1, nil, kerr.InvalidPartitions},
		"0 partitions":         {0, 1, nil, kerr.InvalidPartitions},
		"replication factor 3": {1, 3, nil, kerr.InvalidReplicationFactor},
		"unknown config":       {1, 1, map[string]*string{"retention.weeks": kadm.StringPtr("1")}, kerr.InvalidConfig},
		"bad value":            {1, 1, map[string]*string{"retention.ms": kadm.StringPtr("soon")}, kerr.InvalidConfig},
	} {
		r, err := adm.CreateTopic(ctx, c.partitions, c.rf, c.configs, "x")
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v (%s)", name, err, c.want, r.ErrMessage)
		}
	}
	if up, err := adm.UpdatePartitions(ctx, 20, "a"); err != nil || up["a"].Err != nil {
		t.Errorf("more partitions: %v %+v", err, up)
	}
	if up, _ := adm.UpdatePartitions(ctx, 2, "a"); !errors.Is(up["a"].Err, kerr.InvalidPartitions) {
		t.Errorf("fewer partitions: %+v", up)
	}
	topics, err := adm.ListTopics(ctx)
	if err != nil || len(topics) != 2 || len(topics["a"].Partitions) != 20 {
		t.Fatalf("%v %+v", err, topics)
	}
	gone, err := adm.DeleteTopics(ctx, "b", "nope")
	if err != nil || gone["b"].Err != nil || !errors.Is(gone["nope"].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("%v %+v", err, gone)
	}
	before := topics["a"].ID
	if _, err := adm.DeleteTopics(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if again, err := adm.CreateTopics(ctx, 1, 1, nil, "a"); err != nil || again["a"].Err != nil || again["a"].ID == before {
		t.Errorf("created again: %v %+v", err, again)
	}
}

func TestAdmin_configs(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	adm := kadm.NewClient(newClient(t, n))
	ctx := t.Context()
	if _, err := adm.CreateTopic(ctx, 1, 1, map[string]*string{"retention.ms": kadm.StringPtr("1000")}, "t"); err != nil {
		t.Fatal(err)
	}
	value := func(key string) string {
		t.Helper()
		rs, err := adm.DescribeTopicConfigs(ctx, "t")
		if err != nil || rs[0].Err != nil {
			t.Fatalf("%v %v", err, rs[0].Err)
		}
		for _, c := range rs[0].Configs {
			if c.Key == key {
				return c.MaybeValue()
			}
		}
		t.Fatalf("no config %s", key)
		return ""
	}
	if v := value("retention.ms"); v != "1000" {
		t.Errorf("retention.ms %s", v)
	}
	alter := func(op kadm.IncrementalOp, key, val string) error {
		rs, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: key, Value: &val}}, "t")
		if err != nil {
			t.Fatal(err)
		}
		return rs[0].Err
	}
	if err := alter(kadm.SetConfig, "max.message.bytes", "5000"); err != nil || value("max.message.bytes") != "5000" {
		t.Errorf("set: %v %s", err, value("max.message.bytes"))
	}
	if err := alter(kadm.AppendConfig, "cleanup.policy", "compact"); err != nil || value("cleanup.policy") != "delete,compact" {
		t.Errorf("append: %v %s", err, value("cleanup.policy"))
	}
	if err := alter(kadm.SubtractConfig, "cleanup.policy", "delete"); err != nil || value("cleanup.policy") != "compact" {
		t.Errorf("subtract: %v %s", err, value("cleanup.policy"))
	}
	if err := alter(kadm.DeleteConfig, "retention.ms", ""); err != nil || value("retention.ms") != "604800000" {
		t.Errorf("delete: %v %s", err, value("retention.ms"))
	}
	if err := alter(kadm.SetConfig, "no.such", "1"); !errors.Is(err, kerr.InvalidConfig) {
		t.Errorf("unknown config: %v", err)
	}
	// They are in force, and stay so after a restart.
	n.Restart()
	cl := newClient(t, n, kgo.ProducerBatchCompression(kgo.NoCompression()))
	err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Key: []byte("k"), Value: make([]byte, 6000)}).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("6000 bytes where 5000 are allowed: %v", err)
	}
	err = cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr()
	if !errors.Is(err, kerr.InvalidRecord) {
		t.Errorf("null key in a compacted topic: %v", err)
	}
	if b, err := adm.DescribeBrokerConfigs(ctx, 1); err != nil || b[0].Err != nil || len(b[0].Configs) == 0 {
		t.Errorf("broker configs: %v %+v", err, b)
	}
}

func TestAdmin_offsets(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	cl := newClient(t, n)
	adm := kadm.NewClient(cl)
	ctx := t.Context()
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	base := time.UnixMilli(1_700_000_000_000)
	for i := range 10 {
		r := &kgo.Record{Topic: "t", Value: []byte("v"), Timestamp: base.Add(time.Duration(i) * time.Minute)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	offset := func(name string, want int64, list func(context.Context, ...string) (kadm.ListedOffsets, error)) {
		t.Helper()
		l, err := list(ctx, "t")
		if err != nil || l["t"][0].Err != nil || l["t"][0].Offset != want {
			t.Errorf("%s: %v %+v, want %d", name, err, l["t"][0], want)
		}
	}
	after := func(d time.Duration) func(context.Context, ...string) (kadm.ListedOffsets, error) {
		return func(ctx context.Context, ts ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, base.Add(d).UnixMilli(), ts...)
		}
	}
	offset("start", 0, adm.ListStartOffsets)
	offset("end", 10, adm.ListEndOffsets)
	offset("committed", 10, adm.ListCommittedOffsets)
	offset("max timestamp", 9, adm.ListMaxTimestampOffsets)
	offset("by time", 3, after(150*time.Second))
	offset("after all", 10, after(time.Hour))
	tp := kadm.Offsets{}
	tp.Add(kadm.Offset{Topic: "t", Partition: 0, At: 4})
	if r, err := adm.DeleteRecords(ctx, tp); err != nil || r["t"][0].Err != nil || r["t"][0].LowWatermark != 4 {
		t.Errorf("delete records: %v %+v", err, r)
	}
	offset("start after deletion", 4, adm.ListStartOffsets)
	offset("by time after deletion", 4, after(time.Minute))
	n.Restart()
	offset("start after restart", 4, adm.ListStartOffsets)
	offset("end after restart", 10, adm.ListEndOffsets)
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	if err != nil || len(dirs[1]) != 1 {
		t.Errorf("log dirs: %v %+v", err, dirs)
	}
}
