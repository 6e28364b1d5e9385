//go:build !linux

package vfs

import "os"

// datasync syncs in full where fdatasync is not to be had.
func datasync(f *os.File) error { return f.Sync() }

func allocate(f *os.File, size int64) error { return extend(f, size) }
