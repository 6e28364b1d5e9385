package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/outrelay/outrelay/internal/vfs"
)

// scanWindowBytes is read at a time; a larger batch widens the window.
const scanWindowBytes = 1 << 20

// window reads a file from front to back and keeps the bytes from its start on.
type window struct {
	f    vfs.File
	size int64
	at   int64 // file offset of buf[0]
	buf  []byte
}

// bytes returns [off, off+n) of the file, valid until the next call; nil when the file is shorter. off must not be below the window's start.
func (w *window) bytes(off, n int64) ([]byte, error) {
	if n > w.size-off {
		return nil, nil
	}
	if have := w.at + int64(len(w.buf)); off+n > have {
		to := min(max(off+n, have+scanWindowBytes), w.size)
		old := len(w.buf)
		w.buf = slices.Grow(w.buf, int(to-have))[:old+int(to-have)]
		if got, err := w.f.ReadAt(w.buf[old:], have); err != nil && !(errors.Is(err, io.EOF) && got == len(w.buf)-old) {
			w.buf = w.buf[:old]
			return nil, err
		}
	}
	return w.buf[off-w.at : off-w.at+n], nil
}

// advance moves the window's start. It copies only when that at least halves it.
func (w *window) advance(off int64) {
	if gone := off - w.at; gone >= scanWindowBytes/2 {
		w.buf = w.buf[:copy(w.buf, w.buf[min(gone, int64(len(w.buf))):])]
		w.at = off
	}
}

// scanner reads a file's batches.
type scanner struct {
	file   *file
	win    window
	limit  uint64  // LSN at which the next file begins; 0 when there is none
	places []int64 // of the records of the batch being read
}

// end of a scan: the last good batch ends at tail. bad is where reading stopped (the first record that is not good, at tail or
// behind), and cause why.
type scanEnd struct {
	tail, bad int64
	cause     string
}

// run calls batch for each good batch, in order, with the places of its records.
func (s *scanner) run(batch func(places []int64) error) (scanEnd, error) {
	start := int64(fileHeader)
	for s.limit == 0 || s.file.base+uint64(start) < s.limit {
		end, bad, err := s.batch(start)
		if err != nil {
			return scanEnd{}, err
		}
		if bad != "" {
			return scanEnd{tail: start, bad: end, cause: bad}, nil
		}
		if err := batch(s.places); err != nil {
			return scanEnd{}, err
		}
		start = end
		s.win.advance(start)
	}
	return scanEnd{tail: start, bad: start, cause: "the next file begins"}, nil
}

// batch reads the batch that begins at start and returns where it ends, or where and why it is bad.
func (s *scanner) batch(start int64) (end int64, bad string, err error) {
	s.places = s.places[:0]
	for at := start; ; {
		head, err := s.win.bytes(at, recordHeader)
		if err != nil {
			return 0, "", err
		}
		if head == nil {
			return at, "the file ends", nil
		}
		n := payloadLen(head)
		if kindOf(head) == 0 {
			return at, "no record", nil
		}
		whole, err := s.win.bytes(at, recordHeader+n)
		if err != nil {
			return 0, "", err
		}
		if whole == nil {
			return at, fmt.Sprintf("record of %d bytes reaches beyond the file's end", n), nil
		}
		if !crcGood(whole, whole[recordHeader:], s.file.seed, s.file.base+uint64(at)) {
			return at, "record CRC", nil
		}
		if !knownRecord(whole) {
			return 0, "", fmt.Errorf("%s at byte %d: record kind %d, flags %#x: %w", s.file.name, at, kindOf(whole), whole[33], ErrVersion)
		}
		if kindOf(whole) == kindTrailer {
			if !s.ends(parseRecord(whole, nil), start, at) {
				return at, "the trailer is not of this batch", nil
			}
			return at + trailerBytes, "", nil
		}
		s.places = append(s.places, at)
		at += aligned(recordHeader + n)
	}
}

// ends reports whether the trailer at the given place ends the batch from start.
func (s *scanner) ends(t Record, start, at int64) bool {
	return t.Index == s.file.base+uint64(at) && t.Term == s.file.base+uint64(start) && t.Group == uint64(len(s.places))
}

// proof looks behind a bad byte for a trailer that says that the byte was durable: its batch began behind it, and no batch is written before the one before it is
// durable. It returns the trailer's place, or 0.
func (s *scanner) proof(bad int64) (int64, error) {
	le := binary.LittleEndian
	s.win.buf, s.win.at = s.win.buf[:0], bad
	for at := aligned(bad + 1); ; at += alignment {
		head, err := s.win.bytes(at, recordHeader)
		if head == nil || err != nil {
			return 0, err
		}
		lsn := s.file.base + uint64(at)
		if kindOf(head) == kindTrailer && le.Uint64(head[16:]) == lsn && payloadLen(head) == 0 &&
			le.Uint64(head[24:]) > s.file.base+uint64(bad) && crcGood(head, nil, s.file.seed, lsn) {
			return at, nil
		}
		s.win.advance(at)
	}
}
