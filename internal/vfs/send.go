package vfs

import (
	"io"

	"github.com/outrelay/outrelay/internal/bytepool"
)

// sendPieceBytes is how much is copied at a time where the kernel cannot send a file.
const sendPieceBytes = 256 << 10

var sendPieces bytepool.Pool

// Send writes the n bytes of f that begin at off to w. Where f is a file of the machine's and w a socket, the kernel moves them and they are copied nowhere
// (sendfile(2)); it honours w's write deadline. A file that ends before gives io.ErrUnexpectedEOF. After an error a part may have been written.
func Send(w io.Writer, f File, off, n int64) error {
	if done, err := sendFile(w, f, off, n); done {
		return err
	}
	buf := sendPieces.Get(int(min(n, sendPieceBytes)))
	defer sendPieces.Put(buf)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		if got, err := f.ReadAt(b, off); got < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}
