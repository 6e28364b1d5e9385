package bench_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outrelay/outrelay/internal/bench"
)

func newFake(t *testing.T, topic string) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

func TestFetcher_CountsEveryRecordAndBeginsAgain(t *testing.T) {
	t.Parallel()
	const records = 1000
	seed := newFake(t, "t")
	if err := bench.Fill(t.Context(), seed, "t", records); err != nil {
		t.Fatal(err)
	}
	for _, pass := range []string{"first", "second"} {
		n, err := bench.FetchOnce(t.Context(), seed, "t", 4)
		if err != nil || n != records {
			t.Fatalf("%s pass: %d records, %v; want %d", pass, n, err, records)
		}
	}
}

func TestPaced_SendsEachRecordAtItsTime(t *testing.T) {
	t.Parallel()
	seed := newFake(t, "t")
	// The warm-up, a quarter of the length, is paced too.
	if n, rate, err := bench.Paced(t.Context(), seed, "t", 1000, 200*time.Millisecond); err != nil || n != 250 || rate <= 0 {
		t.Errorf("%d records, %v/s, %v; want 250", n, rate, err)
	}
}

func TestBatchesEnd(t *testing.T) {
	t.Parallel()
	batch := func(base byte, last byte) []byte {
		b := make([]byte, 70)
		b[7], b[11], b[26] = base, 58, last
		return b
	}
	two := append(batch(5, 2), batch(8, 0)...)
	for name, c := range map[string]struct {
		b    []byte
		want int64
	}{
		"none":                    {nil, 3},
		"one":                     {two[:70], 8},
		"two":                     {two, 9},
		"the last is cut off":     {two[:100], 8},
		"only a part of a header": {two[:20], 3},
	} {
		if got := bench.BatchesEnd(c.b, 3); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
