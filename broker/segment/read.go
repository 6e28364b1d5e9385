package segment

import (
	"errors"
	"fmt"
	"io"

	"github.com/outrelay/outrelay/broker/record"
)

// Chunk is the result of a read.
type Chunk struct {
	Bytes []byte // whole batches; nobody changes them, so they may be kept and sent as they are
	Next  int64  // the offset to resume at
}

// Read returns whole batches from the one that contains offset from on, as many as fit into maxBytes, none that reaches limit; with minOne the first
// one whatever its size (KIP-74). Offsets that compaction removed are skipped: the first batch may begin above from. At the end it returns no bytes
// and the offset to resume at. Recent batches come from memory without a system call, others from the disk; nothing is decoded.
// Safe for concurrent use. Errors: ErrOutOfRange for an offset outside [LogStartOffset, NextOffset], ErrCorrupt with file and byte, ErrClosed, the
// disk's.
func (l *Log) Read(from, limit int64, maxBytes int, minOne bool) (Chunk, error) {
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
		if c, ok := l.tail.read(from, limit, maxBytes, minOne); ok {
			return c, nil
		}
		s := v.segments[v.at(from)]
		if from >= s.limit.Load() {
			continue // rolled since the view was taken
		}
		c, found, err := l.readSegment(s, from, limit, maxBytes, minOne)
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
func (l *Log) readSegment(s *segment, from, limit int64, maxBytes int, minOne bool) (c Chunk, found bool, err error) {
	f, err := s.acquire()
	if err != nil {
		return c, false, err
	}
	defer s.release()
	at, check, err := s.find(from, l.o.IndexIntervalBytes)
	if err != nil {
		return c, false, err
	}
	r := reading{from: from, limit: limit, maxBytes: maxBytes, minOne: minOne, end: s.flushed.Load(), segLimit: s.limit.Load()}
	c, found, err = r.run(f, at, check, l.o.IndexIntervalBytes)
	if errors.Is(err, errIndex) {
		again, derr := s.distrust(l.o.IndexIntervalBytes)
		switch {
		case derr != nil:
			err = derr
		case again:
			return l.readSegment(s, from, limit, maxBytes, minOne)
		}
	}
	if err != nil {
		return Chunk{}, false, fmt.Errorf("segment %s at byte %d: %w", f.Name(), r.pos, err)
	}
	if len(c.Bytes) > 0 {
		s.hint.Store(&place{c.Next, r.pos})
	}
	return c, found, nil
}

// errIndex: the log does not have the batch where the index says.
var errIndex = fmt.Errorf("index disagrees with the log: %w", ErrCorrupt)

// reading is one read of a segment's file.
type reading struct {
	from, limit int64
	maxBytes    int
	minOne      bool
	end         int64 // bytes of the file that count
	segLimit    int64 // no batch of the segment reaches it
	pos         int64 // of the next batch; after a read, where the next one begins
}

// run reads from the batch at place at on. check says that at.offset has to be the base offset found there.
func (r *reading) run(f io.ReaderAt, at place, check bool, slack int) (c Chunk, found bool, err error) {
	r.pos = at.pos
	if r.pos > r.end {
		return c, false, errIndex
	}
	if at.offset == r.from {
		slack = 0 // the batch stands where the read begins
	}
	var buf []byte // of the file, from r.pos on
	window := int64(max(r.maxBytes, record.HeaderBytes)) + int64(slack)
	// Find the batch that reaches from.
	var size int64
	var last int64
	for {
		if r.pos == r.end {
			return c, false, nil
		}
		if buf, err = r.fill(f, buf, record.HeaderBytes, window); err != nil {
			return c, false, err
		}
		if size, err = record.Frame(buf); err == nil && (size > r.end-r.pos || lastOffset(buf) >= r.segLimit) {
			err = fmt.Errorf("batch of %d bytes up to offset %d, where %d bytes and the offsets below %d are left",
				size, lastOffset(buf), r.end-r.pos, r.segLimit)
		}
		if check && (err != nil || record.Batch(buf).BaseOffset() != at.offset) {
			return c, false, errIndex
		}
		if err != nil {
			return c, false, fmt.Errorf("%v: %w", err, ErrCorrupt)
		}
		check = false
		if last = lastOffset(buf); last >= r.from {
			break
		}
		buf = buf[min(size, int64(len(buf))):]
		r.pos += size
	}
	c.Next = r.from
	if last >= r.limit || (size > int64(r.maxBytes) && !r.minOne) {
		return c, true, nil
	}
	most := max(int64(r.maxBytes), size)
	if int64(len(buf)) < min(most, r.end-r.pos) {
		if buf, err = r.fill(f, buf, min(most, r.end-r.pos), most); err != nil {
			return c, false, err
		}
	}
	n := int64(0)
	for n+record.HeaderBytes <= int64(len(buf)) {
		size, err := record.Frame(buf[n:])
		if err != nil {
			r.pos += n
			return Chunk{}, false, fmt.Errorf("%v: %w", err, ErrCorrupt)
		}
		last := lastOffset(buf[n:])
		if n+size > int64(len(buf)) || n+size > most || last >= r.limit {
			break
		}
		n += size
		c.Next = last + 1
	}
	c.Bytes = buf[:n:n]
	r.pos += n
	return c, true, nil
}

// fill makes buf hold at least need bytes of the file from r.pos on, reading window bytes when it has to read.
func (r *reading) fill(f io.ReaderAt, buf []byte, need, window int64) ([]byte, error) {
	if int64(len(buf)) >= need {
		return buf, nil
	}
	want := min(max(need, window), r.end-r.pos)
	if want < need {
		return nil, fmt.Errorf("%d bytes, fewer than a batch has: %w", want, ErrCorrupt)
	}
	fresh := make([]byte, want)
	n, err := f.ReadAt(fresh, r.pos)
	if int64(n) < want {
		if err == nil || err == io.EOF {
			return nil, fmt.Errorf("the file ends, %d bytes are missing: %w", want-int64(n), ErrCorrupt)
		}
		return nil, err
	}
	return fresh, nil
}
