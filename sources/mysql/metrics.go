package mysql

import (
	"errors"
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
)

// metrics counts what a source has read since the process started, over all its streams. The names are those of the other sources.
type metrics struct {
	events  prometheus.Counter
	bytes   prometheus.Counter
	txns    prometheus.Counter
	ignored *prometheus.CounterVec

	mu     sync.Mutex
	counts map[string]int64 // what Status reports: "UPDATE shop.outbox" → n
}

func newMetrics(name outrelay.SourceID, r prometheus.Registerer) (*metrics, error) {
	labels := prometheus.Labels{"source": string(name)}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: n, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		events: counter("outrelay_source_events_total", "Outbox rows read from the source."),
		bytes:  counter("outrelay_source_received_bytes_total", "Bytes received on the replication stream."),
		txns:   counter("outrelay_source_transactions_total", "Source transactions with outbox rows."),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outrelay_source_ignored_total",
			Help: "Changes of outbox tables that are no events: UPDATE, DELETE, TRUNCATE.", ConstLabels: labels}, []string{"table", "op"}),
		counts: map[string]int64{},
	}
	if r == nil {
		return m, nil
	}
	var err error
	m.events, err = register(r, m.events, err)
	m.bytes, err = register(r, m.bytes, err)
	m.txns, err = register(r, m.txns, err)
	m.ignored, err = register(r, m.ignored, err)
	return m, err
}

// register registers c, or returns the same metric that an earlier Source of the same name has registered: they count together.
func register[C prometheus.Collector](r prometheus.Registerer, c C, before error) (C, error) {
	if before != nil {
		return c, before
	}
	err := r.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}

// ignore counts n changes that are no events and reports whether they are the first of their kind.
func (m *metrics) ignore(table, op string, n int) (first bool) {
	m.ignored.WithLabelValues(table, op).Add(float64(n))
	m.mu.Lock()
	defer m.mu.Unlock()
	k := op + " " + table
	_, known := m.counts[k]
	m.counts[k] += int64(n)
	return !known
}

func (m *metrics) ignoredCounts() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}
