package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/kafka"
)

// The checks are made once the parts have had time to connect, and every hour from then on.
const (
	doctorAfter = 10 * time.Second
	doctorEvery = time.Hour
)

// healthWatch makes the checks of `outrelay doctor` again and again: what is new is logged, and counted in a metric.
type healthWatch struct {
	examine  func(context.Context) []doctor.Finding
	clock    clock.Clock
	log      *slog.Logger
	findings *prometheus.GaugeVec
}

func newHealthWatch(examine func(context.Context) []doctor.Finding, c clock.Clock, log *slog.Logger) *healthWatch {
	return &healthWatch{examine: examine, clock: c, log: log, findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "outrelay_doctor_findings",
		Help: "1 for each warning and error that the last checks have found: docs/operations/doctor.md says what the ids mean."}, []string{"id", "place", "severity"})}
}

// watchHealth runs until ctx ends.
func (d *Daemon) watchHealth(ctx context.Context, ko kafka.Options) error {
	w := newHealthWatch(func(ctx context.Context) []doctor.Finding { return d.Doctor(ctx, ko) }, clock.Real{}, d.log)
	if err := d.registry.Register(w.findings); err != nil {
		return err
	}
	w.run(ctx)
	return nil
}

func (w *healthWatch) run(ctx context.Context) {
	said := map[doctor.Finding]bool{}
	for wait := doctorAfter; backoff.Sleep(ctx, w.clock, wait) == nil; wait = doctorEvery {
		said = w.look(ctx, said)
	}
}

// look makes the checks once. said are the findings that were logged; it returns those that still hold.
func (w *healthWatch) look(ctx context.Context, said map[doctor.Finding]bool) map[doctor.Finding]bool {
	fs := w.examine(ctx)
	if ctx.Err() != nil {
		return said // what was cut off says nothing
	}
	w.findings.Reset()
	now := map[doctor.Finding]bool{}
	for _, f := range fs {
		if f.Severity != doctor.Warning && f.Severity != doctor.Error {
			continue
		}
		w.findings.WithLabelValues(f.ID, f.Place, string(f.Severity)).Set(1)
		known := doctor.Finding{ID: f.ID, Place: f.Place, Severity: f.Severity} // the text has numbers in it that change
		if now[known] = true; !said[known] {
			w.log.Warn("doctor: "+f.Text, "check", f.ID, "place", f.Place, "severity", f.Severity, "fix", f.Fix)
		}
	}
	return now
}
