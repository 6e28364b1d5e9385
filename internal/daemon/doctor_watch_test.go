package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/doctor"
)

// TestHealthWatch: what is found is in the metric as long as it holds, and in the log once for as long.
func TestHealthWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rounds := [][]doctor.Finding{
			{{ID: "P3", Place: "source shop", Severity: doctor.Error, Text: "wal_level is replica", Fix: "alter system"}, {ID: "P2", Place: "source shop", Severity: doctor.OK}},
			{{ID: "P3", Place: "source shop", Severity: doctor.Error, Text: "wal_level is minimal"}, {ID: "B3", Place: "log", Severity: doctor.Warning, Text: "5 MB are free"}},
			{{ID: "B3", Place: "log", Severity: doctor.Warning, Text: "4 MB are free"}},
			{{ID: "P3", Place: "source shop", Severity: doctor.Error, Text: "wal_level is replica"}},
		}
		var log bytes.Buffer
		looked := make(chan time.Time)
		began, n := time.Now(), 0
		w := newHealthWatch(func(context.Context) []doctor.Finding {
			looked <- time.Now()
			n++
			return rounds[n-1]
		}, clock.Real{}, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan struct{})
		go func() { defer close(done); w.run(ctx) }()
		for i, want := range []struct {
			after         time.Duration
			metric, added string
		}{
			{doctorAfter, "P3/source shop/error", "wal_level is replica"},
			{doctorAfter + doctorEvery, "B3/log/warning P3/source shop/error", "5 MB are free"},
			{doctorAfter + 2*doctorEvery, "B3/log/warning", ""},
			{doctorAfter + 3*doctorEvery, "P3/source shop/error", "wal_level is replica"},
		} {
			if at := <-looked; at.Sub(began) != want.after {
				t.Errorf("round %d after %v, want %v", i, at.Sub(began), want.after)
			}
			synctest.Wait()
			if got := found(t, w.findings); got != want.metric {
				t.Errorf("round %d: the metric has %q, want %q", i, got, want.metric)
			}
			if lines := strings.Count(log.String(), "doctor: "); want.added == "" && lines != 0 || want.added != "" && (lines != 1 || !strings.Contains(log.String(), want.added)) {
				t.Errorf("round %d: logged %q, want one line of %q", i, log.String(), want.added)
			}
			log.Reset()
		}
		stop()
		<-done
	})
}

// found returns the labels of a gauge, in order.
func found(t *testing.T, g *prometheus.GaugeVec) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(g)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out = append(out, labels(m))
		}
	}
	return strings.Join(out, " ")
}

func labels(m *dto.Metric) string {
	var v []string
	for _, l := range m.GetLabel() {
		v = append(v, l.GetValue())
	}
	return strings.Join(v, "/")
}
