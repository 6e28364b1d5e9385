package wal

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/outrelay/outrelay/internal/vfs"
)

// spareRoom is how many times the size of a file has to be free before one is made ahead of need.
const spareRoom = 3

// file is a file of the log. Readers hold it by a count, so that using it again never pulls it from under them.
type file struct {
	header
	seed    uint32
	name    string
	f       vfs.File
	written int64        // bytes that have been written once, with zeros at least; owned by whoever holds WAL.sync
	durable atomic.Int64 // end of the last batch that was synced; readers stay below
	refs    atomic.Int64 // one for standing in namesState.files, one for each reader
}

// hold adds a reader; false when the file is already gone.
func (f *file) hold() bool {
	for {
		n := f.refs.Load()
		if n == 0 {
			return false
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// namesState is which files there are.
type namesState struct {
	names   sync.Mutex              // held while files come and go, also while the disk works
	files   atomic.Pointer[[]*file] // ascending, without gaps; a changed copy takes its place, so readers need no lock
	dropped []*file                 // guarded by names; ascending; no longer in files, but not yet given up
	spares  []string                // guarded by names; full names of files to use next
	spareNo uint64                  // guarded by names; the next spare's number

	preparing     vfs.File // guarded by names; a spare that is being written with zeros
	preparingName string   // guarded by names
	preparedAt    int64    // guarded by names; how far
	prepareFailed uint64   // guarded by names; the active file when preparing failed, so that it is tried once per file
}

// Files returns the sequence numbers of the files, ascending; the last one is being written.
func (w *WAL) Files() []uint64 {
	files := *w.files.Load()
	seqs := make([]uint64, len(files))
	for i, f := range files {
		seqs[i] = f.seq
	}
	return seqs
}

// activate makes the next file of the log: a spare where there is one, else a small new one that grows. Its header is durable before it has its name, and its name
// before it returns. w.sync is held.
func (w *WAL) activate(h header) (*file, error) {
	w.names.Lock()
	defer w.names.Unlock()
	spare, f, err := w.takeSpare(h.capacity)
	if err != nil {
		return nil, err
	}
	next := &file{header: h, seed: h.identity.seed(), name: path.Join(w.dir, fileName(h.seq)), f: f}
	if err := w.startFile(next, spare); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	next.refs.Store(1)
	files := append(slices.Clone(*w.files.Load()), next)
	w.files.Store(&files)
	return next, nil
}

// takeSpare returns an open file to use for the next one.
func (w *WAL) takeSpare(capacity int64) (string, vfs.File, error) {
	if n := len(w.spares); n > 0 && capacity == w.o.FileBytes {
		name := w.spares[n-1]
		w.spares = w.spares[:n-1]
		f, err := w.fs.OpenRW(name)
		return name, f, err
	}
	name := w.newSpareName()
	f, err := w.fs.Create(name)
	return name, f, err
}

func (w *WAL) newSpareName() string {
	w.spareNo++
	return path.Join(w.dir, spareName(w.spareNo-1))
}

func (w *WAL) startFile(f *file, spare string) error {
	size, err := f.f.Size()
	if err != nil {
		return err
	}
	if _, err := f.f.WriteAt(f.header.encode(), 0); err != nil {
		return err
	}
	if size < fileHeader {
		size = min(f.capacity, fileHeader+w.o.ZeroStepBytes)
		if _, err := f.f.WriteAt(w.zeros[:size-fileHeader], fileHeader); err != nil {
			return err
		}
	}
	if err := f.f.Sync(); err != nil {
		return err
	}
	f.written = size
	f.durable.Store(fileHeader)
	if err := w.fs.Rename(spare, f.name); err != nil {
		return err
	}
	return w.fs.SyncDir(w.dir)
}

// Recycle gives up the files with seq < before, of which the caller needs no record any more: [WAL.Read] no longer finds them, and they are used again. The file in use
// stays. A crash may bring some of them back, the newest first: the next Open replays them again. It blocks on the disk, but holds up neither Append nor, in the main, Sync.
//
// An error wraps ErrPoisoned or ErrClosed.
func (w *WAL) Recycle(before uint64) error {
	w.names.Lock()
	defer w.names.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	files := *w.files.Load()
	n := 0
	for n < len(files)-1 && files[n].seq < before {
		n++
	}
	if n == 0 {
		return w.reap()
	}
	kept := slices.Clone(files[n:])
	w.files.Store(&kept)
	for _, f := range files[:n] {
		w.dropped = append(w.dropped, f)
		f.refs.Add(-1)
	}
	return w.reap()
}

// reap turns dropped files that nobody reads into spares, in ascending order and each durably before the next: a crash must not leave a gap, which would look
// like a file that was lost. w.names is held.
func (w *WAL) reap() error {
	for len(w.dropped) > 0 && w.dropped[0].refs.Load() == 0 {
		f := w.dropped[0]
		if err := w.retire(f); err != nil {
			return w.poison(err)
		}
		w.dropped[0] = nil
		w.dropped = w.dropped[1:]
	}
	return nil
}

func (w *WAL) retire(f *file) error {
	if err := f.f.Close(); err != nil {
		return err
	}
	if f.capacity != w.o.FileBytes || len(w.spares) >= max(0, w.o.SpareFiles) {
		if err := w.fs.Remove(f.name); err != nil {
			return err
		}
		return w.fs.SyncDir(w.dir)
	}
	spare := w.newSpareName()
	if err := w.fs.Rename(f.name, spare); err != nil {
		return err
	}
	// Before a new header is written into it: else a crash could bring back the old name with the new header.
	if err := w.fs.SyncDir(w.dir); err != nil {
		return err
	}
	w.spares = append(w.spares, spare)
	return nil
}

// release ends a reader's hold. The last reader of a dropped file gives it up.
func (w *WAL) release(f *file) {
	if f.refs.Add(-1) > 0 {
		return
	}
	w.names.Lock()
	defer w.names.Unlock()
	if w.stopped.Load() {
		return
	}
	if err := w.reap(); err != nil {
		w.o.Logger.Error("write-ahead log: recycling a file", "err", err) // the next call returns it
	}
}

// SpareWanted reports whether [WAL.Prepare] has something to do: the file in use is half full and no spare is ready.
func (w *WAL) SpareWanted() bool {
	w.mu.Lock()
	half := w.tail.at > w.o.FileBytes/2
	broken := w.broken != nil
	w.mu.Unlock()
	if !half || broken || w.o.SpareFiles < 0 || !w.names.TryLock() {
		return false
	}
	defer w.names.Unlock()
	return w.spareWanted()
}

func (w *WAL) spareWanted() bool {
	files := *w.files.Load()
	return len(w.spares) == 0 && (w.prepareFailed == 0 || w.prepareFailed != files[len(files)-1].seq)
}

// Prepare does one step of making a spare file ahead of need: it writes Options.ZeroStepBytes of zeros and syncs them. It returns whether there is more to do. It may run beside
// Append and Sync. An error is no failure of the log: without a spare the next file grows as it is written. It is tried again with the next file.
func (w *WAL) Prepare() (more bool, err error) {
	w.names.Lock()
	defer w.names.Unlock()
	if err := w.usable(); err != nil {
		return false, err
	}
	if !w.spareWanted() {
		return false, w.abandonSpare()
	}
	if err := w.prepareStep(); err != nil {
		files := *w.files.Load()
		w.prepareFailed = files[len(files)-1].seq
		// A file whose sync failed is never used.
		return false, errors.Join(fmt.Errorf("preparing the next file in %s: %w", w.dir, err), w.abandonSpare())
	}
	return w.preparing != nil, nil
}

func (w *WAL) prepareStep() error {
	if w.preparing == nil {
		// A spare saves time, and is not worth the last room of a disk.
		if free, _, err := w.fs.Space(w.dir); err == nil && free < spareRoom*w.o.FileBytes {
			return fmt.Errorf("%d MB are free: %w", free>>20, syscall.ENOSPC)
		}
		w.preparingName = w.newSpareName()
		f, err := w.fs.Create(w.preparingName)
		if err != nil {
			return err
		}
		w.preparing, w.preparedAt = f, 0
	}
	step := min(int64(len(w.zeros)), w.o.FileBytes-w.preparedAt)
	if _, err := w.preparing.WriteAt(w.zeros[:step], w.preparedAt); err != nil {
		return err
	}
	if err := w.preparing.Sync(); err != nil {
		return err
	}
	if w.preparedAt += step; w.preparedAt < w.o.FileBytes {
		return nil
	}
	f := w.preparing
	w.preparing = nil
	if err := f.Close(); err != nil {
		return err
	}
	w.spares = append(w.spares, w.preparingName)
	return nil
}

// abandonSpare drops the spare that is being prepared. w.names is held.
func (w *WAL) abandonSpare() error {
	if w.preparing == nil {
		return nil
	}
	f := w.preparing
	w.preparing = nil
	return errors.Join(f.Close(), w.fs.Remove(w.preparingName))
}

// closeFiles closes all files. w.sync is held.
func (w *WAL) closeFiles() error {
	w.names.Lock()
	defer w.names.Unlock()
	errs := []error{w.abandonSpare()}
	for _, f := range append(w.dropped, *w.files.Load()...) {
		errs = append(errs, f.f.Close())
	}
	w.dropped = nil
	return errors.Join(errs...)
}

// usable returns why the log cannot be used; nil when it can.
func (w *WAL) usable() error {
	if !w.stopped.Load() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}
