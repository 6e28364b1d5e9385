package consumer_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/sinks"
)

// BenchmarkGroup_drain applies a backlog of small rows from 4 partitions.
func BenchmarkGroup_drain(b *testing.B) {
	var took time.Duration
	rows := 0
	for b.Loop() {
		b.StopTimer()
		e := newEnv(b, 4)
		tx := e.txnClient()
		for range 100 {
			e.produce(tx, 4, 400, true)
		}
		o := e.options()
		o.Logger = slog.New(slog.DiscardHandler)
		b.StartTimer()
		from := time.Now()
		g, stop := e.start(o)
		e.eventually("drained", func() bool {
			s := g.Status()
			return len(s) == 4 && !slices.ContainsFunc(s, func(p consumer.PartitionStatus) bool {
				return p.State != consumer.StateRunning || p.NextOffset < 10_000
			})
		})
		took += time.Since(from)
		rows += e.sent
		b.StopTimer()
		stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
}

// BenchmarkGroup_latency is the time from a record's acknowledgement by the log (in memory) to its effect being visible in the sink.
func BenchmarkGroup_latency(b *testing.B) {
	e := newEnv(b, 1)
	e.pg.Exec(b, e.db, "create function tell() returns trigger language plpgsql as $$ begin notify seen; return null; end $$; create trigger tell after insert on effects execute function tell()")
	listen := e.pg.Connect(b, e.db)
	if _, err := listen.Exec(b.Context(), "listen seen"); err != nil {
		b.Fatal(err)
	}
	o := e.options()
	o.Logger = slog.New(slog.DiscardHandler)
	g, _ := e.start(o)
	e.put(0, "first")
	e.drained(g)
	if _, err := listen.WaitForNotification(b.Context()); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	cl := e.client(kgo.ProducerLinger(0))
	for b.Loop() {
		r := &kgo.Record{Topic: "t", Value: []byte(`{"body": "x"}`), Headers: []kgo.RecordHeader{{Key: sinks.HeaderID, Value: []byte(fmt.Sprint(len(took)))}}}
		if err := cl.ProduceSync(b.Context(), r).FirstErr(); err != nil {
			b.Fatal(err)
		}
		from := time.Now()
		if _, err := listen.WaitForNotification(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(from))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
