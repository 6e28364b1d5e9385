package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found.
type Report struct {
	Name    string    `json:"name"`
	Title   string    `json:"title"`
	Date    time.Time `json:"date"`
	Version string    `json:"version"`
	Commit  string    `json:"commit"`
	Machine Machine   `json:"machine"`
	Figures []Figure  `json:"figures"`
	Tables  []Table   `json:"tables"`
	Method  []string  `json:"method"` // paragraphs
	Took    string    `json:"took"`
}

// Figure is a number with a bar that it has to reach.
type Figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target float64 `json:"target"`
	AtMost bool    `json:"at_most"` // the target is an upper bound
	Peer   string  `json:"peer,omitempty"`
}

// Met reports whether the figure reaches its target.
func (f Figure) Met() bool {
	if f.AtMost {
		return f.Value <= f.Target
	}
	return f.Value >= f.Target
}

// Table is a table of texts.
type Table struct {
	Title  string     `json:"title"`
	Header []string   `json:"header"`
	Rows   [][]string `json:"rows"`
	Note   string     `json:"note,omitempty"`
}

func (t *Table) add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Met reports whether every figure reaches its target.
func (r *Report) Met() bool {
	for _, f := range r.Figures {
		if !f.Met() {
			return false
		}
	}
	return true
}

func (f Figure) target() string {
	if f.AtMost {
		return "≤ " + num(f.Target)
	}
	return "≥ " + num(f.Target)
}

// num prints a number with as many digits as it deserves.
func num(x float64) string {
	switch {
	case x >= 1000:
		s := fmt.Sprintf("%.0f", x)
		var b strings.Builder
		for i, c := range s {
			if i > 0 && (len(s)-i)%3 == 0 {
				b.WriteByte(',')
			}
			b.WriteRune(c)
		}
		return b.String()
	case x >= 100 || x == float64(int(x)):
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func verdict(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

func (r *Report) figureTable() Table {
	t := Table{Title: "Figures", Header: []string{"figure", "reached", "target", "", "beside it"}}
	for _, f := range r.Figures {
		t.add(f.Name, strings.TrimSpace(num(f.Value)+" "+f.Unit), f.target(), verdict(f.Met()), f.Peer)
	}
	return t
}

// Print writes the tables for a terminal.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%s\n", r.Title, r.Machine.Line())
	for _, t := range append([]Table{r.figureTable()}, r.Tables...) {
		fmt.Fprintf(w, "\n%s\n", t.Title)
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, row := range append([][]string{t.Header}, t.Rows...) {
			fmt.Fprintln(tw, "  "+strings.Join(row, "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		if t.Note != "" {
			fmt.Fprintf(w, "  %s\n", t.Note)
		}
	}
	_, err := fmt.Fprintf(w, "\ntook %s\n", r.Took)
	return err
}

// Markdown writes the page that is kept in docs/benchmarks.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", r.Title)
	fmt.Fprintf(&b, "Written by `outrelay bench %s` on %s, commit %s (version %s), in %s. Run it again with `make bench-%s`.\n\n",
		r.Name, r.Date.UTC().Format("2006-01-02 15:04 UTC"), r.Commit, r.Version, r.Took, r.Name)
	for _, t := range append([]Table{r.figureTable()}, r.Tables...) {
		fmt.Fprintf(&b, "## %s\n\n", t.Title)
		markdownRow(&b, t.Header)
		fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(t.Header)))
		for _, row := range t.Rows {
			markdownRow(&b, row)
		}
		b.WriteString("\n")
		if t.Note != "" {
			b.WriteString(t.Note + "\n\n")
		}
	}
	b.WriteString("## Method\n\n")
	for _, p := range r.Method {
		b.WriteString(p + "\n\n")
	}
	b.WriteString("## Machine\n\n")
	for _, row := range r.Machine.rows() {
		fmt.Fprintf(&b, "- %s: %s\n", row[0], row[1])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markdownRow(b *strings.Builder, cells []string) {
	b.WriteString("|")
	for _, c := range cells {
		b.WriteString(" " + strings.ReplaceAll(c, "|", "\\|") + " |")
	}
	b.WriteString("\n")
}

// finish fills in what all reports have and writes the page.
func (e *env) finish(r *Report, began time.Time, pg string) (*Report, error) {
	others := e.began.others(readUsage(), runtime.NumCPU())
	r.Date, r.Version, r.Commit = time.Now(), e.o.Version, e.o.Commit
	r.Took = time.Since(began).Round(time.Second).String()
	var err error
	if r.Machine, err = describeMachine(e.dir, pg); err != nil {
		return nil, err
	}
	r.Machine.Others = others
	if e.o.Out == "" {
		return r, nil
	}
	if err := os.MkdirAll(e.o.Out, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(e.o.Out, r.Name+".md"))
	if err != nil {
		return nil, err
	}
	if err := r.Markdown(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return r, f.Close()
}
