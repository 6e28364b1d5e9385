package bench_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/bench"
)

func TestStats(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"median of none", bench.Median(nil), 0},
		{"median of an odd number", bench.Median([]float64{3, 1, 2}), 2},
		{"median of an even number", bench.Median([]float64{4, 1, 2, 3}), 2.5},
		{"p50 of 1 to 100", bench.Quantile(hundred, 0.5), 50},
		{"p99 of 1 to 100", bench.Quantile(hundred, 0.99), 99},
		{"the largest", bench.Quantile(hundred, 1), 100},
		{"p99 of one", bench.Quantile([]float64{7}, 0.99), 7},
		{"quantile of none", bench.Quantile(nil, 0.99), 0},
		{"ratios leave out what cannot be divided", bench.Median(bench.Ratios([]float64{1, 2, 3}, []float64{2, 0, 6})), 0.5},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

func TestNum(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{0: "0", 0.128: "0.13", 2: "2", 2.345: "2.35", 23.6: "23.6", 149.6: "150", 1000: "1,000", 63412.7: "63,413", 1234567: "1,234,567"} {
		if got := bench.Num(x); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}

const page = `# HELP a_total x
# TYPE a_total counter
a_total{source="shop",group="g"} 12
a_total{source="other",group="g"} 30
b 1.5e+03
h_bucket{api="Produce",le="0.1"} 3
h_sum{api="Produce"} 0.6
h_count{api="Produce"} 3
`

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, none := bench.ParseMetrics([]byte(page)), bench.ParseMetrics(nil)
	if got := bench.Sum(m, "a_total", `"shop"`); got != 12 {
		t.Errorf("a of shop: %v", got)
	}
	if got := bench.Sum(m, "a_total", ""); got != 42 {
		t.Errorf("a of all: %v", got)
	}
	if got := bench.Sum(m, "b", ""); got != 1500 {
		t.Errorf("b: %v", got)
	}
	if mean, n := bench.MeanMS(m, none, "h", `"Produce"`); mean < 199.9 || mean > 200.1 || n != 3 {
		t.Errorf("mean of h: %v of %v", mean, n)
	}
	if mean, n := bench.MeanMS(m, m, "h", ""); mean != 0 || n != 0 {
		t.Errorf("mean of nothing: %v of %v", mean, n)
	}
}

func TestReport_SaysWhatWasMissed(t *testing.T) {
	t.Parallel()
	r := &bench.Report{Name: "log", Title: "A title", Commit: "abc", Took: "3s",
		Figures: []bench.Figure{
			{Name: "rate", Value: 12_000, Unit: "records/s", Target: 13_000},
			{Name: "p50", Value: 1.5, Unit: "ms", Target: 2, AtMost: true, Peer: "a|b"},
		},
		Tables: []bench.Table{{Title: "Rounds", Header: []string{"round", "x"}, Rows: [][]string{{"1", "2"}}, Note: "A note."}},
		Method: []string{"How."},
	}
	if r.Met() || r.Figures[0].Met() || !r.Figures[1].Met() {
		t.Error("12,000 of 13,000 is missed, 1.5 of at most 2 is met")
	}
	var md, text bytes.Buffer
	if err := r.Markdown(&md); err != nil {
		t.Fatal(err)
	}
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# A title", "commit abc", "| rate | 12,000 records/s | ≥ 13,000 | MISSED |", "| p50 | 1.50 ms | ≤ 2 | met | a\\|b |", "| 1 | 2 |", "A note.", "How.", "make bench-log"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, md.String())
		}
	}
	for _, want := range []string{"A title", "12,000 records/s", "MISSED", "A note."} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
}

func TestMeasureDisk(t *testing.T) {
	t.Parallel()
	d, err := bench.MeasureDisk(t.TempDir(), 5)
	if err != nil || d.P50MS <= 0 || d.P99MS < d.P50MS || d.PerSec <= 0 {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestServeKfake(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r, w := io.Pipe()
	served := make(chan error, 1)
	go func() { served <- bench.ServeKfake(ctx, "t", 3, w) }()
	line := make([]byte, 64)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	seed := strings.TrimSpace(string(line[:n]))
	if _, _, err := net.SplitHostPort(seed); err != nil {
		t.Fatalf("%q is no address: %v", seed, err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
		t.Error(err)
	}
	cl.Close()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
