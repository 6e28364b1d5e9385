//go:build !linux

package vfs

import "os"

// gather writes the buffers one by one.
func gather(f *os.File, bufs [][]byte, off int64) (n int, err error) {
	for _, b := range bufs {
		wrote, err := f.WriteAt(b, off)
		n, off = n+wrote, off+int64(wrote)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// reserve does nothing.
func reserve(*os.File, int64) {}
