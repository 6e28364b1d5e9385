// Package doctor says what a check of `outrelay doctor` is. The checks stand with what they look at: sources, sinks and the log each examine themselves;
// docs/operations/doctor.md lists them.
package doctor

import (
	"fmt"
	"strings"
)

// Severity is what a finding means.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Skipped Severity = "skipped" // it could not be looked at, or says nothing here; the text says why
	Warning Severity = "warning" // outrelay works, and something will hurt one day
	Error   Severity = "error"   // outrelay does not work like this, or loses what it is for
)

// Finding is what one check found in one place.
type Finding struct {
	ID       string   `json:"id"`    // of the check: "P3"; stable, for scripts and docs
	Place    string   `json:"place"` // "source shop", "source shop, table public.outbox"
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`          // what is so, with the server's own words and numbers. Never a secret.
	Fix      string   `json:"fix,omitempty"` // one line, SQL where that mends it; of warnings and errors alone
}

// Report gathers findings. The zero value works; one goroutine uses it.
type Report struct {
	Place    string // of findings that name none of their own
	Findings []Finding
}

// OK notes that a check found nothing wrong.
func (r *Report) OK(id, format string, args ...any) { r.add(id, OK, "", format, args) }

// Skip notes why a check was not made.
func (r *Report) Skip(id, format string, args ...any) { r.add(id, Skipped, "", format, args) }

// Warn notes what will hurt one day, and how to mend it.
func (r *Report) Warn(id, fix, format string, args ...any) { r.add(id, Warning, fix, format, args) }

// Fail notes what does not work, and how to mend it.
func (r *Report) Fail(id, fix, format string, args ...any) { r.add(id, Error, fix, format, args) }

func (r *Report) add(id string, s Severity, fix, format string, args []any) {
	r.Findings = append(r.Findings, Finding{ID: id, Place: r.Place, Severity: s, Text: oneLine(fmt.Sprintf(format, args...)), Fix: oneLine(fix)})
}

// oneLine joins lines, which errors of drivers and multi-line SQL have.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(lines, " ")
}

// At lets examine report on a place below r's.
func (r *Report) At(place string, examine func(r *Report)) {
	sub := &Report{Place: r.Place + ", " + place}
	examine(sub)
	r.Findings = append(r.Findings, sub.Findings...)
}

// Count returns how many findings have a severity.
func Count(fs []Finding, s Severity) (n int) {
	for _, f := range fs {
		if f.Severity == s {
			n++
		}
	}
	return n
}
