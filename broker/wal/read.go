package wal

import (
	"errors"
	"fmt"
	"io"
)

// probeBytes is read at first: header and payload of most records in one call.
const probeBytes = 4096

// Read returns the record at p, which Append or the replay of Open gave. The payload is the caller's. It reads the file (in the page cache, as a rule) and checks the
// CRC. It may be called concurrently with everything, and takes no lock.
//
// Errors: ErrNotFound when p is recycled, not durable yet or no record's place; ErrCorrupt; ErrPoisoned; ErrClosed; or the disk's.
func (w *WAL) Read(p Pos) (Record, error) {
	if err := w.usable(); err != nil {
		return Record{}, err
	}
	f := w.find(p.File)
	if f == nil || !f.hold() {
		return Record{}, fmt.Errorf("file %d in %s: %w", p.File, w.dir, ErrNotFound)
	}
	defer w.release(f)
	rec, err := f.read(p.Offset)
	if err != nil && w.stopped.Load() {
		return Record{}, w.usable() // Close took the file from under us
	}
	return rec, err
}

func (w *WAL) find(seq uint64) *file {
	files := *w.files.Load()
	if first := files[0].seq; seq < first || seq-first >= uint64(len(files)) {
		return nil
	}
	return files[seq-files[0].seq]
}

func (f *file) read(at int64) (Record, error) {
	end := f.durable.Load()
	if at < fileHeader || at%alignment != 0 || at > end-recordHeader {
		return Record{}, fmt.Errorf("%s at byte %d: %w", f.name, at, ErrNotFound)
	}
	probe := make([]byte, min(probeBytes, end-at))
	if _, err := f.f.ReadAt(probe, at); err != nil && !errors.Is(err, io.EOF) {
		return Record{}, fmt.Errorf("%s at byte %d: %w", f.name, at, err)
	}
	n := payloadLen(probe)
	if n > end-at-recordHeader {
		return Record{}, &CorruptError{File: f.name, Offset: at, Cause: fmt.Sprintf("payload of %d bytes reaches beyond the last batch", n)}
	}
	payload := probe[recordHeader:]
	if n <= int64(len(payload)) {
		payload = payload[:n:n]
	} else {
		whole := make([]byte, n)
		got := copy(whole, payload)
		if _, err := f.f.ReadAt(whole[got:], at+probeBytes); err != nil && !errors.Is(err, io.EOF) {
			return Record{}, fmt.Errorf("%s at byte %d: %w", f.name, at, err)
		}
		payload = whole
	}
	if !crcGood(probe, payload, f.seed, f.base+uint64(at)) {
		return Record{}, &CorruptError{File: f.name, Offset: at, Cause: "record CRC"}
	}
	if !knownRecord(probe) || kindOf(probe) >= KindReserved {
		return Record{}, fmt.Errorf("%s at byte %d: kind %d: %w", f.name, at, kindOf(probe), ErrNotFound)
	}
	return parseRecord(probe, payload), nil
}
