package bench

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
