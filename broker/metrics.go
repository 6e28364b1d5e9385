package broker

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/replica"
)

// metrics is what the server counts. Names begin with outrelay_broker_.
type metrics struct {
	reg *registrations

	producedBytes, producedRecords  prometheus.Counter
	fetchedBytes, fetchedRecords    prometheus.Counter
	fetchedFileBytes                prometheus.Counter
	acceptErrors, panics, throttled prometheus.Counter
	quotaThrottled                  prometheus.Counter
	refused                         *prometheus.CounterVec
	latency                         *prometheus.HistogramVec
	latencyByKey                    [128]prometheus.Observer // nil for keys that are not served
}

func newMetrics(s *Server) *metrics {
	m := &metrics{reg: &registrations{to: s.opts.Registerer}}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_broker_" + name, Help: help})
		m.reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string, fn func() float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "outrelay_broker_" + name, Help: help}, fn))
	}
	m.producedBytes = counter("produced_bytes_total", "Bytes of record batches that entered the log.")
	m.producedRecords = counter("produced_records_total", "Records that entered the log.")
	m.fetchedBytes = counter("fetched_bytes_total", "Bytes of record batches sent to clients.")
	m.fetchedFileBytes = counter("fetched_file_bytes_total", "Of these, bytes that the kernel sent from files, not through this process's memory.")
	m.fetchedRecords = counter("fetched_records_total", "Records sent to clients, as their batches count them.")
	m.acceptErrors = counter("accept_errors_total", "Connections that the system could not hand over.")
	m.panics = counter("panics_total", "Requests whose handler failed by a bug.")
	m.quotaThrottled = counter("quota_throttled_total", "Answers that said that their client is throttled, since it used more than its quota.")
	m.throttled = counter("produce_throttled_total", "Produce requests that waited for memory before they were read.")
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outrelay_broker_refused_total", Help: "Connections closed by the server, by reason.",
	}, []string{"reason"})
	m.latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "outrelay_broker_request_seconds", Help: "From a request being read to its answer being sent, by API.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
	}, []string{"api"})
	m.reg.MustRegister(m.refused)
	m.reg.MustRegister(m.latency)
	gauge("connections", "Open client connections.", func() float64 { return float64(s.conns.count()) })
	gauge("partitions", "Partitions open on this node.", func() float64 { return float64(s.partitionCount()) })
	gauge("fetch_sessions", "Fetch sessions held for clients.", func() float64 { return float64(s.sessions.count()) })
	gauge("answer_bytes", "Bytes of records in answers that are being sent.", func() float64 { return float64(s.fetchHeld.Load()) })
	gauge("disk_full", "1: producers are refused, since the disk has less free than the reserve.", func() float64 {
		if s.DiskFull() != "" {
			return 1
		}
		return 0
	})
	m.reg.MustRegister(&topicCollector{s: s})
	gauge("oldest_open_transaction_seconds", "Age of the oldest open transaction: how long readers have waited behind it.", func() float64 {
		if t, ok := s.OldestOpenTransaction(); ok {
			return t.Age.Seconds()
		}
		return 0
	})
	return m
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
		if t, age, open := p.oldestTxn(now); open && (!ok || age > oldest.Age) {
			oldest = OpenTransaction{Topic: p.topic, Partition: p.index, ProducerID: t.ProducerID, FirstOffset: t.FirstOffset, Age: age}
			ok = true
		}
	})
	return oldest, ok
}

func (s *Server) partitionCount() (n int) {
	s.eachPartition(func(*partition) { n++ })
	return n
}

// topicCollector reports each topic's size, and the partitions whose readers have waited behind an open transaction for a while.
type topicCollector struct{ s *Server }

// openTransactionShown is the age from which an open transaction is reported: shorter ones are ordinary, and would be noise.
const openTransactionShown = time.Second

func topicDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("outrelay_broker_"+name, help, labels, nil)
}

func (c *topicCollector) descs() (size, open, damaged *prometheus.Desc) {
	return topicDesc("log_bytes", "Bytes of a topic's partitions on this node.", "topic"),
		topicDesc("open_transaction_seconds", "Age of the oldest open transaction of a partition: how long its readers wait behind it. From 1 s on.", "topic", "partition"),
		topicDesc("partition_damaged", "1: the partition's files are not what was written, and it is not served. place says what is wrong where.", "topic", "partition", "place")
}

// Describe implements prometheus.Collector.
func (c *topicCollector) Describe(ch chan<- *prometheus.Desc) {
	size, open, damaged := c.descs()
	ch <- size
	ch <- open
	ch <- damaged
}

// Collect implements prometheus.Collector.
func (c *topicCollector) Collect(ch chan<- prometheus.Metric) {
	size, open, damaged := c.descs()
	for _, d := range c.s.Damaged() {
		ch <- prometheus.MustNewConstMetric(damaged, prometheus.GaugeValue, 1, d.Topic, strconv.Itoa(int(d.Partition)), d.Damage)
	}
	now := c.s.clock.Now()
	for name, t := range c.s.topics.set().byName {
		var bytes int64
		for _, p := range t.partitions {
			if p == nil {
				continue
			}
			bytes += p.Size()
			if _, age, ok := p.oldestTxn(now); ok && age >= openTransactionShown {
				ch <- prometheus.MustNewConstMetric(open, prometheus.GaugeValue, age.Seconds(), name, strconv.Itoa(int(p.index)))
			}
		}
		ch <- prometheus.MustNewConstMetric(size, prometheus.GaugeValue, float64(bytes), name)
	}
}

// oldestTxn returns the transaction that has been open for longest in a partition, and its age.
func (p *partition) oldestTxn(now time.Time) (oldest replica.OpenTxn, age time.Duration, ok bool) {
	for _, t := range p.OpenTxns() {
		if a := now.Sub(time.UnixMilli(t.Since)); !ok || a > age {
			oldest, age, ok = t, a, true
		}
	}
	return oldest, age, ok
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

// registrations passes collectors on and takes them back when the server closes, so that one process can open a server again. A collector
// whose name is taken, by another server of the process, is left out.
type registrations struct {
	to         prometheus.Registerer
	mu         sync.Mutex // guards collectors
	collectors []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *registrations) Register(c prometheus.Collector) error {
	if err := r.to.Register(c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collectors = append(r.collectors, c)
	return nil
}

// MustRegister implements prometheus.Registerer. It does not panic.
func (r *registrations) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = r.Register(c)
	}
}

// Unregister implements prometheus.Registerer.
func (r *registrations) Unregister(c prometheus.Collector) bool { return r.to.Unregister(c) }

// close takes back everything.
func (r *registrations) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.collectors {
		r.to.Unregister(c)
	}
	r.collectors = nil
}
