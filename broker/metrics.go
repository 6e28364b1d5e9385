package broker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// metrics is what the server counts. Names begin with outrelay_broker_.
type metrics struct {
	reg        prometheus.Registerer
	collectors []prometheus.Collector

	producedBytes, producedRecords, fetchedBytes prometheus.Counter
	acceptErrors, panics, throttled              prometheus.Counter
	refused                                      *prometheus.CounterVec
	latency                                      *prometheus.HistogramVec
	latencyByKey                                 [128]prometheus.Observer // nil for keys that are not served
}

func newMetrics(s *Server) *metrics {
	m := &metrics{reg: s.opts.Registerer}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_broker_" + name, Help: help})
		m.register(c)
		return c
	}
	gauge := func(name, help string, fn func() float64) {
		m.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "outrelay_broker_" + name, Help: help}, fn))
	}
	m.producedBytes = counter("produced_bytes_total", "Bytes of record batches that entered the log.")
	m.producedRecords = counter("produced_records_total", "Records that entered the log.")
	m.fetchedBytes = counter("fetched_bytes_total", "Bytes of record batches sent to clients.")
	m.acceptErrors = counter("accept_errors_total", "Connections that the system could not hand over.")
	m.panics = counter("panics_total", "Requests whose handler failed by a bug.")
	m.throttled = counter("produce_throttled_total", "Produce requests that waited for memory before they were read.")
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outrelay_broker_refused_total", Help: "Connections closed by the server, by reason.",
	}, []string{"reason"})
	m.latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "outrelay_broker_request_seconds", Help: "From a request being read to its answer being sent, by API.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
	}, []string{"api"})
	m.register(m.refused)
	m.register(m.latency)
	gauge("connections", "Open client connections.", func() float64 { return float64(s.conns.count()) })
	gauge("partitions", "Partitions open on this node.", func() float64 { return float64(s.partitionCount()) })
	gauge("log_bytes", "Bytes of all partitions on this node.", func() float64 { return float64(s.logBytes()) })
	gauge("oldest_open_transaction_seconds", "Age of the oldest open transaction: how long readers have waited behind it.", func() float64 {
		if t, ok := s.OldestOpenTransaction(); ok {
			return t.Age.Seconds()
		}
		return 0
	})
	return m
}

// register keeps a collector that two servers of one process share under one name to the first of them.
func (m *metrics) register(c prometheus.Collector) {
	if m.reg.Register(c) == nil {
		m.collectors = append(m.collectors, c)
	}
}

func (m *metrics) unregister() {
	for _, c := range m.collectors {
		m.reg.Unregister(c)
	}
}

// serve makes the histograms of the APIs that are served, so that a request finds its own without a lookup.
func (m *metrics) serve(apis map[int16]*api) {
	for key := range apis {
		if key >= 0 && int(key) < len(m.latencyByKey) {
			m.latencyByKey[key] = m.latency.WithLabelValues(kmsg.NameForKey(key))
		}
	}
}

func (m *metrics) observe(key int16, d time.Duration) {
	if int(key) < len(m.latencyByKey) && m.latencyByKey[key] != nil {
		m.latencyByKey[key].Observe(d.Seconds())
	}
}

// OpenTransaction is a transaction that holds a partition's last stable offset: read_committed readers wait behind it.
type OpenTransaction struct {
	Topic       string
	Partition   int32
	ProducerID  int64
	FirstOffset int64
	Age         time.Duration
}

// OldestOpenTransaction returns the transaction that has been open for longest on this node; ok is false when there is none.
func (s *Server) OldestOpenTransaction() (oldest OpenTransaction, ok bool) {
	now := s.clock.Now()
	s.eachPartition(func(p *partition) {
		for _, t := range p.OpenTxns() {
			age := now.Sub(time.UnixMilli(t.Since))
			if !ok || age > oldest.Age {
				oldest = OpenTransaction{Topic: p.topic, Partition: p.index, ProducerID: t.ProducerID, FirstOffset: t.FirstOffset, Age: age}
				ok = true
			}
		}
	})
	return oldest, ok
}

func (s *Server) partitionCount() (n int) {
	s.eachPartition(func(*partition) { n++ })
	return n
}

func (s *Server) logBytes() (n int64) {
	s.eachPartition(func(p *partition) { n += p.Size() })
	return n
}

func (s *Server) eachPartition(fn func(*partition)) {
	for _, t := range s.topics.set().byName {
		for _, p := range t.partitions {
			if p != nil {
				fn(p)
			}
		}
	}
}
