package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
)

func deleteBenchTopic(ctx context.Context, seed, topic string) error {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{seed}})
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).DeleteTopic(ctx, topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	return err
}

// values picks one number of each round.
func (l *logRun) values(c, side string, of func(logSample) float64) []float64 {
	var xs []float64
	for _, s := range l.found[c][side] {
		xs = append(xs, of(s))
	}
	return xs
}

func perSec(s logSample) float64 { return s.perSec }
func p50(s logSample) float64    { return s.p50 }
func p99(s logSample) float64    { return s.p99 }

// ratio is the median over the rounds of one side by another.
func (l *logRun) ratio(c, a, b string, of func(logSample) float64) (float64, bool) {
	rs := ratios(l.values(c, a, of), l.values(c, b, of))
	return median(rs), len(rs) > 0
}

func (l *logRun) report() *Report {
	r := &Report{Name: "log", Title: "The log alone, beside Apache Kafka " + testenv.KafkaVersion + " and kfake"}
	l.figures(r)
	medians := Table{Title: "Medians", Header: []string{"case", "broker", "rate", "p50 ms", "p99 ms", "broker µs CPU/record", "outrelay ÷ it"},
		Note: "\"Apache Kafka, again\" is the control: the same broker measured once more in each round. How far \"outrelay ÷ it\" of both differ is how far a ratio of this run is to be trusted."}
	rounds := Table{Title: "Rounds", Header: []string{"case", "round", "broker", "rate", "p50 ms", "p99 ms", "broker µs CPU/record"}}
	for _, c := range l.cases {
		for _, side := range c.sides {
			found := l.found[c.name][side]
			if len(found) == 0 {
				continue
			}
			cpu := func(s logSample) float64 { return s.cpuMicros }
			quot := "-"
			if x, ok := l.ratio(c.name, sideOurs, side, perSec); ok && side != sideOurs {
				quot = fmt.Sprintf("%.2f", x)
				if c.name == "paced" {
					x, _ = l.ratio(c.name, sideOurs, side, p99)
					quot = fmt.Sprintf("p99 %.2f", x)
				}
			}
			medians.add(c.title, side, num(median(l.values(c.name, side, perSec)))+" "+c.unit, num(median(l.values(c.name, side, p50))), num(median(l.values(c.name, side, p99))),
				num(median(l.values(c.name, side, cpu))), quot)
			for i, s := range found {
				rounds.add(c.name, strconv.Itoa(i+1), side, num(s.perSec), num(s.p50), num(s.p99), num(s.cpuMicros))
			}
		}
	}
	disk := Table{Title: "The disk", Header: []string{"before round", "fdatasync p50 ms", "p99 ms", "a second"},
		Note: "The physical limit: a one-record transaction needs two syncs that cannot overlap, its record's and its end's, so twice the p50 is the floor; producers share a sync (group commit)."}
	for i, x := range l.disks {
		disk.add(strconv.Itoa(i+1), num(x.P50MS), num(x.P99MS), num(x.PerSec))
	}
	r.Tables = []Table{medians, rounds, disk}
	r.Method = l.method()
	return r
}

// figures compares what was measured with the targets.
func (l *logRun) figures(r *Report) {
	add := func(f Figure, ok bool) {
		if ok {
			r.Figures = append(r.Figures, f)
		}
	}
	quotient := func(c, name, beside string, target float64) {
		x, ok := l.ratio(c, sideOurs, beside, perSec)
		add(Figure{Name: name, Value: x, Unit: "×", Target: target,
			Peer: fmt.Sprintf("%s: %s; outrelay: %s", beside, num(median(l.values(c, beside, perSec))), num(median(l.values(c, sideOurs, perSec))))}, ok)
	}
	quotient("produce", "produce, 16 partitions, beside Apache Kafka with fsync", sideKafkaSync, 1.5)
	quotient("produce", "produce, 16 partitions, beside Apache Kafka without fsync", sideKafka, 0.8)
	wide, narrow := l.values("produce-256", sideOurs, perSec), l.values("produce", sideOurs, perSec)
	add(Figure{Name: "produce, 256 partitions beside 16, ours", Value: median(wide) / max(median(narrow), 1), Unit: "×", Target: 0.6}, len(wide) > 0 && len(narrow) > 0)
	latencies := l.values("paced", sideOurs, p99)
	add(Figure{Name: "10,000 records/s, p99", Value: median(latencies), Unit: "ms", Target: 5, AtMost: true,
		Peer: fmt.Sprintf("Apache Kafka: %s ms without fsync, %s with", num(median(l.values("paced", sideKafka, p99))), num(median(l.values("paced", sideKafkaSync, p99))))}, len(latencies) > 0)
	quotient("clients", "64 clients, one record in flight each, beside Apache Kafka without fsync", sideKafka, 2)
	clients := l.values("clients", sideOurs, perSec)
	add(Figure{Name: "64 clients, one record in flight each, fsync before the acknowledgement", Value: median(clients), Unit: "records/s", Target: produceTargetSec,
		Peer: fmt.Sprintf("kfake, in memory, the client's own ceiling: %s/s", num(median(l.values("clients", sideKfake, perSec))))}, len(clients) > 0)
	txns := l.values("txn", sideOurs, p50)
	add(Figure{Name: "one-record transactions, one after the other, p50", Value: median(txns), Unit: "ms", Target: txnP50TargetMS, AtMost: true,
		Peer: fmt.Sprintf("kfake, in memory: %s ms", num(median(l.values("txn", sideKfake, p50))))}, len(txns) > 0)
	quotient("txn", "one-record transactions beside Apache Kafka", sideKafka, 10)
	quotient("fetch", "fetch from the page cache beside Apache Kafka", sideKafka, 1)
}

func (l *logRun) method() []string {
	m := []string{
		fmt.Sprintf("outrelay runs as `outrelay run --log-only` in a process of its own and syncs before each acknowledgement; Apache Kafka %s runs as one node (broker and controller in one process, heap 1 GiB, otherwise its defaults; transaction version 2) and acknowledges from the page cache, but for topics with `flush.messages=1`, which is its way to sync first; kfake (franz-go's in-memory fake) runs in a process of its own. All run during the whole benchmark, one at a time is measured, each round begins with another. "+
			"%d rounds of %s after up to 2 s of warm-up; before each run everything written is synced to the disk and the topic is new; figures are medians, ratios medians of the rounds' ratios.", testenv.KafkaVersion, l.e.o.Rounds, l.e.o.For),
		"The client is franz-go over TCP on the loopback, in the process of the benchmark, the same for all: records of 1 KiB that cannot be compressed, no compression, acks=all, idempotent, `ProducerLinger(0)`, null keys unless said otherwise. As fast as it goes: one client, 20,000 records buffered at most. " +
			fmt.Sprintf("10,000 records/s: each record is due at its time whatever became of those before it, and its latency counts from then. %d clients: in one process, one keyed record in flight each; bare: the same by connections that send an encoded request and look only at the answer's error, so that the client's own cost does not hide the brokers'. ", logClients) +
			fmt.Sprintf("Transactions: begin, produce one record, wait for its acknowledgement, commit; at most %d after %d for warm-up. Fetch: %s records written in large batches, read again and again over %d connections whose client looks only at batch headers.",
				l.e.o.Rows, logTxnsWarm, num(logFillRecords), fetchConns),
	}
	if l.missing != "" {
		m = append(m, "This run had no Apache Kafka: "+l.missing)
	}
	return m
}
