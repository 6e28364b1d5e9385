package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// logSample is what one run against one broker found.
type logSample struct {
	perSec    float64 // records, or transactions where a case says so
	p50, p99  float64 // ms; 0 where a case has no latency
	n         int     // records that the broker handled, warm-up included
	cpuMicros float64 // of the broker's processor time, a record
}

// warmUp is what a run of that length begins with.
func warmUp(length time.Duration) time.Duration { return min(2*time.Second, length/4) }

func logPayload() []byte {
	b := make([]byte, logRecordBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// producer returns a client with the settings of every case: acks=all, idempotent (the default), no linger, no compression.
func producer(seed, topic string, more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seed), kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DisableClientMetrics()}, more...)...)
}

// flatOut lets one client produce as fast as it goes, and counts what was acknowledged.
func flatOut(ctx context.Context, seed, topic string, length time.Duration) (logSample, error) {
	cl, err := producer(seed, topic, kgo.MaxBufferedRecords(20_000))
	if err != nil {
		return logSample{}, err
	}
	defer cl.Close()
	value := logPayload()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var acked atomic.Int64
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			cancel(err)
			return
		}
		acked.Add(1)
	}
	var from, to int64
	var began, ended time.Time
	timed := make(chan struct{})
	go func() {
		defer close(timed)
		if !pause(ctx, warmUp(length)) {
			return
		}
		from, began = acked.Load(), time.Now()
		if !pause(ctx, length) {
			return
		}
		to, ended = acked.Load(), time.Now()
		cancel(nil)
	}()
	for ctx.Err() == nil {
		cl.Produce(ctx, &kgo.Record{Value: value}, promise)
	}
	<-timed
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return logSample{}, err
	}
	if ended.IsZero() {
		return logSample{}, context.Canceled
	}
	return logSample{perSec: float64(to-from) / ended.Sub(began).Seconds(), n: int(acked.Load())}, nil
}

// pause waits d, or reports false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// paced lets one client produce rate records a second, each at its time whatever became of those before it, and measures from that time to the
// acknowledgement: a broker that falls behind cannot hide it.
func paced(ctx context.Context, seed, topic string, rate int, length time.Duration) (logSample, error) {
	cl, err := producer(seed, topic, kgo.MaxBufferedRecords(20*rate))
	if err != nil {
		return logSample{}, err
	}
	defer cl.Close()
	value := logPayload()
	warm := int(warmUp(length).Seconds() * float64(rate))
	total := warm + int(length.Seconds()*float64(rate))
	times := make([]float64, total)
	var mu sync.Mutex // guards failed
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	due := func(i int) time.Time { return began.Add(time.Duration(i) * time.Second / time.Duration(rate)) }
	for i := 0; i < total; {
		if wait := time.Until(due(i)); wait > 0 && !pause(ctx, wait) {
			return logSample{}, ctx.Err()
		}
		for now := time.Now(); i < total && !due(i).After(now); i++ {
			wg.Add(1)
			at := i
			cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
				defer wg.Done()
				times[at] = ms(time.Since(due(at)))
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if failed != nil {
		return logSample{}, failed
	}
	took := time.Since(due(warm)).Seconds()
	times = times[warm:]
	return logSample{perSec: float64(len(times)) / took, p50: quantile(times, 0.5), p99: quantile(times, 0.99), n: total}, nil
}

// oneRecordTxns commits transactions of one record, one after the other, with default client settings but for the linger, until there are max of them or the
// time is over.
func oneRecordTxns(ctx context.Context, seed, topic string, count int, length time.Duration) (logSample, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.TransactionalID("bench-"+topic), kgo.ProducerLinger(0), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return logSample{}, err
	}
	defer cl.Close()
	value := logPayload()
	times := make([]float64, 0, count)
	began := time.Now()
	warm, n := time.Time{}, 0
	for len(times) < count && (warm.IsZero() || time.Since(warm) < length) {
		one := time.Now()
		if err := cl.BeginTransaction(); err != nil {
			return logSample{}, err
		}
		rec := &kgo.Record{Key: strconv.AppendInt(nil, int64(n), 10), Value: value}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return logSample{}, err
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return logSample{}, err
		}
		n++
		switch {
		case !warm.IsZero():
			times = append(times, ms(time.Since(one)))
		case n >= logTxnsWarm || time.Since(began) > length:
			warm = time.Now()
		}
	}
	took := time.Since(warm).Seconds()
	return logSample{perSec: float64(len(times)) / took, p50: quantile(times, 0.5), p99: quantile(times, 0.99), n: n}, nil
}

// manyClients lets clients of one process each produce one record after the other, acks=all, and counts what was acknowledged.
func manyClients(ctx context.Context, seed, topic string, length time.Duration) (logSample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clients := make([]*kgo.Client, logClients)
	for i := range clients {
		cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DefaultProduceTopic(topic))
		if err != nil {
			return logSample{}, err
		}
		defer cl.Close()
		clients[i] = cl
	}
	value := logPayload()
	warm := time.Now().Add(warmUp(length))
	end := warm.Add(length)
	var mu sync.Mutex // guards times, n and errs
	var times []float64
	var n int
	var errs []error
	var wg sync.WaitGroup
	for i, cl := range clients {
		wg.Go(func() {
			ts, sent, err := produceUntil(ctx, cl, i, value, warm, end)
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

// produceUntil produces one record after the other; it returns the times of those acknowledged after warm, and how many there were in all.
func produceUntil(ctx context.Context, cl *kgo.Client, client int, value []byte, warm, end time.Time) (times []float64, n int, err error) {
	key := strconv.Itoa(client) + "-"
	for {
		one := time.Now()
		rec := &kgo.Record{Key: strconv.AppendInt([]byte(key), int64(n), 10), Value: value}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
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

// fill writes n records in large batches, so that what is fetched later does not depend on how quickly they were acknowledged.
func fill(ctx context.Context, seed, topic string, n int) error {
	cl, err := producer(seed, topic, kgo.ProducerLinger(50*time.Millisecond), kgo.MaxBufferedRecords(50_000), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := logPayload()
	var failed atomic.Pointer[error]
	for range n {
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return fmt.Errorf("fill: %w", *err)
	}
	return nil
}
