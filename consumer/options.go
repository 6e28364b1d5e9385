package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sinks"
)

// Start says where a group begins that has never processed a partition. The zero value is the earliest record.
type Start struct {
	Latest bool
	Time   time.Time // the first record with this timestamp or a later one; used when not zero
}

// Options describes one managed group.
type Options struct {
	Name   string   // the group, as in the configuration and in Kafka
	Topics []string // they may come into being later
	Start  Start
	// Sink opens the group's sink. It is called until it succeeds, with backoff, except for errors of the classes outrelay.ErrConfig
	// and outrelay.ErrDataHalt, which end Run. Ready says what it waits for. Run closes the sink.
	Sink func(ctx context.Context) (sinks.OffsetStore, error)
	// LogID is the log's cluster id. Empty: it is asked for.
	LogID string
	// Client reaches the log: seeds, dialer, TLS, SASL. The group adds what it needs.
	Client []kgo.Opt
	// InstanceID makes the member static (KIP-345): after a kill it is back in its seat at once. Empty: a dynamic member.
	InstanceID string
	// SessionTimeout is the group's session timeout (default 10 s).
	SessionTimeout time.Duration
	// StopTimeout is how long a transaction that is under way may take once its partition is to be given up (default 5 s).
	StopTimeout  time.Duration
	BatchRecords int // most records in one database transaction (default 500)
	BatchBytes   int // most bytes of keys and values in one database transaction, one record excepted (default 4 MiB)
	BufferBytes  int // most bytes that wait per partition before its fetching pauses (default 4 MiB)
	// Failure decides about a record that fails by itself. nil: block the partition.
	Failure    FailurePolicy
	Logger     *slog.Logger
	Clock      clock.Clock
	Registerer prometheus.Registerer

	backoff, blockedBackoff backoff.Policy
}

func (o *Options) complete() error {
	switch {
	case o.Name == "":
		return fmt.Errorf("consumer: a group needs a name: %w", outrelay.ErrConfig)
	case len(o.Topics) == 0:
		return fmt.Errorf("group %s: no topics: %w", o.Name, outrelay.ErrConfig)
	case o.Sink == nil:
		return fmt.Errorf("group %s: no sink: %w", o.Name, outrelay.ErrConfig)
	case o.Start.Latest && !o.Start.Time.IsZero():
		return fmt.Errorf("group %s: start is both latest and a time: %w", o.Name, outrelay.ErrConfig)
	}
	defaultTo(&o.SessionTimeout, 10*time.Second)
	defaultTo(&o.StopTimeout, 5*time.Second)
	defaultTo(&o.BatchRecords, 500)
	defaultTo(&o.BatchBytes, 4<<20)
	defaultTo(&o.BufferBytes, 4<<20)
	if o.Failure == nil {
		o.Failure = blockAlways{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	o.backoff = backoff.Policy{Initial: 50 * time.Millisecond, Max: 5 * time.Second, Jitter: 50 * time.Millisecond}
	o.blockedBackoff = backoff.Policy{Initial: time.Second, Max: time.Minute, Jitter: time.Second}
	return nil
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

type blockAlways struct{}

func (blockAlways) Decide(Failure) Decision { return Block }
