package segment

import (
	"io"

	"github.com/outrelay/outrelay/internal/vfs"
)

// Extent is whole batches where they stand in a segment's file: a stretch that was read and checked within the last minutes. The file stays readable
// until Close, whatever becomes of the segment. One goroutine uses it.
type Extent struct {
	s       *segment
	f       vfs.File
	at, n   int64
	records int64
}

// Bytes returns its length.
func (e *Extent) Bytes() int64 { return e.n }

// Records returns how many records its batches say they hold.
func (e *Extent) Records() int64 { return e.records }

// SendTo writes the batches to w, by the kernel alone where w is a socket of the system's. It blocks as w does. After an error, which may be the disk's or
// w's, the stretch counts as unchecked: the next read of it says what is wrong with the file, if that was it.
func (e *Extent) SendTo(w io.Writer) error {
	err := vfs.Send(w, e.f, e.at, e.n)
	if err != nil {
		e.s.verified.forget()
	}
	return err
}

// Close lets go of the file.
func (e *Extent) Close() { e.s.release() }
