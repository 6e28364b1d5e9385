package wal_test

import (
	"errors"

	"github.com/outrelay/outrelay/internal/vfs"
)

var errKilled = errors.New("killed")

// killer is the file system as a process sees it that is killed after left more calls that change something. What it did stays where it is, durable
// or not. Asking, it is one that reads and goes away without a trace.
type killer struct {
	vfs.FS
	left   int
	asking bool
}

func (k *killer) gone() bool {
	k.left--
	return k.left < 0
}

func (k *killer) Create(name string) (vfs.File, error) {
	if k.gone() {
		return nil, errKilled
	}
	return k.file(k.FS.Create(name))
}

func (k *killer) OpenRW(name string) (vfs.File, error) { return k.file(k.FS.OpenRW(name)) }

func (k *killer) file(f vfs.File, err error) (vfs.File, error) { return &killedFile{f, k}, err }

func (k *killer) Rename(from, to string) error {
	if k.gone() {
		return errKilled
	}
	return k.FS.Rename(from, to)
}

func (k *killer) SyncDir(dir string) error {
	if k.asking {
		return nil
	}
	if k.gone() {
		return errKilled
	}
	return k.FS.SyncDir(dir)
}

type killedFile struct {
	vfs.File
	k *killer
}

func (f *killedFile) WriteAt(p []byte, off int64) (int, error) {
	if f.k.gone() {
		return 0, errKilled
	}
	return f.File.WriteAt(p, off)
}

func (f *killedFile) WriteVAt(bufs [][]byte, off int64) (int, error) {
	if f.k.gone() {
		return 0, errKilled
	}
	return f.File.WriteVAt(bufs, off)
}

func (f *killedFile) Sync() error {
	if f.k.asking {
		return nil
	}
	if f.k.gone() {
		return errKilled
	}
	return f.File.Sync()
}
