package bench

import (
	"slices"
	"time"
)

// median returns the middle of xs, the mean of both middles when their number is even; 0 of none.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// quantile returns the smallest of xs that at least the share q of them does not exceed; 0 of none. It sorts xs.
func quantile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	i := int(q*float64(len(xs))+0.9999999) - 1
	return xs[min(max(i, 0), len(xs)-1)]
}

func mean(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ratios divides as by bs, round by round.
func ratios(as, bs []float64) []float64 {
	var rs []float64
	for i := range min(len(as), len(bs)) {
		if bs[i] != 0 {
			rs = append(rs, as[i]/bs[i])
		}
	}
	return rs
}
