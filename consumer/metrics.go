package consumer

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// metrics are one group's. All carry the label group.
type metrics struct {
	records  prometheus.Counter
	batches  prometheus.Counter
	together prometheus.Histogram
	parted   prometheus.Counter
	failures *prometheus.CounterVec
	apply    prometheus.Histogram
	latency  prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		records: prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_consumer_records_applied_total", Help: "Records whose effects were committed in the sink."}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_consumer_batches_applied_total", Help: "Batches committed in the sink: runs of records of one partition, or moves of its offset alone."}),
		together: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outrelay_consumer_transaction_batches", Help: "Batches, each of one partition, in a transaction committed in the sink.", Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		parted:   prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_consumer_transactions_parted_total", Help: "Transactions of several batches that failed, so that each batch was applied alone."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outrelay_consumer_failures_total", Help: "Batches that were not applied, by class: fenced, ambiguous, conflict, record, transient, halt."}, []string{"class"}),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outrelay_consumer_apply_seconds", Help: "Time of one transaction in the sink.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outrelay_consumer_latency_seconds", Help: "Time from the commit at the source (else from publishing) to the commit in the sink, of each batch's oldest record.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 18),
		}),
	}
}

// transaction notes one that was committed.
func (m *metrics) transaction(batches int, took time.Duration) {
	m.together.Observe(float64(batches))
	m.apply.Observe(took.Seconds())
}

func (m *metrics) applied(b sinks.Batch, now time.Time) {
	m.batches.Inc()
	m.records.Add(float64(len(b.Records)))
	if len(b.Records) > 0 {
		m.latency.Observe(max(0, now.Sub(committedAt(&b.Records[0])).Seconds()))
	}
}

func (m *metrics) failed(err error) { m.failures.WithLabelValues(class(err)).Inc() }

func class(err error) string {
	for _, c := range []struct {
		err  error
		name string
	}{
		{sinks.ErrAmbiguous, "ambiguous"}, {outrelay.ErrFenced, "fenced"}, {sinks.ErrConflict, "conflict"},
		{outrelay.ErrRecord, "record"}, {outrelay.ErrDataHalt, "halt"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "transient"
}

// statusCollector makes gauges of what Status says, when they are asked for.
type statusCollector struct{ g *Group }

var partitionLabels = []string{"topic", "partition"}

var (
	descNext    = prometheus.NewDesc("outrelay_consumer_next_offset", "First offset that the sink has not applied.", partitionLabels, nil)
	descLag     = prometheus.NewDesc("outrelay_consumer_lag_records", "Committed records not yet applied; what was not fetched yet is counted in offsets.", partitionLabels, nil)
	descLagTime = prometheus.NewDesc("outrelay_consumer_lag_seconds", "Age of the oldest record not yet applied.", partitionLabels, nil)
	descState   = prometheus.NewDesc("outrelay_consumer_state", "1 for the state that the partition is in.", append(partitionLabels, "state"), nil)
)

func (c statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descNext, descLag, descLagTime, descState} {
		ch <- d
	}
}

func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.g.Status() {
		labels := []string{p.Topic, itoa(p.Partition)}
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		}
		gauge(descNext, float64(p.NextOffset), labels...)
		gauge(descLag, float64(p.LagRecords), labels...)
		gauge(descLagTime, p.LagSeconds, labels...)
		gauge(descState, 1, append(labels, string(p.State))...)
	}
}

// register registers the group's metrics; a registerer that has them already (a group that was made again) is an error.
func (m *metrics) register(g *Group, r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	r = prometheus.WrapRegistererWith(prometheus.Labels{"group": g.o.Name}, r)
	for _, c := range []prometheus.Collector{m.records, m.batches, m.together, m.parted, m.failures, m.apply, m.latency, statusCollector{g}} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
