// Package bytepool lends large byte slices, so that a path which moves megabytes neither clears nor collects memory for each of them. It never
// knows who holds a slice: giving back one that is still in use is the caller's bug.
package bytepool

import (
	"math/bits"
	"sync"
)

const (
	classMin = 14 // 16 KiB: below, the allocator is as quick
	classMax = 23 // 8 MiB: above, a slice kept for later is too much to hold
)

// Pool is a set of slices by size, each capacity a power of two. The zero value works. All methods may be called concurrently. What is
// not used is given up at the garbage collections to come.
type Pool struct {
	classes [classMax - classMin + 1]sync.Pool
}

// Get returns a slice of n bytes with any content. Sizes that are not pooled are made anew.
func (p *Pool) Get(n int) []byte {
	c := bits.Len(uint(max(n-1, 0)))
	if c < classMin || c > classMax {
		return make([]byte, n)
	}
	if b, ok := p.classes[c-classMin].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<c)
}

// Put takes back what Get lent, whole or cut at its end; nobody may refer to it any more. Other slices are left to the garbage collector.
func (p *Pool) Put(b []byte) {
	c := bits.Len(uint(cap(b))) - 1
	if c < classMin || c > classMax || cap(b) != 1<<c {
		return
	}
	b = b[:0]
	p.classes[c-classMin].Put(&b)
}
