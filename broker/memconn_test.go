package broker_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
)

func TestMemConn_carriesBytesInOrder(t *testing.T) {
	t.Parallel()
	a, b := broker.MemPipe()
	want := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(want)
	go func() {
		rnd := rand.New(rand.NewPCG(1, 1))
		for p := want; len(p) > 0; {
			n := min(len(p), 1+rnd.IntN(100_000))
			if _, err := a.Write(p[:n]); err != nil {
				t.Error(err)
				return
			}
			p = p[n:]
		}
		_ = a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d: %v", len(got), len(want), err)
	}
}

func TestMemConn_writesWithoutReader(t *testing.T) {
	t.Parallel()
	a, b := broker.MemPipe()
	for range 10 { // pipelining: nobody reads yet
		if _, err := a.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(b, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
}

func TestMemConn_deadlinesAndClose(t *testing.T) {
	t.Parallel()
	a, b := broker.MemPipe()
	past := time.Now().Add(-time.Second)
	_ = a.SetReadDeadline(past)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after its deadline: %v", err)
	}
	_ = a.SetReadDeadline(time.Time{})
	_ = a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := a.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write to a full buffer: %v", err)
	}
	_ = b.Close()
	_ = a.SetWriteDeadline(time.Time{})
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("write to a peer that closed succeeded")
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v", err)
	}
}
