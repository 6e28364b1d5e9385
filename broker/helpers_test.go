package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

// plainBatch returns a batch with one record per value, by no idempotent producer.
func plainBatch(values ...string) []byte {
	b := record.NewBuilder(record.NoProducer(record.CodecNone))
	for _, v := range values {
		b.Add(1_700_000_000_000, []byte("k"), []byte(v), nil)
	}
	return b.Build()
}

// idempotentBatch is plainBatch by a producer.
func idempotentBatch(pid int64, epoch int16, seq int32, values ...string) []byte {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: pid, Epoch: epoch, Sequence: seq})
	for _, v := range values {
		b.Add(1_700_000_000_000, []byte("k"), []byte(v), nil)
	}
	return b.Build()
}

func produceRequest(topic string, partition int32, batch []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func fetchRequest(topic string, partition int32, offset int64, waitMs int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = waitMs, 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = partition, offset, 1<<20, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func createTopic(t testing.TB, c *rawConn, name string, partitions int32) *kmsg.CreateTopicsResponseTopic {
	t.Helper()
	return createTopicWith(t, c, name, partitions, nil)
}

func createTopicWith(t testing.TB, c *rawConn, name string, partitions int32, configs map[string]string) *kmsg.CreateTopicsResponseTopic {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
	for k, v := range configs {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = k, &v
		rt.Configs = append(rt.Configs, rc)
	}
	req.Topics = append(req.Topics, rt)
	r := request[*kmsg.CreateTopicsResponse](c, req, 7)
	if r.Topics[0].ErrorCode != 0 {
		t.Fatalf("create %s: error %d %v", name, r.Topics[0].ErrorCode, *r.Topics[0].ErrorMessage)
	}
	return &r.Topics[0]
}

// newClient returns a franz-go client over TCP that does not linger.
func newClient(t testing.TB, n *brokertest.Node, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(n.TCPAddr()), kgo.ProducerLinger(0), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// collect consumes until it has want records.
func collect(t testing.TB, cl *kgo.Client, want int) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []*kgo.Record
	for len(got) < want {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records in time", len(got), want)
		}
		for _, e := range fs.Errors() {
			t.Fatalf("%s/%d: %v", e.Topic, e.Partition, e.Err)
		}
		got = append(got, fs.Records()...)
	}
	return got
}

// eventually waits until ok returns true, looking again and again.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for deadline := time.After(10 * time.Second); !ok(); {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}
