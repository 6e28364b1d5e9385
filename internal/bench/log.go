package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
)

const (
	logTopic       = "bench.log"
	logPartitions  = 16
	logClients     = 64
	logRecordBytes = 1024
	logTxnsWarm    = 200

	txnP50TargetMS   = 2
	produceTargetSec = 13_000
)

// logResult is what one round against one broker found.
type logResult struct {
	txnP50, txnP99   float64 // ms, of transactions of one record
	perSec           float64 // records, of logClients clients
	prodP50, prodP99 float64 // ms
	cpuPerRecord     float64 // µs of the broker's processor time
}

// Log measures one-record transactions one after the other, and clients that each have one record in flight, against outrelay and against kfake.
func Log(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	if o.For <= 0 {
		o.For = 8 * time.Second
	}
	if o.Rows <= 0 {
		o.Rows = 2000
	}
	e, err := open(o)
	if err != nil {
		return nil, err
	}
	defer e.close()
	var ours, fake []logResult
	var disks []Disk
	for round := range e.o.Rounds {
		d, err := measureDisk(e.dir, 1000)
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
		if ours, err = e.logOutrelay(ctx, round, ours); err != nil {
			return nil, err
		}
		if fake, err = e.logKfake(ctx, round, fake); err != nil {
			return nil, err
		}
		e.say("round %d: transactions p50 %.2f ms (kfake %.2f), %d clients %s records/s (kfake %s), fdatasync p50 %.2f ms", round+1,
			ours[round].txnP50, fake[round].txnP50, logClients, num(ours[round].perSec), num(fake[round].perSec), d.P50MS)
	}
	return e.finish(e.logReport(ours, fake, disks), began, "")
}

func (e *env) logOutrelay(ctx context.Context, round int, into []logResult) ([]logResult, error) {
	name := "log-outrelay-" + strconv.Itoa(round+1)
	c, err := e.start(ctx, childOptions{name: name, data: e.path(name), profile: true})
	if err != nil {
		return nil, err
	}
	defer c.kill()
	if err := createTopic(ctx, c.kafka, logTopic, logPartitions); err != nil {
		return nil, err
	}
	r, err := e.logRound(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.tail())
	}
	return append(into, r), c.stop()
}

func (e *env) logKfake(ctx context.Context, round int, into []logResult) ([]logResult, error) {
	c, err := e.startKfake(ctx, "log-kfake-"+strconv.Itoa(round+1), logTopic, logPartitions)
	if err != nil {
		return nil, err
	}
	defer c.kill()
	r, err := e.logRound(ctx, c)
	return append(into, r), err
}

func createTopic(ctx context.Context, seed, topic string, partitions int32) error {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{seed}})
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kafka.EnsureTopic(ctx, cl, topic, partitions, nil)
	return err
}

func (e *env) logRound(ctx context.Context, c *child) (logResult, error) {
	var r logResult
	var err error
	if r.txnP50, r.txnP99, err = e.oneRecordTxns(ctx, c.kafka); err != nil {
		return r, fmt.Errorf("one-record transactions against %s: %w", c.name, err)
	}
	before := c.cpu()
	var n int
	if r.perSec, r.prodP50, r.prodP99, n, err = e.manyClients(ctx, c.kafka); err != nil {
		return r, fmt.Errorf("%d clients against %s: %w", logClients, c.name, err)
	}
	r.cpuPerRecord = float64((c.cpu() - before).Microseconds()) / float64(n)
	return r, nil
}

func logPayload() []byte {
	b := make([]byte, logRecordBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// oneRecordTxns commits transactions of one record, one after the other, with default client settings but for the linger.
func (e *env) oneRecordTxns(ctx context.Context, seed string) (p50, p99 float64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.TransactionalID("bench"), kgo.ProducerLinger(0), kgo.DefaultProduceTopic(logTopic))
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	value := logPayload()
	times := make([]float64, 0, e.o.Rows)
	for i := range logTxnsWarm + e.o.Rows {
		one := time.Now()
		if err := cl.BeginTransaction(); err != nil {
			return 0, 0, err
		}
		rec := &kgo.Record{Key: strconv.AppendInt(nil, int64(i), 10), Value: value}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return 0, 0, err
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return 0, 0, err
		}
		if i >= logTxnsWarm {
			times = append(times, ms(time.Since(one)))
		}
	}
	return quantile(times, 0.5), quantile(times, 0.99), nil
}

// manyClients lets clients of one process each produce one record after the other, acks=all, and counts what was acknowledged.
func (e *env) manyClients(ctx context.Context, seed string) (perSec, p50, p99 float64, total int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clients := make([]*kgo.Client, logClients)
	for i := range clients {
		clients[i], err = kgo.NewClient(kgo.SeedBrokers(seed), kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DefaultProduceTopic(logTopic))
		if err != nil {
			return 0, 0, 0, 0, err
		}
		defer clients[i].Close()
	}
	value := logPayload()
	warm := time.Now().Add(2 * time.Second)
	end := warm.Add(e.o.For)
	var mu sync.Mutex // guards times and errs
	var times []float64
	var errs []error
	var wg sync.WaitGroup
	for i, cl := range clients {
		wg.Go(func() {
			ts, n, err := produceUntil(ctx, cl, i, value, warm, end)
			mu.Lock()
			defer mu.Unlock()
			times, total = append(times, ts...), total+n
			if err != nil {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, 0, 0, 0, err
	}
	return float64(len(times)) / e.o.For.Seconds(), quantile(times, 0.5), quantile(times, 0.99), total, nil
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

func pick(rs []logResult, of func(logResult) float64) []float64 {
	var xs []float64
	for _, r := range rs {
		xs = append(xs, of(r))
	}
	return xs
}

func (e *env) logReport(ours, fake []logResult, disks []Disk) *Report {
	mid := func(rs []logResult, of func(logResult) float64) float64 { return median(pick(rs, of)) }
	txn := func(r logResult) float64 { return r.txnP50 }
	rate := func(r logResult) float64 { return r.perSec }
	r := &Report{Name: "log", Title: "The log alone: one-record transactions, and 64 synchronous producers"}
	r.Figures = []Figure{
		{Name: "one-record transactions, one after the other, p50", Value: mid(ours, txn), Unit: "ms", Target: txnP50TargetMS, AtMost: true,
			Peer: fmt.Sprintf("kfake, in memory: %s ms; Apache Kafka 4.3.1: 23.6 ms", num(mid(fake, txn)))},
		{Name: "64 clients, one record in flight each, fsync before the acknowledgement", Value: mid(ours, rate), Unit: "records/s", Target: produceTargetSec,
			Peer: fmt.Sprintf("kfake, in memory: %s/s (we reach %.2f of it); Apache Kafka 4.3.1 without fsync: 7,200/s, with: 3,000/s",
				num(mid(fake, rate)), median(ratios(pick(ours, rate), pick(fake, rate))))},
	}
	t := Table{Title: "Rounds", Header: []string{"round", "against", "txn p50 ms", "txn p99 ms", "records/s", "produce p50 ms", "produce p99 ms", "broker µs CPU/record"}}
	for i := range ours {
		for _, x := range []struct {
			name string
			r    logResult
		}{{"outrelay", ours[i]}, {"kfake", fake[i]}} {
			t.add(strconv.Itoa(i+1), x.name, num(x.r.txnP50), num(x.r.txnP99), num(x.r.perSec), num(x.r.prodP50), num(x.r.prodP99), num(x.r.cpuPerRecord))
		}
	}
	d := Table{Title: "The disk", Header: []string{"before round", "fdatasync p50 ms", "p99 ms", "a second"},
		Note: "The physical limit: a one-record transaction needs two syncs that cannot overlap, its record's and its end's, so twice the p50 is the floor; producers share a sync (group commit)."}
	for i, x := range disks {
		d.add(strconv.Itoa(i+1), num(x.P50MS), num(x.P99MS), num(x.PerSec))
	}
	r.Tables = []Table{t, d}
	r.Method = []string{
		fmt.Sprintf("outrelay runs as `outrelay run --log-only` in a process of its own, kfake (franz-go's in-memory fake) likewise; the client is franz-go over TCP on the loopback, in the process of the benchmark. By turns, %d rounds, fresh data directory each; the figures are medians.", e.o.Rounds),
		fmt.Sprintf("Transactions: one client, `ProducerLinger(0)`, otherwise defaults; begin, produce one record of 1 KiB, wait for its acknowledgement, commit; %d after %d for warm-up. Producers: %d clients in one process, idempotent (the default), acks=all, linger 0, one record of 1 KiB in flight each, a topic of %d partitions; %s after 2 s of warm-up.",
			e.o.Rows, logTxnsWarm, logClients, logPartitions, e.o.For),
		"Apache Kafka's figures were measured on another day on a machine of the same kind (2 cores); they are no part of this run. kfake keeps everything in memory and never syncs: it is the floor that the client itself sets.",
	}
	return r
}
