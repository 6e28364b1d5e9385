package meter_test

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/meter"
)

// Two meters of one source count together; another source counts by itself.
func TestNew_sharesARegisterer(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	for _, source := range []outrelay.SourceID{"shop", "shop", "billing"} {
		m, err := meter.New(source, r)
		if err != nil {
			t.Fatal(err)
		}
		m.Events.Add(2)
		m.Ignore("public.outbox", "UPDATE", 3)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "source" {
					got[f.GetName()+" "+l.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	want := map[string]float64{
		"outrelay_source_events_total shop": 4, "outrelay_source_events_total billing": 2,
		"outrelay_source_ignored_total shop": 6, "outrelay_source_ignored_total billing": 3,
		"outrelay_source_received_bytes_total shop": 0, "outrelay_source_received_bytes_total billing": 0,
		"outrelay_source_transactions_total shop": 0, "outrelay_source_transactions_total billing": 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestIgnore_tellsTheFirst(t *testing.T) {
	t.Parallel()
	m, err := meter.New("shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		op    string
		n     int
		first bool
	}{{"UPDATE", 2, true}, {"UPDATE", 1, false}, {"TRUNCATE", 1, true}} {
		if first := m.Ignore("t", tc.op, tc.n); first != tc.first {
			t.Errorf("call %d: first is %v", i, first)
		}
	}
	if got, want := m.Ignored(), map[string]int64{"UPDATE t": 3, "TRUNCATE t": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
