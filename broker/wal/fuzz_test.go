package wal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// known fails for an error of no class: a caller could not decide what to do.
func known(t *testing.T, err error) {
	for _, class := range []error{nil, wal.ErrCorrupt, wal.ErrVersion, wal.ErrNotFound} {
		if errors.Is(err, class) {
			return
		}
	}
	t.Fatalf("error without a class: %v", err)
}

// seeds are what stands behind the file header of a log that was closed, of one that was cut off, and pieces of them.
func seeds(f *testing.F) (header []byte, bodies [][]byte) {
	closed, cut := write(f, 6, 30, true), write(f, 6, 30, false)
	one, two := closed.files[logName(1)][:closed.tail.Offset], cut.files[logName(1)][:cut.tail.Offset]
	return one[:4096], [][]byte{one[4096:], two[4096:], two[4096 : len(two)-7], append(two[4096:len(two):len(two)], make([]byte, 64)...), nil}
}

// FuzzOpen opens any bytes as the newest file, behind a good header of which head replaces the beginning: no panic, an error of a known
// class, and what opens once opens again with the same records. Inputs are small, for Go's minimizer takes its time: -fuzzminimizetime=1x helps.
func FuzzOpen(f *testing.F) {
	header, bodies := seeds(f)
	for _, b := range bodies {
		f.Add([]byte(nil), b)
	}
	f.Add(header[:40], bodies[0])
	f.Add([]byte("OUTRLWAL\x02"), bodies[0])
	f.Fuzz(func(t *testing.T, head, body []byte) {
		b := append(bytes.Clone(header), body...)
		copy(b, head)
		m := vfs.NewMem()
		must(t, m.MkdirAll("wal"))
		file, err := m.Create("wal/" + logName(1))
		must(t, err)
		_, err = file.WriteAt(b, 0)
		must(t, err)
		var first replayed
		w, err := wal.Open(m, "wal", small(), first.add)
		known(t, err)
		if err != nil {
			return
		}
		_, err = w.Append(rec(1, 100))
		must(t, err)
		must(t, w.Close())
		_, again := open(t, m, small())
		sameAll(t, again.recs, append(first.recs, rec(1, 100)))
	})
}

// FuzzReadRecord puts any bytes under an open log and reads at any place: no panic, no allocation beyond the file, an error of a known class.
func FuzzReadRecord(f *testing.F) {
	_, bodies := seeds(f)
	for _, b := range bodies {
		for _, at := range []int64{4096, 4096 + 40, 0, -1, 1 << 40} {
			f.Add(b, at)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		m := vfs.NewMem()
		w, _ := open(t, m, small())
		_, err := w.Append(rec(1, 4000), rec(2, 10))
		must(t, err)
		must(t, w.Sync())
		file, err := m.OpenRW("wal/" + logName(1))
		must(t, err)
		_, err = file.WriteAt(b, 4096)
		must(t, err)
		r, err := w.Read(wal.Pos{File: 1, Offset: at})
		known(t, err)
		if err == nil && (at < 4096 || len(r.Payload) > 16<<10) {
			t.Fatalf("Read(%d): %d bytes", at, len(r.Payload))
		}
	})
}
