package relay

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of all relays of a process.
type Metrics struct {
	Events      *prometheus.CounterVec
	Txns        *prometheus.CounterVec
	Bytes       *prometheus.CounterVec
	Reconnects  *prometheus.CounterVec
	Halts       *prometheus.CounterVec
	Fenced      *prometheus.CounterVec
	DeadLetters *prometheus.CounterVec
	Split       *prometheus.CounterVec
	Completed   *prometheus.CounterVec
	Ignored     *prometheus.GaugeVec
	CommitTime  *prometheus.HistogramVec

	lag, openTxn, running *prometheus.Desc

	mu     sync.Mutex
	relays []*Relay
}

// NewMetrics makes the metrics and registers them with reg; nil registers nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	c := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outrelay_relay_" + name, Help: help}, []string{"source"})
	}
	m := &Metrics{
		Events:      c("events_total", "Events committed to the log."),
		Txns:        c("txns_total", "Kafka transactions committed."),
		Bytes:       c("bytes_total", "Bytes of records (key, value, headers) committed."),
		Reconnects:  c("reconnects_total", "Times the relay began again from the position in the log after an error."),
		Halts:       c("halts_total", "Times a source stopped because a person must decide."),
		Fenced:      c("fenced_total", "Times another relay of the same source took over."),
		DeadLetters: c("dead_letters_total", "Rows that could not be routed and went to the source's dead letter topic."),
		Split:       c("split_txns_total", "Source transactions too large for one Kafka transaction: their rows became visible in parts."),
		Completed:   c("completed_txns_total", "Transactions whose end an external log had decided and not written everywhere after a crash of its own; it was written for it."),
		Ignored: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "outrelay_relay_ignored_rows",
			Help: "Changes of the outbox tables that are no events (UPDATE, TRUNCATE), as the source counts them."}, []string{"source", "kind"}),
		CommitTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "outrelay_relay_commit_seconds",
			Help: "From begin to commit of a Kafka transaction.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"source"}),
	}
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("outrelay_"+name, help, []string{"source"}, nil)
	}
	m.lag = d("relay_lag_seconds", "Now minus the source's commit time of the oldest transaction read and not yet in the log; 0 when there is none.")
	m.openTxn = d("relay_open_txn_seconds", "Age of the Kafka transaction under way; readers of the partitions it touched wait behind it.")
	m.running = d("relay_running", "1 while the source is relayed by this process, 0 while it waits, is fenced or has halted.")
	if reg != nil {
		reg.MustRegister(m.Events, m.Txns, m.Bytes, m.Reconnects, m.Halts, m.Fenced, m.DeadLetters, m.Split, m.Completed, m.Ignored, m.CommitTime,
			prometheus.CollectorFunc(m.collect))
	}
	return m
}

// watch adds r to the relays whose age of things is measured when somebody asks.
func (m *Metrics) watch(r *Relay) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relays = append(m.relays, r)
}

// collect sends what only the moment of asking can tell.
func (m *Metrics) collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	relays := slices.Clone(m.relays)
	m.mu.Unlock()
	for _, r := range relays {
		st := r.Status()
		if st.State == StateUnassigned {
			continue // its process says it
		}
		open := 0.0
		if st.OpenTxn != nil {
			open = r.o.Clock.Now().Sub(st.OpenTxn.Since).Seconds()
		}
		up := 0.0
		if st.State == StateRunning {
			up = 1
		}
		src := string(st.Source)
		ch <- prometheus.MustNewConstMetric(m.lag, prometheus.GaugeValue, st.LagSeconds, src)
		ch <- prometheus.MustNewConstMetric(m.openTxn, prometheus.GaugeValue, open, src)
		ch <- prometheus.MustNewConstMetric(m.running, prometheus.GaugeValue, up, src)
	}
}
