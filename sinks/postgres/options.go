package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sinks/handler"
)

// Options says where the sink is and what it does with a record.
type Options struct {
	// ConnString returns the connection string. It is called for every new connection, so that a password that was changed is
	// read again. Its result never appears in an error.
	ConnString func(ctx context.Context) (string, error)
	// Owner names this process in outrelay_offsets, for people.
	Owner string
	// Handlers maps an event type to the statements that run for it, in order; handler.AnyType takes the rest. A record whose type
	// has no handler moves the offset and does nothing else.
	Handlers map[string][]handler.Statement
	// Schema holds outrelay_offsets and outrelay_meta. Empty means the first schema of the role's search_path.
	Schema string
	// ConnsMax bounds the connections (default 8). Partitions above it take turns. A claim that is kept waiting opens one more.
	ConnsMax int
	// ConnectTimeout bounds one attempt to connect (default 10 s).
	ConnectTimeout time.Duration
	// LockTimeout bounds the wait of a statement for a lock (default 30 s); then the batch fails as a conflict.
	LockTimeout time.Duration
	// StuckOwnerAfter is how long a transaction of another outrelay process may keep a claim waiting before its backend is
	// terminated (default 10 s). A stopped process can hold one open for ever.
	StuckOwnerAfter time.Duration
	// Dial replaces the TCP dialer, for tests.
	Dial       pgconn.DialFunc
	Logger     *slog.Logger
	Clock      clock.Clock
	Registerer prometheus.Registerer // several sinks may share one
}

func (o *Options) complete() error {
	if o.ConnString == nil {
		return fmt.Errorf("sink postgres: no connection string: %w", outrelay.ErrConfig)
	}
	if o.ConnsMax <= 0 {
		o.ConnsMax = 8
	}
	setDefault(&o.ConnectTimeout, 10*time.Second)
	setDefault(&o.LockTimeout, 30*time.Second)
	setDefault(&o.StuckOwnerAfter, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	return nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}
