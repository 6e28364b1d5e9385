// Package meter counts what a source reads, under the same names whatever the database is. It reads nothing itself, and never looks into a position.
package meter

import (
	"errors"
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
)

// Meter counts what a source has read since the process started, over all its streams. Its methods may be called concurrently.
type Meter struct {
	Events prometheus.Counter
	Bytes  prometheus.Counter
	Txns   prometheus.Counter

	ignored *prometheus.CounterVec

	mu     sync.Mutex
	counts map[string]int64 // what Ignored reports: "UPDATE public.outbox" → n
}

// New returns the meter of a source. With r nil nothing is registered; an earlier meter of the same source and registerer counts together with it.
func New(source outrelay.SourceID, r prometheus.Registerer) (*Meter, error) {
	labels := prometheus.Labels{"source": string(source)}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: n, Help: help, ConstLabels: labels})
	}
	m := &Meter{
		Events: counter("outrelay_source_events_total", "Outbox rows read from the source."),
		Bytes:  counter("outrelay_source_received_bytes_total", "Bytes received on the replication stream."),
		Txns:   counter("outrelay_source_transactions_total", "Source transactions with outbox rows."),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outrelay_source_ignored_total",
			Help: "Changes of outbox tables that are no events: UPDATE, DELETE, TRUNCATE.", ConstLabels: labels}, []string{"table", "op"}),
		counts: map[string]int64{},
	}
	if r == nil {
		return m, nil
	}
	var err error
	m.Events, err = register(r, m.Events, err)
	m.Bytes, err = register(r, m.Bytes, err)
	m.Txns, err = register(r, m.Txns, err)
	m.ignored, err = register(r, m.ignored, err)
	return m, err
}

// register registers c, or returns the same metric that was registered before.
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

// Ignore counts n changes that are no events and reports whether they are the first of their kind.
func (m *Meter) Ignore(table, op string, n int) (first bool) {
	m.ignored.WithLabelValues(table, op).Add(float64(n))
	m.mu.Lock()
	defer m.mu.Unlock()
	k := op + " " + table
	_, known := m.counts[k]
	m.counts[k] += int64(n)
	return !known
}

// Ignored returns what was counted by Ignore: "UPDATE public.outbox" → n.
func (m *Meter) Ignored() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}
