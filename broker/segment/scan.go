package segment

import (
	"fmt"
	"io"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// scanner walks the batches of a log file through a window of memory. For one goroutine.
type scanner struct {
	f     vfs.File
	name  string
	pos   int64 // of the next batch
	end   int64 // bytes of the file that count
	next  int64 // no batch may have a smaller base offset
	limit int64 // nor reach this one
	cur   int64 // the smallest offset that the batch met last can have had

	window []byte // holds the file from at on
	at     int64
}

func newScanner(f vfs.File, pos, end, next, limit int64) *scanner {
	return &scanner{f: f, name: f.Name(), pos: pos, end: end, next: next, limit: limit, cur: next}
}

func (s *scanner) corrupt(pos int64, format string, args ...any) error {
	return &CorruptError{File: s.name, Byte: pos, Offset: s.cur, Cause: fmt.Sprintf(format, args...)}
}

// bytes returns n bytes of the file at pos, valid until the next call. [pos, pos+n) lies below end.
func (s *scanner) bytes(pos, n int64) ([]byte, error) {
	if pos < s.at || pos+n > s.at+int64(len(s.window)) {
		want := min(max(n, scanWindowBytes), s.end-pos)
		if int64(cap(s.window)) < want {
			s.window = make([]byte, want)
		}
		s.window, s.at = s.window[:want], pos
		if got, err := s.f.ReadAt(s.window, pos); int64(got) < n {
			s.window = s.window[:0]
			if err == nil || err == io.EOF {
				return nil, s.corrupt(pos, "the file ends, %d bytes are missing", n-int64(got))
			}
			return nil, fmt.Errorf("segment %s at byte %d: %w", s.name, pos, err)
		} else {
			s.window = s.window[:got]
		}
	}
	return s.window[pos-s.at : pos-s.at+n], nil
}

// header returns the next batch's header and place, and moves behind the batch. ok is false at the end. The header is valid
// until the next call of header or body.
func (s *scanner) header() (h record.Batch, pos int64, ok bool, err error) {
	if s.pos >= s.end {
		return nil, s.pos, false, nil
	}
	pos, s.cur = s.pos, s.next
	if s.end-pos < record.HeaderBytes {
		return nil, pos, false, s.corrupt(pos, "%d bytes, fewer than a batch has", s.end-pos)
	}
	p, err := s.bytes(pos, record.HeaderBytes)
	if err != nil {
		return nil, pos, false, err
	}
	size, err := record.Frame(p)
	if err != nil {
		return nil, pos, false, s.corrupt(pos, "%v", err)
	}
	h = record.Batch(p)
	if pos+size > s.end || h.BaseOffset() < s.next || h.LastOffset() < h.BaseOffset() || h.LastOffset() >= s.limit {
		return nil, pos, false, s.corrupt(pos, "batch of %d bytes with offsets %d to %d, where %d bytes and the offsets [%d, %d) are left",
			size, h.BaseOffset(), h.LastOffset(), s.end-pos, s.next, s.limit)
	}
	s.pos, s.next = pos+size, h.LastOffset()+1
	return h, pos, true, nil
}

// body returns the whole batch at pos, whose header says size, with its CRC checked. It is valid until the next call of header or body.
func (s *scanner) body(pos, size int64) (record.Batch, error) {
	p, err := s.bytes(pos, size)
	if err != nil {
		return nil, err
	}
	if err := record.CheckCRC(p); err != nil {
		return nil, s.corrupt(pos, "%v", err)
	}
	return p, nil
}
