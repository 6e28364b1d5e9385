package segment_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
)

// TestLend_agreesWithRead asks for random parts of a log in one sealed and one active segment, with batches large enough that one file has many marks.
// Whatever comes is whole batches as Read gives them, within the limits asked for.
func TestLend_agreesWithRead(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{TailBytes: 1})
	rnd := rand.New(rand.NewPCG(7, 7))
	var offsets []int64 // base offsets, and the end
	for i := range int64(400) {
		if i == 250 {
			b.must(b.log.Roll())
		}
		offsets = append(offsets, b.log.NextOffset())
		b.put(i, "k="+strings.Repeat("x", rnd.IntN(12_000)), "k=2")
	}
	end := b.log.NextOffset()
	offsets = append(offsets, end)
	b.sync()
	extents, rounds := 0, 1000
	if testing.Short() {
		rounds = 100
	}
	for range rounds {
		from := rnd.Int64N(end)
		if rnd.IntN(3) > 0 {
			from = offsets[rnd.IntN(len(offsets)-1)]
		}
		limit := from + 1 + rnd.Int64N(end-from)
		most := rnd.IntN(400_000)
		for range 3 { // goes on as a reader does
			c, err := lend(b.log, from, limit, most, true)
			b.must(err)
			records, last := int64(0), int64(-1)
			for x, err := range record.Split(c.Bytes) {
				b.must(err)
				b.must(record.CheckCRC(x))
				if x.LastOffset() < from || x.LastOffset() >= limit {
					t.Fatalf("[%d, %d) of %d bytes: batch [%d, %d]", from, limit, most, x.BaseOffset(), x.LastOffset())
				}
				records, last = records+int64(x.Count()), x.LastOffset()
			}
			if len(c.Bytes) > most && records > 2 {
				t.Fatalf("[%d, %d): %d bytes where %d are wanted at most", from, limit, len(c.Bytes), most)
			}
			if len(c.Bytes) > 0 {
				same, err := b.log.Read(from, limit, len(c.Bytes), true)
				b.must(err)
				if !bytes.Equal(same.Bytes, c.Bytes) || same.Next != c.Next || c.Next != last+1 {
					t.Fatalf("[%d, %d) of %d bytes: %d bytes and next %d, Read has %d and %d", from, limit, most, len(c.Bytes), c.Next, len(same.Bytes), same.Next)
				}
			}
			if c.Extent != nil {
				extents++
				if c.Extent.Records() != records {
					t.Fatalf("extent of %d records says %d", records, c.Extent.Records())
				}
			}
			if from = c.Next; from >= limit {
				break
			}
		}
	}
	if extents < rounds/4 {
		t.Fatalf("%d of the reads were extents", extents)
	}
}

// TestLend_checksAgain: damage that comes after a check is found by the first read after the check has expired, and at once after a send failed.
func TestLend_checksAgain(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(b *bench, c *segment.Chunk){
		"time": func(b *bench, _ *segment.Chunk) { b.clk.Advance(11 * time.Minute) },
		"a send that failed": func(b *bench, c *segment.Chunk) {
			r, w := io.Pipe()
			r.Close()
			if err := c.Extent.SendTo(w); !errors.Is(err, io.ErrClosedPipe) {
				b.t.Errorf("send: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, segment.Options{TailBytes: 1})
			for range 10 {
				b.put(1, "k="+strings.Repeat("x", 1000))
			}
			b.must(b.log.Roll())
			b.sync()
			first, err := lend(b.log, 0, 10, 1<<20, true)
			b.must(err)
			b.flip(seg0+".log", 5000)
			c, err := b.log.Lend(0, 10, 1<<20, true, true)
			b.must(err)
			if first.Extent != nil || c.Extent == nil {
				t.Fatalf("the first read is an extent: %v, the second: %v", first.Extent != nil, c.Extent != nil)
			}
			again(b, &c)
			c.Release()
			if c, err = b.log.Lend(4, 10, 1<<20, true, true); !errors.Is(err, segment.ErrCorrupt) {
				t.Fatalf("%+v %v, want ErrCorrupt", c, err)
			}
		})
	}
}

// TestExtent_outlivesItsSegment: an extent that is being sent stays readable when retention takes the segment.
func TestExtent_outlivesItsSegment(t *testing.T) {
	t.Parallel()
	b := newBench(t, segment.Options{TailBytes: 1})
	for i := range 10 {
		b.put(1, fmt.Sprintf("k=%d", i))
	}
	b.must(b.log.Roll())
	b.sync()
	first, err := lend(b.log, 0, 10, 1<<20, true)
	b.must(err)
	c, err := b.log.Lend(0, 10, 1<<20, true, true)
	b.must(err)
	b.must(b.log.AdvanceStart(10))
	b.want(b.names(), "10_")
	var sent bytes.Buffer
	b.must(c.Extent.SendTo(&sent))
	if !bytes.Equal(sent.Bytes(), first.Bytes) {
		t.Fatal("other bytes than before the segment went")
	}
	c.Release()
	if _, err := b.log.Lend(0, 10, 1<<20, true, true); !errors.Is(err, segment.ErrOutOfRange) {
		t.Fatal(err)
	}
}
