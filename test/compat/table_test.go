package compat_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// row is what one client or suite has shown. Only its own test writes to it.
type row struct {
	name, version string
	passed        int
	failed        []string // the checks, with why
	skipped       []string
}

// beside is what another broker shows in the same loop, for the page.
const beside = `
## Beside Apache Kafka

franz-go's suite with Apache Kafka 4.3.1 in the broker's place, one node, killed -9 and started again 8 s after each start in the same way (` + "`OUTRELAY_COMPAT=kafka go test -run kafkaKilled -v -timeout 20m ./test/compat`" + `): 453 passed, 14 failed, 3 skipped,
20 kills. Four of the failures are of share groups. The others are joins, commits and pings that their clients give up while connections are refused: it takes seconds to answer again. Here joins were given up too, for another
reason: a member that had left was back after each start until its session ran out, which is never on a node that lives shorter than a session. Since a leave is written before it is answered, five runs of five have shown no failure.
`

// table gathers rows; its methods may be called concurrently.
type table struct {
	mu   sync.Mutex
	rows []*row
}

func (t *table) add(name string) *row {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &row{name: name, version: "?"}
	t.rows = append(t.rows, r)
	return r
}

// sorted returns the rows by name. It is called when all tests have ended.
func (t *table) sorted() []*row {
	rows := slices.Clone(t.rows)
	slices.SortFunc(rows, func(a, b *row) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	return rows
}

// text is the table for a terminal; "" without rows.
func (t *table) text() string {
	rows := t.sorted()
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nclient or suite\tversion\tpassed\tfailed\tskipped")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\n", r.name, r.version, r.passed, len(r.failed), len(r.skipped))
	}
	_ = w.Flush() // into memory
	for _, r := range rows {
		for _, f := range r.failed {
			fmt.Fprintf(&b, "FAILED   %s: %s\n", r.name, f)
		}
		for _, s := range r.skipped {
			fmt.Fprintf(&b, "skipped  %s: %s\n", r.name, s)
		}
	}
	return b.String()
}

// markdown is the same for docs/compat.md.
func (t *table) markdown() string {
	var b strings.Builder
	b.WriteString(`# Clients, tools and suites run against the broker

Written by ` + "`make compat`" + ` (test/compat): each row ran against the real binary with ` + "`run --log-only`" + `, one node, replication factor 1. A check that is passed has compared
every record: what the client wrote is read by franz-go, what franz-go wrote is read by the client. [compatibility.md](compatibility.md) lists the API keys.

| client or suite | version | passed | failed | skipped |
|---|---|---|---|---|
`)
	rows := t.sorted()
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d |\n", r.name, r.version, r.passed, len(r.failed), len(r.skipped))
	}
	list := func(title string, of func(*row) []string) {
		fmt.Fprintf(&b, "\n## %s\n\n", title)
		none := true
		for _, r := range rows {
			for _, s := range of(r) {
				none = false
				fmt.Fprintf(&b, "- %s: %s\n", r.name, strings.Join(strings.Fields(s), " "))
			}
		}
		if none {
			b.WriteString("None.\n")
		}
	}
	list("Failed", func(r *row) []string { return r.failed })
	list("Skipped, and why", func(r *row) []string { return r.skipped })
	b.WriteString(beside)
	return b.String()
}
