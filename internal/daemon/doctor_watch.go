package daemon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/kafka"
)

// The checks are made once the parts have had time to connect, and every hour from then on.
const (
	doctorAfter = 10 * time.Second
	doctorEvery = time.Hour
)

// watchHealth makes the checks of `outrelay doctor` until ctx ends: what is new is logged, and counted in a metric.
func (d *Daemon) watchHealth(ctx context.Context, ko kafka.Options) error {
	findings := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "outrelay_doctor_findings",
		Help: "1 for each warning and error that the last checks have found: docs/operations/doctor.md says what the ids mean."}, []string{"id", "place", "severity"})
	if err := d.registry.Register(findings); err != nil {
		return err
	}
	said := map[doctor.Finding]bool{}
	for wait := doctorAfter; ; wait = doctorEvery {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		findings.Reset()
		now := map[doctor.Finding]bool{}
		for _, f := range d.Doctor(ctx, ko) {
			if f.Severity != doctor.Warning && f.Severity != doctor.Error {
				continue
			}
			findings.WithLabelValues(f.ID, f.Place, string(f.Severity)).Set(1)
			known := doctor.Finding{ID: f.ID, Place: f.Place, Severity: f.Severity} // the text has numbers in it that change
			now[known] = true
			if !said[known] && ctx.Err() == nil {
				d.log.Warn("doctor: "+f.Text, "check", f.ID, "place", f.Place, "severity", f.Severity, "fix", f.Fix)
			}
		}
		said = now
	}
}
