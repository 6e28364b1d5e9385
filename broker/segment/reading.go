package segment

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/outrelay/outrelay/broker/record"
)

// errIndex: the log does not have the batch where the index says.
var errIndex = fmt.Errorf("index disagrees with the log: %w", ErrCorrupt)

// reading is one read of a segment's file. It returns no batch that it has not checked: frame, CRC, leader epoch, and that the offsets of the
// batches before and behind leave room for it, since the first 16 bytes are not covered by the CRC. What compaction has left gaps around may
// hide a changed base offset from it, not from [Log.Scrub].
type reading struct {
	request
	from, limit int64
	until       int64   // a byte where it ends, if it gets there; 0: none
	end         int64   // bytes of the file that count
	segLimit    int64   // no batch of the segment reaches it
	epochs      []Epoch // of the log
	pos         int64   // of the next batch; after a read, where the next one begins
	next        int64   // no batch at pos may have a smaller base offset
	lent        []byte  // by the pool; the batches lie in it
	marks       []mark  // of what was checked, where extents are wanted
}

// place says where in the file err is.
func (r *reading) place(err error, file string) error {
	var ce *CorruptError
	if errors.As(err, &ce) {
		return err
	}
	return &CorruptError{File: file, Byte: r.pos, Offset: r.next, Cause: strings.TrimSuffix(err.Error(), ": "+ErrCorrupt.Error())}
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
	defer func() {
		if len(c.Bytes) > 0 {
			c.lent = r.lent
		} else {
			reads.Put(r.lent)
		}
		r.lent = nil
	}()
	buf, last, err := r.seek(f, at, check, int64(slack))
	if buf == nil || err != nil {
		return c, false, err
	}
	c.Next = r.from
	size := int64(batchBytes(buf))
	if last >= r.limit || (size > int64(r.maxBytes) && !r.minOne) {
		return c, true, nil
	}
	most := max(int64(r.maxBytes), size)
	if r.until > r.pos {
		most = max(min(most, r.until-r.pos), size)
	}
	if int64(len(buf)) < min(most, r.end-r.pos) {
		if buf, err = r.fill(f, buf, min(most, r.end-r.pos), most); err != nil {
			return c, false, err
		}
	}
	return r.gather(f, buf, most)
}

// seek moves to the batch that reaches from, and returns what it read of the file from there on, with the batch's last offset. There is no such
// batch when buf is nil.
func (r *reading) seek(f io.ReaderAt, at place, check bool, slack int64) (buf []byte, last int64, err error) {
	window := int64(max(r.maxBytes, record.HeaderBytes)) + slack
	for {
		if r.pos == r.end {
			return nil, 0, nil
		}
		if buf, err = r.fill(f, buf, record.HeaderBytes, window); err != nil {
			return nil, 0, err
		}
		size, last, err := r.header(buf, r.pos)
		if check && (err != nil || record.Batch(buf).BaseOffset() != at.offset) {
			return nil, 0, errIndex
		}
		if err != nil {
			return nil, 0, err
		}
		if check = false; last >= r.from {
			return buf, last, nil
		}
		buf = buf[min(size, int64(len(buf))):]
		r.pos, r.next = r.pos+size, last+1
	}
}

// header checks the header of a batch that stands at pos, behind one that ends before r.next.
func (r *reading) header(b []byte, pos int64) (size, last int64, err error) {
	if size, err = record.Frame(b); err != nil {
		return 0, 0, fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	h := record.Batch(b)
	base, last := h.BaseOffset(), h.LastOffset()
	if size > r.end-pos || base < r.next || last < base || last >= r.segLimit {
		return 0, 0, fmt.Errorf("batch of %d bytes with offsets %d to %d, where %d bytes and the offsets [%d, %d) are left: %w",
			size, base, last, r.end-pos, r.next, r.segLimit, ErrCorrupt)
	}
	if epoch, ok := epochAt(r.epochs, base); ok && epoch != h.LeaderEpoch() {
		return 0, 0, fmt.Errorf("leader epoch %d, the checkpoint says %d: %w", h.LeaderEpoch(), epoch, ErrCorrupt)
	}
	return size, last, nil
}

// gather returns the whole batches at the beginning of buf, which stands at r.pos, up to most bytes and below the limit. Damage ends it: what stands
// before may be read, and the next read begins with it.
func (r *reading) gather(f io.ReaderAt, buf []byte, most int64) (c Chunk, found bool, err error) {
	c.Next = r.from
	n, prev := int64(0), int64(0) // bytes that are good; of them, those of the last batch
	r.mark(place{record.Batch(buf).BaseOffset(), r.pos}, 0)
	var records int64 // since the last mark
	for n+record.HeaderBytes <= int64(len(buf)) {
		var size, last int64
		if size, last, err = r.header(buf[n:], r.pos+n); err != nil {
			n -= prev // the one before may be the one whose offset has changed: neither is shown
			break
		}
		if n+size > int64(len(buf)) || n+size > most || last >= r.limit {
			break
		}
		if err = record.CheckCRC(buf[n : n+size]); err != nil {
			err = fmt.Errorf("%v: %w", err, ErrCorrupt)
			break
		}
		records += int64(record.Batch(buf[n:]).Count())
		n, prev, r.next = n+size, size, last+1
		if r.markedBefore(r.pos + n - markBytes + 1) {
			r.mark(place{r.next, r.pos + n}, records)
			records = 0
		}
	}
	if err == nil && r.pos+n < r.end && n+record.HeaderBytes > int64(len(buf)) {
		if err = r.behind(f, r.pos+n); err != nil {
			n -= prev
		}
	}
	if err != nil && n <= 0 {
		r.pos += prev
		return Chunk{}, false, err
	}
	if n > 0 {
		c.Bytes, c.Next = buf[:n:n], lastBefore(buf[:n])+1
	}
	if r.markedBefore(r.pos + n) {
		r.mark(place{c.Next, r.pos + n}, records)
	}
	if err != nil {
		r.marks = nil
	}
	r.pos += n
	return c, true, nil
}

// behind checks the header of the batch behind those that were read: it bounds their offsets.
func (r *reading) behind(f io.ReaderAt, pos int64) error {
	if r.end-pos < record.HeaderBytes {
		return fmt.Errorf("%d bytes, fewer than a batch has: %w", r.end-pos, ErrCorrupt)
	}
	var b [record.HeaderBytes]byte
	if n, err := f.ReadAt(b[:], pos); n < len(b) {
		if err == nil || err == io.EOF {
			return fmt.Errorf("the file ends at byte %d: %w", pos+int64(n), ErrCorrupt)
		}
		return err
	}
	_, _, err := r.header(b[:], pos)
	return err
}

// lastBefore returns the last offset of whole batches.
func lastBefore(b []byte) (last int64) {
	for len(b) > 0 {
		last = lastOffset(b)
		b = b[batchBytes(b):]
	}
	return last
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
	fresh := r.memory(int(want))
	n, err := f.ReadAt(fresh, r.pos)
	if int64(n) < want {
		if err == nil || err == io.EOF {
			return nil, fmt.Errorf("the file ends, %d bytes are missing: %w", want-int64(n), ErrCorrupt)
		}
		return nil, err
	}
	return fresh, nil
}

// memory returns n bytes, and takes those back that it gave before.
func (r *reading) memory(n int) []byte {
	if !r.lend {
		return make([]byte, n)
	}
	reads.Put(r.lent)
	r.lent = reads.Get(n)
	return r.lent
}

// mark notes a place between checked batches.
func (r *reading) mark(p place, records int64) {
	if r.extents {
		r.marks = append(r.marks, mark{p, records})
	}
}

// markedBefore reports whether the last mark stands before byte pos.
func (r *reading) markedBefore(pos int64) bool { return r.extents && last(r.marks).pos < pos }

// epochAt returns the leader epoch in which the batch at offset was written; ok is false where the epochs do not reach back so far.
func epochAt(es []Epoch, offset int64) (epoch int32, ok bool) {
	i, found := slices.BinarySearchFunc(es, offset, func(e Epoch, o int64) int {
		switch {
		case e.Start < o:
			return -1
		case e.Start > o:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return 0, false
	}
	return es[i].Epoch, true
}

// knownEpochs returns the log's epochs. The slice may grow behind, and is not changed.
func (l *Log) knownEpochs() []Epoch {
	l.epochMu.Lock()
	defer l.epochMu.Unlock()
	return l.epochs
}
