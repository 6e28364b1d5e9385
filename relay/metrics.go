package relay

import (
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
	Lag         *prometheus.GaugeVec
	OpenTxnAge  *prometheus.GaugeVec
	Ignored     *prometheus.GaugeVec
	CommitTime  *prometheus.HistogramVec
}

// NewMetrics makes the metrics and registers them with reg; nil registers nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	c := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outrelay_relay_" + name, Help: help}, []string{"source"})
	}
	g := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "outrelay_relay_" + name, Help: help}, []string{"source"})
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
		Lag:         g("lag_seconds", "Now minus the source's commit time of the oldest transaction not yet in the log; 0 when there is none."),
		OpenTxnAge:  g("open_txn_seconds", "Age of the Kafka transaction under way; readers wait behind it."),
		Ignored:     g("ignored_rows", "Rows of the outbox tables that are no events (UPDATE, DELETE, TRUNCATE)."),
		CommitTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "outrelay_relay_commit_seconds",
			Help: "From begin to commit of a Kafka transaction.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"source"}),
	}
	if reg != nil {
		reg.MustRegister(m.Events, m.Txns, m.Bytes, m.Reconnects, m.Halts, m.Fenced, m.DeadLetters, m.Split, m.Lag, m.OpenTxnAge, m.Ignored, m.CommitTime)
	}
	return m
}
