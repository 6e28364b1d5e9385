package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync: the data, and of the metadata only what is needed to read it back. On a file that was written before, that
// saves a commit of the file system's journal. A signal is no failure of the disk, so EINTR alone is tried again.
//
// The descriptor is reached by SyscallConn, which holds it: a concurrent Close cannot make this sync another file.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var synced error
	if conn.Control(func(fd uintptr) {
		for {
			if synced = unix.Fdatasync(int(fd)); !errors.Is(synced, unix.EINTR) {
				return
			}
		}
	}) != nil {
		return os.ErrClosed // the one thing that Control fails of
	}
	return synced
}

// allocate takes room for the first size bytes of a file.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return extend(f, size)
		default:
			return err
		}
	}
}
