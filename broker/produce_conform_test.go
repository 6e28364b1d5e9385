package broker_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

func builtBatch(codec record.Codec, pid int64, seq int32, ts int64, values ...string) []byte {
	o := record.BuilderOptions{ProducerID: pid, Sequence: seq, Codec: codec}
	if pid < 0 {
		o = record.NoProducer(codec)
	}
	b := record.NewBuilder(o)
	for _, v := range values {
		b.Add(ts, []byte("k"), []byte(v), nil)
	}
	return b.Build()
}

// TestProduce_compressionType: a batch is kept as the topic says, whatever the producer did, with its records, sequence and timestamps; "producer" leaves it as it is.
func TestProduce_compressionType(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	codecs := map[string]record.Codec{"uncompressed": record.CodecNone, "gzip": record.CodecGzip, "snappy": record.CodecSnappy, "lz4": record.CodecLZ4, "zstd": record.CodecZstd}
	value := strings.Repeat("value ", 200)
	for name, want := range codecs {
		createTopicWith(t, c, name, 1, map[string]string{"compression.type": name})
		next := int64(0)
		for _, sent := range codecs {
			batch := builtBatch(sent, 77, int32(next), 1_700_000_000_000, value, "second")
			for try := range 2 { // the second is a retry of the first
				p := request[*kmsg.ProduceResponse](c, produceRequest(name, 0, batch), 9).Topics[0].Partitions[0]
				if p.ErrorCode != 0 || p.BaseOffset != next {
					t.Fatalf("%v into %s, try %d: %+v", sent, name, try, p)
				}
			}
			f := request[*kmsg.FetchResponse](c, fetchRequest(name, 0, next, 0), 11).Topics[0].Partitions[0]
			got := record.Batch(f.RecordBatches)
			if err := record.CheckCRC(got); err != nil || got.Codec() != want || got.BaseSequence() != int32(next) || got.ProducerID() != 77 || got.MaxTimestamp() != 1_700_000_000_000 {
				t.Fatalf("%v into %s: %v, codec %v", sent, name, err, got.Codec())
			}
			var all []string
			if err := record.Records(got, func(r record.Record) error { all = append(all, string(r.Value)); return nil }); err != nil || fmt.Sprint(all) != fmt.Sprint([]string{value, "second"}) {
				t.Fatalf("%v into %s: %d records, %v", sent, name, len(all), err)
			}
			if sent == want && !bytes.Equal(got[record.PrefixBytes:], batch[record.PrefixBytes:]) {
				t.Fatalf("%v into %s: the batch was made anew", sent, name)
			}
			next += 2
		}
	}
	createTopicWith(t, c, "small", 1, map[string]string{"compression.type": "uncompressed", "max.message.bytes": "1000"})
	p := request[*kmsg.ProduceResponse](c, produceRequest("small", 0, builtBatch(record.CodecGzip, -1, -1, 1, value)), 9).Topics[0].Partitions[0]
	if p.ErrorCode != kerr.MessageTooLarge.Code {
		t.Fatalf("larger once it is not compressed: %+v", p)
	}
}

// TestProduce_timestamps: how far a producer's clock may be off (message.timestamp.before.max.ms, after.max.ms).
func TestProduce_timestamps(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	now := time.Now().UnixMilli()
	const hour, day = 3_600_000, 86_400_000
	createTopic(t, c, "plain", 1)
	createTopicWith(t, c, "strict", 1, map[string]string{"message.timestamp.before.max.ms": fmt.Sprint(day), "message.timestamp.after.max.ms": fmt.Sprint(2 * hour)})
	createTopicWith(t, c, "broker", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	for _, tc := range []struct {
		topic string
		ts    int64
		ok    bool
	}{
		{"plain", now, true}, {"plain", 1, true}, {"plain", record.NoTimestamp, true}, {"plain", now + hour/2, true}, {"plain", now + 2*hour, false},
		{"strict", now, true}, {"strict", now + hour, true}, {"strict", now + 3*hour, false}, {"strict", now - day/2, true}, {"strict", now - 2*day, false},
		{"strict", record.NoTimestamp, true}, {"broker", now + 100*day, true},
	} {
		p := request[*kmsg.ProduceResponse](c, produceRequest(tc.topic, 0, builtBatch(record.CodecNone, -1, -1, tc.ts, "v")), 9).Topics[0].Partitions[0]
		if (p.ErrorCode == 0) != tc.ok || !tc.ok && p.ErrorCode != kerr.InvalidTimestamp.Code {
			t.Errorf("%s, %d ms from now: error %d, %v", tc.topic, tc.ts-now, p.ErrorCode, p.ErrorMessage)
		}
	}
}
