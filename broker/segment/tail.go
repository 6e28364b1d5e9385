package segment

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"

	"github.com/outrelay/outrelay/broker/record"
)

// tail holds the most recent batches in memory, in blocks that are filled once and never changed: readers get slices of them
// without a copy, and the writer hands a whole block to the kernel with one call.
type tail struct {
	bytesMax int

	mu        sync.Mutex // held for moments only; nested in Log.mu
	blocks    []*block   // contiguous in offsets; the last one is being filled
	bytes     int        // capacity of all blocks
	blockNext int        // capacity of the next block: an idle partition has a small one
}

// block is a run of batches as they stand in one segment's file. What is below len(b) never changes.
type block struct {
	seg        *segment
	base, next int64 // offsets [base, next)
	pos        int64 // of b[0] in the file
	b          []byte
	room       int // bytes that it takes, or will
	flushed    int // bytes of b that are in the file; the writer's
}

// room returns the block that n more bytes of seg go to; fresh says that it is a new one, so that what stood before can be
// flushed and let go. The writer alone calls it.
func (t *tail) room(seg *segment, n int) (blk *block, fits bool) {
	if len(t.blocks) == 0 {
		return nil, false
	}
	blk = t.blocks[len(t.blocks)-1]
	return blk, blk.seg == seg && len(blk.b)+n <= cap(blk.b)
}

// grow adds a block for n or more bytes. Every block before it has been flushed. A block for one large batch has no memory yet: put makes it,
// by a copy, and spares clearing it.
func (t *tail) grow(seg *segment, base, pos int64, n int) *block {
	size := min(max(t.blockNext, blockBytesMin), blockBytesMax)
	blk := &block{seg: seg, base: base, next: base, pos: pos, room: max(size, n)}
	if n < size {
		blk.b = make([]byte, 0, size)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blockNext = size * 2
	t.blocks = append(t.blocks, blk)
	t.bytes += blk.room
	drop := 0
	for t.bytes > t.bytesMax && drop < len(t.blocks)-1 {
		t.bytes -= t.blocks[drop].room
		t.blocks[drop] = nil
		drop++
	}
	t.blocks = t.blocks[drop:]
	return blk
}

// put copies a batch into blk, which has room, and shows it to readers.
func (t *tail) put(blk *block, prefix [record.PrefixBytes]byte, batch []byte, next int64) {
	at := len(blk.b)
	b := append(blk.b, batch...)
	copy(b[at:], prefix[:])
	t.mu.Lock()
	blk.b, blk.next = b, next
	t.mu.Unlock()
}

// forget lets go of the blocks below limit, which a compaction has replaced.
func (t *tail) forget(limit int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.blocks) && t.blocks[n].next <= limit {
		t.bytes -= t.blocks[n].room
		n++
	}
	t.blocks = slices.Delete(t.blocks, 0, n)
}

// clear lets go of everything; all of it has been flushed.
func (t *tail) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blocks, t.bytes, t.blockNext = nil, 0, 0
}

// span is a block as a reader saw it.
type span struct {
	next int64
	b    []byte
}

// spans returns the blocks from the one that holds offset from on; none when the tail begins later or ends before.
func (t *tail) spans(from int64) []span {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.blocks) == 0 || from < t.blocks[0].base {
		return nil
	}
	i := sort.Search(len(t.blocks), func(i int) bool { return t.blocks[i].next > from })
	vs := make([]span, 0, len(t.blocks)-i)
	for _, blk := range t.blocks[i:] {
		vs = append(vs, span{blk.next, blk.b})
	}
	return vs
}

// read is Log.Read of what the tail holds; ok is false when the batch that contains from is not here.
func (t *tail) read(from, limit int64, maxBytes int, minOne bool) (c Chunk, ok bool) {
	vs := t.spans(from)
	if len(vs) == 0 {
		return c, false
	}
	first := vs[0].b
	start := 0
	for lastOffset(first[start:]) < from {
		start += batchBytes(first[start:])
	}
	c.Next = from
	first = first[start:]
	n, next := take(first, vs[0].next, limit, maxBytes)
	if n == 0 {
		size := batchBytes(first)
		if last := lastOffset(first); minOne && last < limit {
			return Chunk{Bytes: first[:size:size], Next: last + 1}, true
		}
		return c, true
	}
	c = Chunk{Bytes: first[:n:n], Next: next}
	if n < len(first) || len(vs) == 1 {
		return c, true
	}
	// The rest lies in other blocks. One copy is cheaper than another round of the client.
	sum, parts := n, [][]byte{c.Bytes}
	for _, v := range vs[1:] {
		n, next := take(v.b, v.next, limit, maxBytes-sum)
		if n > 0 {
			parts, c.Next = append(parts, v.b[:n]), next
			sum += n
		}
		if n < len(v.b) {
			break
		}
	}
	if len(parts) > 1 {
		c.Bytes = make([]byte, 0, sum)
		for _, p := range parts {
			c.Bytes = append(c.Bytes, p...)
		}
	}
	return c, true
}

// take returns how many bytes of the whole batches b, which end at offset end, lie below limit and within maxBytes, and the offset after.
func take(b []byte, end, limit int64, maxBytes int) (n int, next int64) {
	if len(b) == 0 {
		return 0, 0
	}
	if len(b) <= maxBytes && end <= limit {
		return len(b), end
	}
	for n < len(b) {
		size, last := batchBytes(b[n:]), lastOffset(b[n:])
		if n+size > maxBytes || last >= limit {
			break
		}
		n, next = n+size, last+1
	}
	return n, next
}

func batchBytes(b []byte) int { return int(record.Batch(b).Size()) }

func lastOffset(b []byte) int64 {
	return int64(binary.BigEndian.Uint64(b)) + int64(int32(binary.BigEndian.Uint32(b[23:])))
}
