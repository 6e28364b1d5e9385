package doctor_test

import (
	"reflect"
	"testing"

	"github.com/outrelay/outrelay/internal/doctor"
)

func TestReport(t *testing.T) {
	t.Parallel()
	r := doctor.Report{Place: "source shop"}
	r.OK("P1", "connected")
	r.At("table t", func(r *doctor.Report) {
		r.Warn("P9", "alter table t\n  add primary key (id)", "no key\n\tin %s", "it")
	})
	r.Skip("P15", "no standby")
	want := []doctor.Finding{
		{ID: "P1", Place: "source shop", Severity: doctor.OK, Text: "connected"},
		{ID: "P9", Place: "source shop, table t", Severity: doctor.Warning, Text: "no key in it", Fix: "alter table t add primary key (id)"},
		{ID: "P15", Place: "source shop", Severity: doctor.Skipped, Text: "no standby"},
	}
	if !reflect.DeepEqual(r.Findings, want) {
		t.Errorf("%+v", r.Findings)
	}
	if n := doctor.Count(r.Findings, doctor.Warning); n != 1 {
		t.Errorf("%d warnings", n)
	}
}
