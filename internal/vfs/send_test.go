package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/vfs"
)

// sockets returns both ends of a TCP connection.
func sockets(t *testing.T) (to, from *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer ln.Close()
	to, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	must(t, err)
	t.Cleanup(func() { to.Close() })
	from, err = ln.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { from.Close() })
	return to, from
}

func TestSend(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		text := strings.Repeat("0123456789abcdef", 200_000) // more than a socket takes at once
		put(t, fsys, dir+"/f", text)
		f, err := fsys.Open(dir + "/f")
		must(t, err)
		defer f.Close()

		to, from := sockets(t)
		sent := make(chan error, 1)
		go func() {
			err := vfs.Send(to, f, 5, int64(len(text)-6))
			to.Close()
			sent <- err
		}()
		got, err := io.ReadAll(from)
		must(t, err)
		must(t, <-sent)
		if string(got) != text[5:len(text)-1] {
			t.Fatalf("a socket got %d bytes, want %d, or others", len(got), len(text)-6)
		}

		var b bytes.Buffer
		must(t, vfs.Send(&b, f, 16, 10))
		if b.String() != "0123456789" {
			t.Fatalf("a buffer got %q", b.String())
		}
	})
}

// A file that is shorter than it was is told, not waited for.
func TestSend_fileEnds(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		put(t, fsys, dir+"/f", "0123456789")
		f, err := fsys.Open(dir + "/f")
		must(t, err)
		defer f.Close()
		to, _ := sockets(t)
		for _, w := range []io.Writer{to, io.Discard} {
			if err := vfs.Send(w, f, 5, 6); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("to %T: %v", w, err)
			}
		}
	})
}

// A reader that reads nothing holds up Send until the write deadline, and no longer.
func TestSend_deadline(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		put(t, fsys, dir+"/f", strings.Repeat("x", 16<<20))
		f, err := fsys.Open(dir + "/f")
		must(t, err)
		defer f.Close()
		to, _ := sockets(t)
		must(t, to.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		if err := vfs.Send(to, f, 0, 16<<20); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}
