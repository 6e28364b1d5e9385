//go:build !linux

package vfs

import "os"

// datasync syncs in full where fdatasync is not to be had.
func datasync(f *os.File) error { return f.Sync() }
