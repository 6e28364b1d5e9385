package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/vfs"
)

func TestServer_openRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	running := brokertest.New(t, func(o *broker.Options) { o.FS, o.DataDir = vfs.OS{}, dir })
	other := t.TempDir()
	first := broker.New(broker.Options{DataDir: other, NodeID: 7})
	if err := first.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		opts  broker.Options
		class error
		code  string
	}{
		"no directory":        {broker.Options{}, outrelay.ErrConfig, ""},
		"bad address":         {broker.Options{DataDir: "d", Listeners: []broker.Listener{{Addr: "here"}}}, outrelay.ErrConfig, ""},
		"port in use":         {broker.Options{DataDir: t.TempDir(), Listeners: []broker.Listener{{Addr: running.TCPAddr()}}}, outrelay.ErrEnvironment, "port-in-use"},
		"directory in use":    {broker.Options{DataDir: dir}, outrelay.ErrEnvironment, "data-locked"},
		"another node's data": {broker.Options{DataDir: other, NodeID: 8}, outrelay.ErrConfig, "data-identity"},
	} {
		s := broker.New(tc.opts)
		err := s.Open(t.Context())
		var e *outrelay.Error
		if !errors.Is(err, tc.class) || tc.code != "" && (!errors.As(err, &e) || e.Code != tc.code || e.Fix == "") {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}

// It starts fast, closes twice without harm, and registers its metrics anew each time.
func TestServer_startsFast(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	o := broker.Options{DataDir: t.TempDir(), Registerer: reg, Listeners: []broker.Listener{{Addr: "127.0.0.1:0"}}}
	for range 3 {
		s := broker.New(o)
		if s.Ready() == nil {
			t.Error("ready before Open")
		}
		start := time.Now()
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("ready after %v", d)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if fams, err := reg.Gather(); err != nil || len(fams) == 0 {
			t.Errorf("%d metrics, %v", len(fams), err)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if s.Ready() == nil {
			t.Error("ready after Close")
		}
	}
}

// A disk that fails ends Run with the reason; nothing is acknowledged any more.
func TestServer_failedSyncEndsRun(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := broker.New(broker.Options{DataDir: "d", FS: mem})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	conn, err := s.Dialer()(t.Context(), "tcp", s.InternalAddr())
	if err != nil {
		t.Fatal(err)
	}
	c := &rawConn{Conn: conn, t: t}
	createTopic(t, c, "t", 1)
	broken := errors.New("disk on fire")
	mem.Fail(vfs.OpSync, 1, broken)
	c.send(produceRequest("t", 0, plainBatch("v")), 9)
	select {
	case err := <-done:
		if !errors.Is(err, broken) {
			t.Errorf("run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server goes on after a failed sync")
	}
	if s.Ready() == nil {
		t.Error("ready after a failed sync")
	}
}
