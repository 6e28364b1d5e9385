package vfs

import (
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"syscall"
)

// memFile is an open file of a Mem.
type memFile struct {
	m      *Mem
	n      *node
	name   string
	rw     bool
	closed atomic.Bool
}

var _ File = (*memFile)(nil)

// Name returns the name the file was opened with.
func (f *memFile) Name() string { return f.name }

func (f *memFile) check(op string, writes bool) error {
	if f.closed.Load() {
		return pathError(op, f.name, fs.ErrClosed)
	}
	if writes && !f.rw {
		return pathError(op, f.name, syscall.EBADF)
	}
	return nil
}

// ReadAt reads as io.ReaderAt says.
func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, syscall.EINVAL)
	}
	f.m.mu.Lock() // not RLock: a fault that is waited for is counted
	defer f.m.mu.Unlock()
	if err := f.m.hit(OpRead); err != nil {
		return 0, pathError("read", f.name, err)
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes p at off, and zeros between the old end and off. When it is made to fail, the first half of p is written all the same, as a
// disk that runs full does.
func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("write", f.name, syscall.EINVAL)
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.m.hit(OpWrite)
	if err == nil && f.m.full(off+int64(len(p))-int64(len(f.n.data))) {
		err = syscall.ENOSPC
	}
	n := len(p)
	if err != nil {
		n /= 2
	}
	if n > 0 {
		f.n.mod = f.m.now()
		f.n.apply(write{off: off, data: append([]byte(nil), p[:n]...)})
	}
	if err != nil {
		return n, pathError("write", f.name, err)
	}
	return n, nil
}

// WriteVAt is one WriteAt, for faults and power cuts too.
func (f *memFile) WriteVAt(bufs [][]byte, off int64) (int, error) {
	return f.WriteAt(slices.Concat(bufs...), off)
}

// Reserve does nothing: memory needs no room ahead.
func (f *memFile) Reserve(int64) {}

// Truncate changes the file's size.
func (f *memFile) Truncate(size int64) error {
	if err := f.check("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return pathError("truncate", f.name, syscall.EINVAL)
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.hit(OpTruncate); err != nil {
		return pathError("truncate", f.name, err)
	}
	if f.m.full(size - int64(len(f.n.data))) {
		return pathError("truncate", f.name, syscall.ENOSPC)
	}
	f.n.mod = f.m.now()
	f.n.apply(write{off: size, truncate: true})
	return nil
}

// Allocate makes the file larger.
func (f *memFile) Allocate(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	return f.Truncate(size)
}

// Size returns the file's size.
func (f *memFile) Size() (int64, error) {
	if err := f.check("size", false); err != nil {
		return 0, err
	}
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	return int64(len(f.n.data)), nil
}

// Sync makes the file durable. When it is made to fail, what was written since the last good sync is never made
// durable by a later one: a crash keeps any share of it. That is how Linux behaves.
func (f *memFile) Sync() error {
	if err := f.check("sync", false); err != nil {
		return err
	}
	f.m.callOnSync()
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.hit(OpSync); err != nil {
		f.n.lost = append(f.n.lost, f.n.writes...)
		f.n.writes = nil
		return pathError("sync", f.name, err)
	}
	for _, w := range f.n.writes {
		f.n.disk = w.apply(f.n.disk)
	}
	f.n.writes = nil
	return nil
}

// Close closes the file; it syncs nothing.
func (f *memFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	return nil
}

// write is one change of a file's bytes or size.
type write struct {
	off      int64 // with truncate, the new size
	data     []byte
	truncate bool
}

func (n *node) apply(w write) {
	n.data = w.apply(n.data)
	n.writes = append(n.writes, w)
}

// apply returns b after the write. It reuses b's memory.
func (w write) apply(b []byte) []byte {
	if w.truncate {
		return resize(b, w.off)
	}
	if end := w.off + int64(len(w.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[w.off:], w.data)
	return b
}

// resize returns b with the given length; new bytes are zero, also where b's memory held something once.
func resize(b []byte, size int64) []byte {
	old := int64(len(b))
	if size <= old {
		return b[:size]
	}
	if size > int64(cap(b)) {
		grown := make([]byte, size, max(size, 2*old))
		copy(grown, b)
		return grown
	}
	b = b[:size]
	clear(b[old:])
	return b
}
