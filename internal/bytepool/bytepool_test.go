package bytepool_test

import (
	"testing"

	"github.com/outrelay/outrelay/internal/bytepool"
)

func TestPool_sizes(t *testing.T) {
	t.Parallel()
	var p bytepool.Pool
	for _, n := range []int{0, 1, 100, 16 << 10, 16<<10 + 1, 1 << 20, 8 << 20, 8<<20 + 1} {
		for range 3 {
			b := p.Get(n)
			if len(b) != n {
				t.Fatalf("Get(%d) has %d bytes", n, len(b))
			}
			if n > 8<<10 && n <= 8<<20 && cap(b) >= 2*n {
				t.Fatalf("Get(%d) takes %d bytes", n, cap(b))
			}
			p.Put(b)
		}
	}
}

// TestPool_lendsAgain cannot be parallel: it counts the allocations of the process.
func TestPool_lendsAgain(t *testing.T) {
	var p bytepool.Pool
	p.Put(p.Get(100_000))
	if n := testing.AllocsPerRun(100, func() { p.Put(p.Get(70_000)) }); n > 2 { // the pool's own pointer
		t.Fatalf("%v allocations a loan", n)
	}
	p.Put(make([]byte, 100_000)) // not lent by a pool: ignored
	if b := p.Get(100_000); cap(b) != 128<<10 {
		t.Fatalf("a slice of capacity %d was taken in", cap(b))
	}
}
