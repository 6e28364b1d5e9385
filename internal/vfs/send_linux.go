package vfs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendFileBytes is how much one call moves at most: others get their turn in between, so that a reader of much does not delay a producer of little.
const sendFileBytes = 128 << 10

// sendFile sends by sendfile(2); done is false where it cannot, and nothing was written then.
func sendFile(w io.Writer, f File, off, n int64) (done bool, err error) {
	of, ok := f.(osFile)
	if !ok {
		return false, nil
	}
	tcp, ok := w.(*net.TCPConn)
	if !ok {
		return false, nil
	}
	from, err := of.SyscallConn()
	if err != nil {
		return true, err
	}
	to, err := tcp.SyscallConn()
	if err != nil {
		return true, err
	}
	var serr error
	cerr := from.Control(func(fd uintptr) { serr = sendAll(to, int(fd), off, n) })
	if serr != nil {
		return true, fmt.Errorf("send %s: %w", f.Name(), serr)
	}
	return true, cerr
}

func sendAll(to syscall.RawConn, from int, off, n int64) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for n > 0 {
			var sent int
			sent, err = unix.Sendfile(int(fd), from, &off, int(min(n, sendFileBytes))) // moves off
			switch {
			case sent > 0:
				n -= int64(sent)
				runtime.Gosched()
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				err = nil
				return false // until the socket has room
			case err == nil:
				err = io.ErrUnexpectedEOF
				return true
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return true
			}
		}
		err = nil
		return true
	})
	return errors.Join(err, werr)
}
