package kafka_test

import (
	"context"
	"hash/crc32"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
)

// TestCompleteTransaction makes what a killed Apache Kafka leaves: a transaction that its coordinator calls complete, and a partition that holds data of it and no marker. The
// data gets there past the coordinator, which the broker is told not to ask.
func TestCompleteTransaction(t *testing.T) {
	t.Parallel()
	k := testenv.StartKafka(t, testenv.KafkaOptions{Config: map[string]string{"transaction.partition.verification.enable": "false"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin, err := kafka.NewClient(kafka.Options{Seeds: []string{k.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := kadm.NewClient(admin).CreateTopic(ctx, 3, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for p, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		hanging := int32(p + 1) // partition 0 has the data that the coordinator knows of
		cl, err := kafka.NewClient(kafka.Options{Seeds: []string{k.Addr()}}, kgo.TransactionalID("outrelay-x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if m, err := kafka.CompleteTransaction(ctx, admin, "outrelay-x"); err != nil || m.Partitions != 0 {
			t.Fatalf("with nothing to do: %+v %v", m, err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: 0, Value: []byte("known")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		pid, epoch, err := cl.ProducerID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := kafka.CompleteTransaction(ctx, admin, "outrelay-x"); err != nil || m.Partitions != 0 {
			t.Fatalf("while a transaction is open: %+v %v", m, err)
		}
		produceRaw(ctx, t, k.Addr(), "t", hanging, pid, epoch)
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
		if high, stable := ends(ctx, t, admin, hanging); high != 1 || stable != 0 {
			t.Fatalf("the partition ends at %d, stable up to %d: not the case that is tested", high, stable)
		}
		m, err := kafka.CompleteTransaction(ctx, admin, "outrelay-x")
		if err != nil || m.Partitions != 1 || m.Commit != bool(end) {
			t.Fatalf("%+v %v", m, err)
		}
		if high, stable := ends(ctx, t, admin, hanging); high != 2 || stable != 2 {
			t.Errorf("the partition ends at %d, stable up to %d", high, stable)
		}
		seen := 0
		if err := kafka.ReadCommitted(ctx, admin, "t", hanging, 0, 2, func(*kgo.Record) error { seen++; return nil }); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 1, false: 0}[bool(end)]; seen != want {
			t.Errorf("%d records are committed, want %d", seen, want)
		}
		if m, err := kafka.CompleteTransaction(ctx, admin, "outrelay-x"); err != nil || m.Partitions != 0 {
			t.Errorf("done already: %+v %v", m, err)
		}
	}
}

func ends(ctx context.Context, t *testing.T, cl *kgo.Client, partition int32) (high, stable int64) {
	t.Helper()
	h, err := kafka.HighWatermarks(ctx, cl, "t")
	if err != nil {
		t.Fatal(err)
	}
	s, err := kafka.StableOffsets(ctx, cl, "t")
	if err != nil {
		t.Fatal(err)
	}
	return h[partition], s[partition]
}

// produceRaw writes a transactional batch of one record without telling the coordinator.
func produceRaw(ctx context.Context, t *testing.T, addr, topic string, partition int32, pid int64, epoch int16) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(kversion.V3_7_0())) // from Produce v12 on the broker tells the coordinator
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rec := kmsg.NewRecord()
	rec.Value = []byte("unknown")
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	b := kmsg.NewRecordBatch()
	b.PartitionLeaderEpoch, b.Magic, b.Attributes, b.ProducerID, b.ProducerEpoch, b.NumRecords = -1, 2, 0x10, pid, epoch, 1
	b.FirstTimestamp, b.MaxTimestamp = time.Now().UnixMilli(), time.Now().UnixMilli()
	b.Records = rec.AppendTo(nil)
	const frame, covered = 12, 21
	b.Length = int32(len(b.AppendTo(nil)) - frame)
	b.CRC = int32(crc32.Checksum(b.AppendTo(nil)[covered:], crc32.MakeTable(crc32.Castagnoli)))
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis, req.TransactionID = 9, -1, 10_000, kmsg.StringPtr("outrelay-x")
	rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	rt.Topic, rp.Partition, rp.Records = topic, partition, b.AppendTo(nil)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Broker(1).Request(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
}
