package compat_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// corpusLen is how many records a topic of the corpus holds. The programs of the clients know it too, and the shape of record i:
// key k<i%10>, value v<i>: and i%200 times x, a header n with <i>. In topics that franz-go fills, record i is in partition i%4, at
// offset i/4, with timestamp corpusEpoch + i.
const (
	corpusLen        = 1000
	corpusPartitions = 4
	corpusEpochMilli = 1_700_000_000_000
)

func corpusValue(i int) string { return fmt.Sprintf("v%d:%s", i, strings.Repeat("x", i%200)) }

func corpusRecord(topic string, i int) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(i % corpusPartitions), Timestamp: time.UnixMilli(corpusEpochMilli + int64(i)),
		Key: fmt.Appendf(nil, "k%d", i%10), Value: []byte(corpusValue(i)),
		Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}},
	}
}

// codecs are the topics in.<codec> and out.<codec>.
var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// fill makes the topics that the client is to read: in.<codec> with the corpus, in.txn with the corpus in transactions of 100, each of which is
// followed by one of 10 that is aborted.
func (s *subject) fill() {
	s.t.Helper()
	ctx, cancel := s.within()
	defer cancel()
	topics := []string{"in.txn", "out.txn"}
	for c := range codecs {
		topics = append(topics, "in."+c, "out."+c)
	}
	made, err := s.admin.CreateTopics(ctx, corpusPartitions, 1, map[string]*string{"retention.ms": kadm.StringPtr("-1")}, topics...) // the corpus is old
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for name, codec := range codecs {
		if err := s.write("in."+name, kgo.ProducerBatchCompression(codec)); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.writeTransactions("in.txn"); err != nil {
		s.t.Fatal(err)
	}
}

// producer returns a client that writes into the partition that a record names.
func (s *subject) producer(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.broker.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
	}, opts...)...)
}

func (s *subject) write(topic string, opts ...kgo.Opt) error {
	ctx, cancel := s.within()
	defer cancel()
	p, err := s.producer(opts...)
	if err != nil {
		return err
	}
	defer p.Close()
	records := make([]*kgo.Record, corpusLen)
	for i := range records {
		records[i] = corpusRecord(topic, i)
	}
	return p.ProduceSync(ctx, records...).FirstErr()
}

func (s *subject) writeTransactions(topic string) error {
	ctx, cancel := s.within()
	defer cancel()
	p, err := s.producer(kgo.TransactionalID("filler"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer p.Close()
	for from := 0; from < corpusLen; from += 100 {
		for _, part := range []struct {
			n   int
			end kgo.TransactionEndTry
		}{{100, kgo.TryCommit}, {10, kgo.TryAbort}} {
			if err := p.BeginTransaction(); err != nil {
				return err
			}
			for i := from; i < from+part.n; i++ {
				p.Produce(ctx, corpusRecord(topic, i), nil) // Flush waits, EndTransaction tells
			}
			if err := p.Flush(ctx); err != nil {
				return err
			}
			if err := p.EndTransaction(ctx, part.end); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdsCorpus reads all committed records of a topic and compares them with the corpus: each record once, those of a key in their order
// within a partition.
func (s *subject) holdsCorpus(topic string) error {
	records, err := s.readAll(topic)
	if err != nil {
		return err
	}
	seen := make([]bool, corpusLen)
	last := map[string]int{}
	for _, r := range records {
		var i int
		if _, err := fmt.Sscanf(string(r.Value), "v%d:", &i); err != nil || i < 0 || i >= corpusLen {
			return fmt.Errorf("%s/%d at %d: value %.40q is not of the corpus", topic, r.Partition, r.Offset, r.Value)
		}
		switch want := corpusRecord(topic, i); {
		case seen[i]:
			return fmt.Errorf("record %d is there twice", i)
		case string(r.Key) != string(want.Key) || string(r.Value) != string(want.Value):
			return fmt.Errorf("record %d: key %q, value %.40q", i, r.Key, r.Value)
		case len(r.Headers) != 1 || r.Headers[0].Key != "n" || string(r.Headers[0].Value) != fmt.Sprint(i):
			return fmt.Errorf("record %d: headers %v", i, r.Headers)
		}
		at := fmt.Sprint(r.Partition, string(r.Key))
		if prev, ok := last[at]; ok && prev >= i {
			return fmt.Errorf("record %d of %s stands after %d", i, at, prev)
		}
		seen[i], last[at] = true, i
	}
	if len(records) != corpusLen {
		return fmt.Errorf("%d records in %s, want %d", len(records), topic, corpusLen)
	}
	return nil
}

// readAll returns the topic's committed records, up to the ends that it has now.
func (s *subject) readAll(topic string) ([]*kgo.Record, error) {
	ctx, cancel := s.within()
	defer cancel()
	ends, err := s.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	starts := map[int32]kgo.Offset{}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			starts[o.Partition], left[o.Partition] = kgo.NewOffset().AtStart(), o.Offset
		}
	})
	c, err := kgo.NewClient(kgo.SeedBrokers(s.broker.Kafka), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var records []*kgo.Record
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("after %d records: %w", len(records), err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return records, nil
}
