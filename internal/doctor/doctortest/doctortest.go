// Package doctortest asserts what examinations have found. It makes no examination itself.
package doctortest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/doctor"
)

// Troubles returns the warnings and errors of a check, a line each: "severity: place: text => fix".
func Troubles(fs []doctor.Finding, id string) string {
	var b strings.Builder
	for _, f := range fs {
		if f.ID == id && (f.Severity == doctor.Warning || f.Severity == doctor.Error) {
			fmt.Fprintf(&b, "%s: %s: %s => %s\n", f.Severity, f.Place, f.Text, f.Fix)
		}
	}
	return b.String()
}

// Want fails the test unless each part stands in what a check warns of.
func Want(t testing.TB, fs []doctor.Finding, id string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if got := Troubles(fs, id); !strings.Contains(got, p) {
			t.Errorf("%s says %q, want %q in it", id, got, p)
		}
	}
}

// WantMade fails the test unless each of the checks was made, skipped ones included.
func WantMade(t testing.TB, fs []doctor.Finding, ids ...string) {
	t.Helper()
	made := map[string]bool{}
	for _, f := range fs {
		made[f.ID] = true
	}
	for _, id := range ids {
		if !made[id] {
			t.Errorf("check %s was not made", id)
		}
	}
}
