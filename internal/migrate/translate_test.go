package migrate_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay/internal/migrate"
)

// TestTranslate_model: whatever gaps both logs have, an offset becomes the place of the first copied record at or above it, or lies behind all of them; what
// fell between two chunks is named.
func TestTranslate_model(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var table migrate.Table
		var old, then []int64
		held := map[int64]bool{} // offsets that a chunk covers
		src, dst := rapid.Int64Range(0, 5).Draw(t, "start"), int64(0)
		first := src
		gap := rapid.Int64Range(0, 3)
		for range rapid.IntRange(0, 5).Draw(t, "chunks") {
			src += rapid.SampledFrom([]int64{0, 0, 0, 4}).Draw(t, "lost")
			from := src
			var a, b []int64
			for range rapid.IntRange(0, 6).Draw(t, "records") {
				src += gap.Draw(t, "old gap")
				dst += gap.Draw(t, "new gap")
				a, b = append(a, src), append(b, dst)
				src, dst = src+1, dst+1
			}
			src += gap.Draw(t, "tail")
			if src == from {
				continue
			}
			table.Add(from, src, a, b)
			for o := from; o < src; o++ {
				held[o] = true
			}
			old, then = append(old, a...), append(then, b...)
		}
		end := first // of the last chunk
		for o := range held {
			end = max(end, o+1)
		}
		for x := first; x < end+3; x++ {
			got, gone := table.Translate(x)
			if want := x < end && !held[x]; gone != want {
				t.Fatalf("offset %d: gone %v, want %v", x, gone, want)
			}
			// How many are below is what decides who reads what; between two records any place is as good.
			below := func(list []int64, limit int64) (n int) {
				for _, o := range list {
					if o < limit {
						n++
					}
				}
				return n
			}
			if a, b := below(old, x), below(then, got); a != b {
				t.Fatalf("offset %d has %d records below, %d in the new log has %d", x, a, got, b)
			}
		}
	})
}
