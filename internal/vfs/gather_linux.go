package vfs

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// gatherMax is how many buffers one call takes (IOV_MAX).
const gatherMax = 1024

// gather writes bufs at off by pwritev, which may write only a part.
func gather(f *os.File, bufs [][]byte, off int64) (n int, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	for bufs = skip(bufs, 0); len(bufs) > 0; {
		wrote := 0
		if cerr := c.Control(func(fd uintptr) { wrote, err = pwritev(int(fd), bufs[:min(len(bufs), gatherMax)], off) }); cerr != nil {
			err = cerr
		}
		if err != nil {
			return n, err
		}
		n, off = n+wrote, off+int64(wrote)
		bufs = skip(bufs, wrote)
	}
	return n, nil
}

func pwritev(fd int, bufs [][]byte, off int64) (n int, err error) {
	for {
		n, err = unix.Pwritev(fd, bufs, off)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n <= 0:
			return 0, io.ErrShortWrite
		default:
			return n, err
		}
	}
}

// skip drops the first n bytes of bufs, and what is empty at their beginning. It changes bufs.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// reserve takes blocks beyond the file's end. Whether it could is of no consequence.
func reserve(f *os.File, size int64) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) == nil && st.Size < size {
			_ = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, st.Size, size-st.Size)
		}
	})
}
