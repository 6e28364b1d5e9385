package relay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Group is the consumer group by which sources are shared out among processes.
const Group = "outrelay-relay"

// ManagerOptions says which sources this process may relay. Sources and Kafka.Seeds are needed.
type ManagerOptions struct {
	Kafka      kafka.Options
	InstanceID string    // static membership: a process that comes back under the same id has its seat at once. "": a dynamic member.
	Sources    []Options // Kafka, Metrics, Clock, Logger and Owned are filled in where they are empty

	SessionTimeout    time.Duration // [10 s]
	HeartbeatInterval time.Duration // [1 s]

	Metrics *Metrics
	Clock   clock.Clock
	Logger  *slog.Logger
}

// Manager runs the relays of the sources that the group assigns to this process.
type Manager struct{}

// NewManager checks the options; it does not connect.
func NewManager(o ManagerOptions) (*Manager, error) { return nil, errors.New("relay: not built yet") }

// Run blocks until ctx ends, or until the log says that another process holds our instance id.
func (m *Manager) Run(ctx context.Context) error { return errors.New("relay: not built yet") }

// Status returns a snapshot of every configured source, in the order of the options.
func (m *Manager) Status() []Status { return nil }
