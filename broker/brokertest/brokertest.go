// Package brokertest starts brokers for tests, on a file system in memory or on disk, and stops them orderly or as a power cut
// does. It never appears in a binary that is shipped.
package brokertest

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Node is a running broker. Its methods fail the test rather than return errors; call them from the test's goroutine.
type Node struct {
	*broker.Server
	t      testing.TB
	opts   broker.Options
	mem    *vfs.Mem // nil on disk
	seed   uint64
	cancel context.CancelFunc
	done   chan error
	addr   string

	crashed bool // the power was cut: stop expects errors
}

// Option changes how a broker is started.
type Option func(*broker.Options)

// OnDisk keeps the data in a temporary directory instead of memory.
func OnDisk(t testing.TB) Option {
	return func(o *broker.Options) { o.FS, o.DataDir = vfs.OS{}, t.TempDir() }
}

// New starts a broker with one TCP listener on a free loopback port, and closes it when the test ends.
func New(t testing.TB, opts ...Option) *Node {
	t.Helper()
	n := &Node{t: t, seed: rand.Uint64(), opts: broker.Options{
		DataDir:   "data",
		Listeners: []broker.Listener{{Name: "client", Addr: "127.0.0.1:0"}},
		Logger:    slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	for _, o := range opts {
		o(&n.opts)
	}
	if n.opts.FS == nil {
		n.mem = vfs.NewMem()
		n.opts.FS = n.mem
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

// TCPAddr returns the address of the TCP listener; it stays the same over restarts.
func (n *Node) TCPAddr() string { return n.addr }

func (n *Node) start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := broker.New(n.opts)
	if err := s.Open(ctx); err != nil {
		n.t.Fatalf("broker: open: %v", err)
	}
	n.Server, n.done = s, make(chan error, 1)
	if n.addr = s.Addr("client"); n.addr != "" {
		// The same port after a restart: clients know no other.
		n.opts.Listeners[0].Addr = n.addr
	}
	run, stop := context.WithCancel(context.Background())
	n.cancel = stop
	done := n.done
	go func() { done <- s.Run(run) }()
}

func (n *Node) stop() {
	n.t.Helper()
	if n.Server == nil {
		return
	}
	n.cancel()
	if err := <-n.done; err != nil && !n.crashed {
		n.t.Errorf("broker: run: %v", err)
	}
	if err := n.Server.Close(); err != nil && !n.crashed {
		n.t.Errorf("broker: close: %v", err)
	}
	n.Server, n.crashed = nil, false
}

// Restart stops the broker in order and starts it on the same data and port.
func (n *Node) Restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

// RestartAfter stops the broker in order, calls fn with its file system, and starts it on what fn left. Only for a broker in memory.
func (n *Node) RestartAfter(fn func(mem *vfs.Mem)) {
	n.t.Helper()
	if n.mem == nil {
		n.t.Fatal("brokertest: RestartAfter needs the file system in memory")
	}
	n.stop()
	fn(n.mem)
	n.start()
}

// FS returns the file system of a broker in memory.
func (n *Node) FS() *vfs.Mem { return n.mem }

// CrashRestart cuts the power: the broker that starts next sees what was synced, and any share of what was not. Only for a
// broker in memory.
func (n *Node) CrashRestart() {
	n.t.Helper()
	if n.mem == nil {
		n.t.Fatal("brokertest: CrashRestart needs the file system in memory")
	}
	n.t.Logf("brokertest: crash with seed %d", n.seed)
	n.crashed = true // what it says while it ends is nobody's concern
	n.Abort()        // first, so that nothing is acknowledged that the clone does not hold
	clone := n.mem.CrashClone(rand.New(rand.NewPCG(n.seed, 0)))
	n.seed++
	n.stop() // writes to the old file system, which nobody sees any more
	n.mem, n.opts.FS = clone, clone
	n.start()
}

// Dial connects over TCP, for tests that speak the protocol byte by byte.
func (n *Node) Dial() net.Conn {
	n.t.Helper()
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}
