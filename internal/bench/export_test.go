package bench

import (
	"context"
	"time"
)

// What the tests look at.
var (
	Median       = median
	Quantile     = quantile
	Ratios       = ratios
	Num          = num
	MeasureDisk  = measureDisk
	ParseMetrics = parseMetrics
)

// Sum is metrics.sum.
func Sum(m metrics, name, want string) float64 { return m.sum(name, want) }

// MeanMS is metrics.meanMS.
func MeanMS(after, before metrics, name, want string) (mean, n float64) {
	return after.meanMS(before, name, want)
}

// BatchesEnd is batchesEnd.
func BatchesEnd(b []byte, from int64) int64 { return batchesEnd(b, from) }

// Fill is fill.
func Fill(ctx context.Context, seed, topic string, n int) error { return fill(ctx, seed, topic, n) }

// Paced is paced.
func Paced(ctx context.Context, seed, topic string, rate int, length time.Duration) (n int, perSec float64, err error) {
	s, err := paced(ctx, seed, topic, rate, length)
	return s.n, s.perSec, err
}

// FetchOnce reads a topic from beginning to end over one connection and returns how many records there were.
func FetchOnce(ctx context.Context, seed, topic string, partitions int32) (int64, error) {
	f, err := dialFetcher(ctx, seed, topic)
	if err != nil {
		return 0, err
	}
	defer f.conn.Close()
	total := int64(0)
	for p := range partitions {
		next := map[int32]int64{p: 0}
		for {
			n, err := f.fetch(next)
			if err != nil {
				return total, err
			}
			total += n
			if next[p] == 0 { // it would begin again
				break
			}
		}
	}
	return total, nil
}
