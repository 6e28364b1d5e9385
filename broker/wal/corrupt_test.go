package wal_test

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// written is a log on disk, and what is in it.
type written struct {
	files map[string][]byte
	recs  []wal.Record
	pos   []wal.Pos
	syncs []int // numbers of records at which a sync ended
	tail  wal.Pos
}

// write makes a log of n records, two to a sync. Closed in order, its last batch is attested.
func write(t testing.TB, n, payloadBytes int, closed bool) *written {
	t.Helper()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	l := &written{}
	for i := range n {
		r := rec(i, payloadBytes)
		p, err := w.Append(r)
		must(t, err)
		l.recs, l.pos = append(l.recs, r), append(l.pos, p...)
		if i%2 == 1 {
			must(t, w.Sync())
			l.syncs = append(l.syncs, i+1)
		}
	}
	if closed {
		must(t, w.Close())
	}
	l.tail = w.Tail()
	l.files = map[string][]byte{}
	infos, err := m.List("wal")
	must(t, err)
	for _, i := range infos {
		l.files[i.Name] = readAll(t, m, path.Join("wal", i.Name))
	}
	return l
}

func readAll(t testing.TB, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// open puts the log on a new disk, with one file changed (or left out, when change returns nil), and opens it.
func (l *written) open(t testing.TB, file string, change func([]byte) []byte) (replayed, error) {
	t.Helper()
	m := vfs.NewMem()
	must(t, m.MkdirAll("wal"))
	for name, b := range l.files {
		if name == file {
			if b = change(append([]byte(nil), b...)); b == nil {
				continue
			}
		}
		f, err := m.Create(path.Join("wal", name))
		must(t, err)
		_, err = f.WriteAt(b, 0)
		must(t, err)
		must(t, f.Sync())
	}
	must(t, m.SyncDir("wal"))
	var r replayed
	w, err := wal.Open(m, "wal", small(), r.add)
	if err == nil {
		must(t, w.Close())
	}
	return r, err
}

func logName(seq uint64) string { return fmt.Sprintf("%020d.wal", seq) }

// corruptAt checks that err names file and byte.
func corruptAt(t testing.TB, err error, file string, at int64) {
	t.Helper()
	var c *wal.CorruptError
	if !errors.Is(err, wal.ErrCorrupt) || !errors.As(err, &c) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	if c.File != "wal/"+file || c.Offset != at || !strings.Contains(err.Error(), fmt.Sprintf("%s at byte %d: ", file, at)) {
		t.Fatalf("%v; want %s at byte %d", err, file, at)
	}
}

// recordAt returns the record (or else the trailer after record n-1) that holds byte at, and where it begins.
func (l *written) recordAt(at int64, payloadBytes int) (n int, start int64, inRecord bool) {
	for i, p := range l.pos {
		if at >= p.Offset && at < p.Offset+40+int64(payloadBytes) {
			return i, p.Offset, true
		}
	}
	return 0, 0, false
}

// TestOpen_FlippedByte flips each byte of a log that was closed in order: whatever it hits is named, or does no harm.
func TestOpen_FlippedByte(t *testing.T) {
	t.Parallel()
	const payloadBytes = 20 // and 4 of padding
	l := write(t, 12, payloadBytes, true)
	name := logName(1)
	for at := int64(0); at < l.tail.Offset; at++ {
		if at >= 128 && at < 4000 {
			at = 4000 // the reserved part of the header is much alike
		}
		r, err := l.open(t, name, func(b []byte) []byte { b[at] ^= 0x10; return b })
		_, start, inRecord := l.recordAt(at, payloadBytes)
		switch {
		case at < 4096:
			if !errors.Is(err, wal.ErrVersion) {
				corruptAt(t, err, name, 0)
			}
		case inRecord:
			corruptAt(t, err, name, start)
		case err == nil: // padding, or the last trailers, which attest nothing that is not attested twice
			sameAll(t, r.recs, l.recs)
		default:
			corruptAt(t, err, name, at-(at-l.pos[1].Offset-64)%168) // the trailer of a batch of 64 + 64 + 40 bytes
		}
	}
}

// TestOpen_FlippedByteInTheLastBatch: after a power cut a damaged last batch cannot be told from a torn one. Nothing else may go with it.
func TestOpen_FlippedByteInTheLastBatch(t *testing.T) {
	t.Parallel()
	l := write(t, 12, 20, false)
	for at := l.pos[10].Offset; at < l.tail.Offset; at++ {
		r, err := l.open(t, logName(1), func(b []byte) []byte { b[at] ^= 0x10; return b })
		must(t, err)
		if len(r.recs) == 12 {
			continue // padding
		}
		sameAll(t, r.recs, l.recs[:10])
	}
}

// TestOpen_ShortenedFile: the newest file may end anywhere, as after a copy of a live directory; whole batches are left. An older one may not.
func TestOpen_ShortenedFile(t *testing.T) {
	t.Parallel()
	l := write(t, 12, 20, false)
	for size := int64(0); size <= l.tail.Offset; size += 3 {
		r, err := l.open(t, logName(1), func(b []byte) []byte { return b[:size] })
		if size < 4096 {
			corruptAt(t, err, logName(1), 0)
			continue
		}
		must(t, err)
		whole := 0
		for _, n := range l.syncs {
			if l.pos[n-1].Offset+64+40 <= size {
				whole = n
			}
		}
		sameAll(t, r.recs, l.recs[:whole])
	}
}

func TestOpen_FilesGoneOrMixed(t *testing.T) {
	t.Parallel()
	l := write(t, 60, 1000, false)
	if l.tail.File < 4 {
		t.Fatalf("the log ends in file %d, the test wants four", l.tail.File)
	}
	none := func([]byte) []byte { return nil }
	firstOf := func(seq uint64) int {
		for i, p := range l.pos {
			if p.File == seq {
				return i
			}
		}
		return len(l.pos)
	}
	t.Run("first file gone, as recycled", func(t *testing.T) {
		t.Parallel()
		r, err := l.open(t, logName(1), none)
		must(t, err)
		sameAll(t, r.recs, l.recs[firstOf(2):])
	})
	t.Run("middle file gone", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(2), none)
		corruptAt(t, err, logName(2), 0)
	})
	t.Run("older file shortened", func(t *testing.T) {
		t.Parallel()
		last := l.pos[firstOf(3)-1].Offset
		_, err := l.open(t, logName(2), func(b []byte) []byte { return b[:last+100] })
		corruptAt(t, err, logName(2), last)
	})
	t.Run("older file zeroed from a sector on", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(2), func(b []byte) []byte { clear(b[4608:]); return b })
		corruptAt(t, err, logName(2), 4096)
	})
	t.Run("a sector of an old batch zeroed in the last file", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(l.tail.File), func(b []byte) []byte { clear(b[4096:4608]); return b })
		corruptAt(t, err, logName(l.tail.File), 4096)
	})
	t.Run("a file under another name", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(2), func([]byte) []byte { return l.files[logName(3)] })
		corruptAt(t, err, logName(2), 0)
	})
	t.Run("another kind of file", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(2), func(b []byte) []byte { copy(b, "\x7fELF"); return b })
		corruptAt(t, err, logName(2), 0)
	})
	t.Run("newer version", func(t *testing.T) {
		t.Parallel()
		_, err := l.open(t, logName(2), func(b []byte) []byte { b[8] = 2; return b })
		if !errors.Is(err, wal.ErrVersion) || !strings.Contains(err.Error(), "version 2, this build reads up to 1") {
			t.Fatalf("Open: %v", err)
		}
	})
	t.Run("corruption changes nothing on disk", func(t *testing.T) {
		t.Parallel()
		bad := func(b []byte) []byte { b[5000] ^= 1; return b }
		_, one := l.open(t, logName(2), bad)
		_, two := l.open(t, logName(2), bad)
		if one == nil || one.Error() != two.Error() {
			t.Fatalf("Open twice: %v, then %v", one, two)
		}
	})
}

func TestWAL_ReadOfADamagedRecord(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	at, err := w.Append(rec(1, 6000))
	must(t, err)
	must(t, w.Sync())
	f, err := m.OpenRW("wal/" + logName(1))
	must(t, err)
	for _, off := range []int64{7, 20, 100, 6000} { // a huge length, a field, the payload's begin and end
		was := make([]byte, 1)
		_, err = f.ReadAt(was, at[0].Offset+off)
		must(t, err)
		_, err = f.WriteAt([]byte{was[0] ^ 0x40}, at[0].Offset+off)
		must(t, err)
		_, err = w.Read(at[0])
		corruptAt(t, err, logName(1), at[0].Offset)
		_, err = f.WriteAt(was, at[0].Offset+off)
		must(t, err)
	}
	_, err = w.Read(at[0])
	must(t, err)
}

// TestWAL_Faults makes each call to the disk fail in turn: the log fails at once and for good, and what was durable is there at the next start.
func TestWAL_Faults(t *testing.T) {
	t.Parallel()
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpCreate, vfs.OpOpen, vfs.OpRename, vfs.OpRemove} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			t.Run(fmt.Sprintf("%s %v", op, cause), func(t *testing.T) {
				t.Parallel()
				for nth := 1; faultAt(t, op, nth, cause); nth++ {
				}
			})
		}
	}
}

// faultAt returns false when the work was done before the nth call.
func faultAt(t *testing.T, op vfs.Op, nth int, cause error) bool {
	m := vfs.NewMem()
	w, _ := open(t, m, small())
	m.Fail(op, nth, cause)
	durable := uint64(0)
	for i := range 60 {
		r := rec(i, 2000)
		err := try(w, r)
		if err == nil {
			durable++
			continue
		}
		if !errors.Is(err, wal.ErrPoisoned) || !errors.Is(err, cause) {
			t.Fatalf("%s %d: %v, want ErrPoisoned and %v", op, nth, err, cause)
		}
		_, errAppend := w.Append(r)
		_, errRead := w.Read(wal.Pos{File: 1, Offset: 4096})
		for name, err := range map[string]error{"append": errAppend, "read": errRead, "sync": w.Sync(), "recycle": w.Recycle(1), "close": w.Close()} {
			if !errors.Is(err, wal.ErrPoisoned) {
				t.Fatalf("%s %d: %s afterwards: %v", op, nth, name, err)
			}
		}
		m.ClearFaults()
		for range 5 {
			_, got := open(t, m.CrashClone(seeded(uint64(nth))), small())
			// Recycled records are gone from the front; what failed may be there at the end.
			next := uint64(0)
			if n := len(got.recs); n > 0 {
				next = got.recs[n-1].Index + 1
			}
			if next < durable {
				t.Fatalf("%s %d: records up to %d after the restart, %d were durable", op, nth, next, durable)
			}
		}
		return true
	}
	m.ClearFaults()
	must(t, w.Close())
	return false
}

// try appends and syncs a record, and keeps two files.
func try(w *wal.WAL, r wal.Record) error {
	if _, err := w.Append(r); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if f := w.Files(); len(f) > 2 {
		return w.Recycle(f[len(f)-2])
	}
	return nil
}
