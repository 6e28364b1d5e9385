package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	produceVersion  = 9
	batchCRCAt      = 17 // in a record batch: CRC32C of all that follows it
	batchCoveredAt  = 21
	batchSequenceAt = 53
)

// bareClients is manyClients with clients that cost next to nothing: a connection each, an encoded request of one idempotent record of which only the sequence
// changes, and an answer of which only the error is looked at. Where client and broker share processors, it is the brokers that differ here.
func bareClients(ctx context.Context, seed, topic string, partitions int, length time.Duration) (logSample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	value := logPayload()
	producers := make([]*bareProducer, logClients)
	for i := range producers {
		p, err := dialBareProducer(ctx, seed, topic, int32(i%partitions), value)
		if err != nil {
			return logSample{}, err
		}
		defer p.conn.Close()
		producers[i] = p
	}
	warm := time.Now().Add(warmUp(length))
	end := warm.Add(length)
	var mu sync.Mutex // guards times, n and errs
	var times []float64
	var n int
	var errs []error
	var wg sync.WaitGroup
	for _, p := range producers {
		wg.Go(func() {
			ts, sent, err := p.produceUntil(warm, end)
			mu.Lock()
			defer mu.Unlock()
			times, n = append(times, ts...), n+sent
			if err != nil {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return logSample{}, err
	}
	return logSample{perSec: float64(len(times)) / length.Seconds(), p50: quantile(times, 0.5), p99: quantile(times, 0.99), n: n}, nil
}

// bareProducer is one connection that produces one record after the other to one partition.
type bareProducer struct {
	fetcher        // the connection
	frame   []byte // the request
	batch   []byte // in frame
	answer  *kmsg.ProduceResponse
}

func dialBareProducer(ctx context.Context, seed, topic string, partition int32, value []byte) (*bareProducer, error) {
	f, err := dialFetcher(ctx, seed, topic)
	if err != nil {
		return nil, err
	}
	p := &bareProducer{fetcher: *f, answer: kmsg.NewPtrProduceResponse()}
	p.answer.Version = produceVersion
	init := kmsg.NewPtrInitProducerIDRequest()
	init.Version, init.TransactionTimeoutMillis = 4, 60_000
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.Version = init.Version
	if err := p.exchange(init, resp); err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		p.conn.Close()
		return nil, fmt.Errorf("producer id: %w", err)
	}
	p.encode(partition, oneRecordBatch(value, resp.ProducerID, resp.ProducerEpoch))
	if err := p.first(ctx); err != nil {
		p.conn.Close()
		return nil, err
	}
	return p, nil
}

// oneRecordBatch encodes a batch of one record without a key. Its sequence and CRC are set for each request.
func oneRecordBatch(value []byte, producerID int64, epoch int16) []byte {
	rec := kmsg.NewRecord()
	rec.Value = value
	b := rec.AppendTo(nil)[1:] // without its length, which is one byte while it is 0
	rec.Length = int32(len(b))
	records := rec.AppendTo(nil)
	batch := kmsg.NewRecordBatch()
	now := time.Now().UnixMilli()
	batch.PartitionLeaderEpoch, batch.Magic, batch.FirstTimestamp, batch.MaxTimestamp = -1, 2, now, now
	batch.ProducerID, batch.ProducerEpoch, batch.NumRecords, batch.Records = producerID, epoch, 1, records
	batch.Length = int32(batchHeaderBytes - batchFrameBytes + len(records))
	return batch.AppendTo(nil)
}

// encode makes the frame that produceUntil sends again and again.
func (p *bareProducer) encode(partition int32, batch []byte) {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = produceVersion, -1, 30_000
	t, tp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	t.Topic, tp.Partition, tp.Records = p.topic, partition, batch
	t.Partitions = append(t.Partitions, tp)
	req.Topics = append(req.Topics, t)
	p.corr++
	p.frame = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, p.corr)
	const tags = 3 // after the records: the partition's, the topic's and the request's
	p.batch = p.frame[len(p.frame)-tags-len(batch) : len(p.frame)-tags]
}

// produceUntil produces one record after the other; it returns the times of those acknowledged after warm, and how many there were in all.
func (p *bareProducer) produceUntil(warm, end time.Time) (times []float64, n int, err error) {
	for {
		one := time.Now()
		if err := p.produce(int32(n + 1)); err != nil {
			return nil, n, err
		}
		now := time.Now()
		if now.After(end) {
			return times, n, nil
		}
		n++
		if now.After(warm) {
			times = append(times, ms(now.Sub(one)))
		}
	}
}

// first produces the record of sequence 0, which a topic that was made just now may refuse for a moment.
func (p *bareProducer) first(ctx context.Context) error {
	for {
		err := p.produce(0)
		if !kerr.IsRetriable(err) || !pause(ctx, 20*time.Millisecond) {
			return err
		}
	}
}

func (p *bareProducer) produce(sequence int32) error {
	binary.BigEndian.PutUint32(p.batch[batchSequenceAt:], uint32(sequence))
	binary.BigEndian.PutUint32(p.batch[batchCRCAt:], crc32.Checksum(p.batch[batchCoveredAt:], crc32.MakeTable(crc32.Castagnoli)))
	body, err := p.roundTrip(p.frame)
	if err != nil {
		return err
	}
	if err := p.answer.UnsafeReadFrom(body[flexibleHeader:]); err != nil {
		return err
	}
	return kerr.ErrorForCode(p.answer.Topics[0].Partitions[0].ErrorCode)
}
