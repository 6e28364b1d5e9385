package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync: the data, and of the metadata only what is needed to read it back. On a file that was written before, that
// saves a commit of the file system's journal. A signal is no failure of the disk, so EINTR alone is tried again.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
