package mysql

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/handler"
)

// Options says where the sink is and what it does with a record.
type Options struct {
	// ConnString returns the connection string (internal/mysqldsn says in which forms). It is called for every new connection, so that a
	// password that was changed is read again. Its result never appears in an error.
	ConnString func(ctx context.Context) (string, error)
	// Owner names this process in outrelay_offsets, for people.
	Owner string
	// Handlers maps an event type to the statements that run for it, in order; handler.AnyType takes the rest. A record whose type
	// has no handler moves the offset and does nothing else.
	Handlers map[string][]handler.Statement
	// Schema is the database that holds outrelay_offsets and outrelay_meta, on the same server. Empty means the one that the connection string names.
	Schema string
	// ConnsMax bounds the connections (default 8). Partitions above it take turns.
	ConnsMax int
	// ConnectTimeout bounds one attempt to connect (default 10 s).
	ConnectTimeout time.Duration
	// LockTimeout bounds the wait of a statement for a lock, in whole seconds (default 30 s); then the batch fails as a conflict.
	LockTimeout time.Duration
	// OpenMax bounds how long a transaction that takes several packets may wait for its next one, in whole seconds (default 20 s); then the
	// server ends it. A process that was stopped between two of them would hold the rows that the next owner claims for ever.
	OpenMax time.Duration
	// PacketBytesMax bounds what is sent at once, where the server's max_allowed_packet does not bound it below (default: that).
	PacketBytesMax int
	// Dial replaces the TCP dialer, for tests.
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // several sinks may share one
}

func (o *Options) complete() error {
	if o.ConnString == nil {
		return fmt.Errorf("sink mysql: no connection string: %w", outrelay.ErrConfig)
	}
	if o.ConnsMax <= 0 {
		o.ConnsMax = 8
	}
	setDefault(&o.ConnectTimeout, 10*time.Second)
	setDefault(&o.LockTimeout, 30*time.Second)
	setDefault(&o.OpenMax, 20*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
	*d = max(*d, time.Second)
}
