package segment

import (
	"errors"
	"fmt"

	"github.com/outrelay/outrelay/internal/bytepool"
)

// Chunk is the result of a read: whole batches, as Bytes or as an Extent, never both.
type Chunk struct {
	Bytes  []byte  // nobody changes them, so they may be kept and sent as they are; those of Lend until Release
	Extent *Extent // only of Lend
	Next   int64   // the offset to resume at

	lent []byte
}

// reads lends the memory of cold reads.
var reads bytepool.Pool

// Release gives back what Lend has lent. The chunk is empty then.
func (c *Chunk) Release() {
	if c.Extent != nil {
		c.Extent.Close()
	}
	if c.lent != nil {
		reads.Put(c.lent)
	}
	*c = Chunk{Next: c.Next}
}

// Lend is Read for who sends the batches and forgets them: the memory is lent until Release. With extents set, what a read has checked
// within the last minutes is not read again but comes as an Extent.
func (l *Log) Lend(from, limit int64, maxBytes int, minOne, extents bool) (Chunk, error) {
	return l.read(from, limit, request{maxBytes: maxBytes, minOne: minOne, lend: true, extents: extents})
}

// request is what a read wants beside its offsets.
type request struct {
	maxBytes int
	minOne   bool
	lend     bool // the memory comes from the pool
	extents  bool
}

// Read returns whole batches from the one that contains offset from on, as many as fit into maxBytes, none that reaches limit; with minOne the first
// one whatever its size (KIP-74). Offsets that compaction removed are skipped: the first batch may begin above from. At the end it returns no bytes
// and the offset to resume at. Recent batches come from memory without a system call, others from the disk, with their CRCs, offsets and leader epochs
// checked: a batch that is not what was written is never returned. Nothing is decoded.
// Safe for concurrent use. Errors: ErrOutOfRange for an offset outside [LogStartOffset, NextOffset], ErrCorrupt with file and byte, ErrClosed, the
// disk's.
func (l *Log) Read(from, limit int64, maxBytes int, minOne bool) (Chunk, error) {
	return l.read(from, limit, request{maxBytes: maxBytes, minOne: minOne})
}

func (l *Log) read(from, limit int64, q request) (Chunk, error) {
	for {
		next := l.next.Load() // first: the view loaded later is not older
		v := l.view.Load()
		if from < v.start || from > next {
			return Chunk{}, fmt.Errorf("offset %d outside [%d, %d]: %w", from, v.start, next, ErrOutOfRange)
		}
		limit = min(limit, next)
		if from >= limit {
			return Chunk{Next: from}, nil
		}
		if c, ok := l.tail.read(from, limit, q.maxBytes, q.minOne); ok {
			return c, nil
		}
		s := v.segments[v.at(from)]
		if from >= s.limit.Load() {
			continue // rolled since the view was taken
		}
		c, found, err := l.readSegment(s, from, limit, q)
		switch {
		case err != nil:
			if err = l.retry(err); err != nil {
				return Chunk{}, err
			}
		case found:
			return c, nil
		default:
			from = s.limit.Load() // compaction left nothing from there to the segment's end
		}
	}
}

// readSegment reads from one segment's file. found is false when no batch of it reaches from.
func (l *Log) readSegment(s *segment, from, limit int64, q request) (c Chunk, found bool, err error) {
	f, err := s.acquire()
	if err != nil {
		return c, false, err
	}
	defer s.release()
	now, until := l.o.Clock.Now(), int64(0)
	if q.extents {
		begin, end, ok, next := s.verified.part(now, from, limit, int64(q.maxBytes))
		if ok {
			return Chunk{Extent: s.extent(begin, end), Next: end.offset}, true, nil
		}
		until = next
	}
	at, check, err := s.find(from, l.o.IndexIntervalBytes)
	if err != nil {
		return c, false, err
	}
	r := reading{request: q, from: from, limit: limit, until: until, end: s.flushed.Load(), next: at.offset, epochs: l.knownEpochs()}
	r.segLimit = min(s.limit.Load(), l.next.Load()) // after end: what is in the file lies below
	c, found, err = r.run(f, at, check, l.o.IndexIntervalBytes)
	if errors.Is(err, errIndex) {
		again, derr := s.distrust(l.o.IndexIntervalBytes)
		switch {
		case derr != nil:
			err = derr
		case again:
			return l.readSegment(s, from, limit, q)
		}
	}
	if errors.Is(err, ErrCorrupt) {
		return Chunk{}, false, r.place(err, f.Name())
	}
	if err != nil {
		return Chunk{}, false, fmt.Errorf("segment %s at byte %d: %w", f.Name(), r.pos, err)
	}
	if len(c.Bytes) > 0 {
		if q.extents {
			s.verified.add(now, r.marks)
		}
		s.hint.Store(&place{c.Next, r.pos})
	}
	return c, found, nil
}

// extent takes hold of the file for the bytes between two marks. The caller holds it already.
func (s *segment) extent(begin, end mark) *Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs++
	return &Extent{s: s, f: s.f, at: begin.pos, n: end.pos - begin.pos, records: end.records}
}
