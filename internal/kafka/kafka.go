// Package kafka makes the Kafka clients of outrelay: franz-go with our defaults, over TCP or over the in-memory connection to the
// broker in this process. It never knows which of the two it talks to, and it never decides what to retry; it says the class of
// an error.
package kafka

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
)

// Topics that outrelay keeps for itself. Their layout is frozen: docs/format/position-record.md and docs/format/index-record.md.
const (
	PositionsTopic      = "__outrelay_positions"
	PositionsPartitions = 16 // for good: a source belongs to the partition that its name hashes to
	IndexTopic          = "__outrelay_index"
	IndexPartitions     = 16
	MigrationTopic      = "__outrelay_migration" // one partition; docs/format/migration-record.md
)

// Record headers that the relay writes and consumers read (docs/event-router.md). HeaderID is Debezium's; the others are ours.
const (
	HeaderID          = "id"                    // the event's id, as the row holds it
	HeaderType        = "outrelay.type"         // the event's type
	HeaderSource      = "outrelay.source"       // the source's name
	HeaderPlace       = "outrelay.place"        // commit LSN or GTID of the source's transaction
	HeaderOrdinal     = "outrelay.ordinal"      // place in that transaction, from 0, decimal
	HeaderCommittedAt = "outrelay.committed_at" // commit time at the source, RFC 3339 with microseconds, UTC
	HeaderEventID     = "outrelay.event_id"     // only where the row's id is a serial number or NULL: an id that no failover uses again
)

// DialFunc connects to an address as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Options says how to reach a log. The zero Options reach nothing: Seeds is needed.
type Options struct {
	Seeds    []string         // host:port of at least one broker
	Dialer   DialFunc         // nil: TCP. The in-memory dialer of a broker in this process goes here.
	ClientID string           // default "outrelay"
	TLS      *tls.Config      // nil: plaintext
	SASL     []sasl.Mechanism // none: no authentication
	Logger   *slog.Logger     // nil: discard

	Prefix            string // before the names of outrelay's own topics, group and transactional ids
	ReplicationFactor int    // of topics that are created; 0: the log's default
	MinInsyncReplicas int    // of topics that are created; 0: the log's default

	// RequestTimeout bounds one request with its retries where the caller's context does not. Default 30 s.
	RequestTimeout time.Duration
}

// NewClient returns a client with our defaults (no linger; fast metadata after a topic was created) and then extra. It does
// not connect. The caller closes it.
func NewClient(o Options, extra ...kgo.Opt) (*kgo.Client, error) {
	if len(o.Seeds) == 0 {
		return nil, &outrelay.Error{Class: outrelay.ErrConfig, Code: "no-seeds", Cause: "no address of a broker", Fix: "set log.kafka"}
	}
	cl, err := kgo.NewClient(append(ClientOpts(o), extra...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w: %w", outrelay.ErrConfig, err)
	}
	return cl, nil
}

// ClientOpts returns our defaults, for those who make the client themselves.
func ClientOpts(o Options) []kgo.Opt {
	if o.ClientID == "" {
		o.ClientID = "outrelay"
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 30 * time.Second
	}
	retries := backoff.Policy{Initial: 20 * time.Millisecond, Max: time.Second, Jitter: 20 * time.Millisecond}
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Seeds...),
		kgo.ClientID(o.ClientID),
		kgo.SoftwareNameAndVersion("outrelay", "v0"),
		kgo.ProducerLinger(0), // franz-go lingers 10 ms by default: we batch by nature, while the batch before is under way
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryTimeout(o.RequestTimeout),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return retries.Delay(tries-1, nil) }),
		kgo.DisableClientMetrics(),
		kgo.AlwaysRetryEOF(), // a broker that is killed while a connection waits for its first answer comes back
	}
	if o.Dialer != nil {
		opts = append(opts, kgo.Dialer(o.Dialer))
	}
	if o.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(o.TLS))
	}
	if len(o.SASL) > 0 {
		opts = append(opts, kgo.SASL(o.SASL...))
	}
	if o.Logger != nil {
		opts = append(opts, kgo.WithLogger(&logger{l: o.Logger}))
	}
	return opts
}

// logger sends kgo's log lines to slog. kgo says at Info what we hold for Debug.
type logger struct{ l *slog.Logger }

func (g *logger) Level() kgo.LogLevel {
	ctx := context.Background()
	switch {
	case g.l.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelInfo
	case g.l.Enabled(ctx, slog.LevelWarn):
		return kgo.LogLevelWarn
	case g.l.Enabled(ctx, slog.LevelError):
		return kgo.LogLevelError
	}
	return kgo.LogLevelNone
}

func (g *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		to = slog.LevelError
	case kgo.LogLevelWarn:
		to = slog.LevelWarn
	case kgo.LogLevelInfo, kgo.LogLevelDebug, kgo.LogLevelNone:
	}
	g.l.Log(context.Background(), to, "kafka client: "+msg, keyvals...)
}
