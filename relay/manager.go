package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
)

// ManagerOptions says which sources this process may relay. Sources and Kafka.Seeds are needed.
type ManagerOptions struct {
	Kafka      kafka.Options
	InstanceID string    // static membership (KIP-345): a process that comes back under the same id has its seat at once. "": a dynamic member.
	Sources    []Options // Kafka, Metrics, Clock and Logger are filled in where they are empty; Owned is the manager's

	SessionTimeout    time.Duration // without a heartbeat for so long, a dead process's sources move [10 s]
	HeartbeatInterval time.Duration // [1 s]

	Metrics *Metrics
	Clock   clock.Clock
	Logger  *slog.Logger
}

// Manager runs the relays of the sources that the group assigns to this process. A source whose process lives is never taken from it but
// by a rebalance, in which it is given up first.
type Manager struct {
	o     ManagerOptions
	tasks []*task

	mu       sync.Mutex // guards what follows, and task.cancel
	client   *kgo.Client
	assigned map[int32]bool
	told     bool            // the group has said what is assigned here, be it nothing
	ctx      context.Context // of Run
}

// task is one source.
type task struct {
	relay     *Relay
	partition int32
	cancel    context.CancelFunc // nil: not running
	done      chan struct{}
}

// NewManager checks the options; it does not connect.
func NewManager(o ManagerOptions) (*Manager, error) {
	def(&o.SessionTimeout, 10*time.Second)
	def(&o.HeartbeatInterval, time.Second)
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	m := &Manager{o: o, assigned: map[int32]bool{}}
	seen := map[outrelay.SourceID]bool{}
	for _, so := range o.Sources {
		if seen[so.Source] {
			return nil, fmt.Errorf("source %s is configured twice: %w", so.Source, outrelay.ErrConfig)
		}
		seen[so.Source] = true
		if len(so.Kafka.Seeds) == 0 {
			so.Kafka = o.Kafka
		}
		if so.Metrics == nil {
			so.Metrics = o.Metrics
		}
		if so.Clock == nil {
			so.Clock = o.Clock
		}
		if so.Logger == nil {
			so.Logger = o.Logger
		}
		partition := PositionPartition(so.Source)
		so.Owned = func(ctx context.Context) error { return m.owned(ctx, partition) }
		r, err := New(so)
		if err != nil {
			return nil, err
		}
		m.tasks = append(m.tasks, &task{relay: r, partition: partition})
	}
	return m, nil
}

// Status returns a snapshot of every configured source, in the order of the options.
func (m *Manager) Status() []Status {
	out := make([]Status, len(m.tasks))
	for i, t := range m.tasks {
		out[i] = t.relay.Status()
	}
	return out
}

// Ready returns nil when this process is a member of the group and every source assigned to it runs. Otherwise it says what is
// awaited or what has halted.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil {
		return errors.New("relay: the log has not been reached yet")
	}
	// A member has a generation before it knows its assignment: whoever takes it for ready then, and writes, writes before the slot exists.
	if _, generation := m.client.GroupMetadata(); generation < 0 || !m.told {
		return errors.New("relay: not a member of group " + m.o.Kafka.RelayGroup() + " yet")
	}
	for _, t := range m.tasks {
		if !m.assigned[t.partition] {
			continue
		}
		if st := t.relay.Status(); st.State != StateRunning {
			return fmt.Errorf("relay: source %s is %s: %s", st.Source, st.State, st.Error)
		}
	}
	return nil
}

// Run blocks until ctx ends, when it stops the relays and returns nil, or until the log says that another process holds our instance id, or
// refuses us.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.join(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer m.leave()
	for {
		fetches := m.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if fetches.IsClientClosed() {
			return fmt.Errorf("relay group: %w: the client was closed", outrelay.ErrTransient)
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.FencedInstanceID) {
				return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "instance-taken", Place: "group " + m.o.Kafka.RelayGroup(),
					Cause: fmt.Sprintf("another process has joined as instance %q", m.o.InstanceID), Err: e.Err,
					Fix: "two processes must not share a data directory or an `instance:`; give one of them its own"}
			}
			if errors.Is(kafka.Class(e.Err), outrelay.ErrEnvironment) {
				return kafka.Wrap(e.Err, "group "+m.o.Kafka.RelayGroup())
			}
			m.o.Logger.Warn("relay group", "err", e.Err)
		}
	}
}

// join waits for the log, makes the positions topic and joins the group.
func (m *Manager) join(ctx context.Context) error {
	admin, err := kafka.NewClient(m.o.Kafka)
	if err != nil {
		return err
	}
	defer admin.Close()
	for attempt := 0; ; attempt++ {
		_, err := m.o.Kafka.EnsureTopic(ctx, admin, m.o.Kafka.PositionsTopic(), kafka.PositionsPartitions, positionsConfigs())
		if err == nil {
			break
		}
		if !errors.Is(kafka.Class(err), outrelay.ErrTransient) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		m.o.Logger.Warn("relay waits for the log", "err", err)
		if err := backoff.Sleep(ctx, m.o.Clock, backoff.Default().Delay(attempt, nil)); err != nil {
			return err
		}
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(m.o.Kafka.RelayGroup()),
		kgo.ConsumeTopics(m.o.Kafka.PositionsTopic()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(m.o.SessionTimeout),
		kgo.HeartbeatInterval(m.o.HeartbeatInterval),
		kgo.RebalanceTimeout(m.o.SessionTimeout + stopGrace),
		kgo.OnPartitionsAssigned(m.onAssigned),
		kgo.OnPartitionsRevoked(m.onRevoked),
		kgo.OnPartitionsLost(m.onRevoked),
	}
	if m.o.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(m.o.InstanceID))
	}
	o := m.o.Kafka
	def(&o.ClientID, "outrelay-relay")
	// The callbacks may come before NewClient returns; they wait for the lock.
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx = ctx
	m.client, err = kafka.NewClient(o, opts...)
	if err == nil {
		m.client.PauseFetchTopics(m.o.Kafka.PositionsTopic()) // the group is for the seats; nothing is consumed
	}
	return err
}

// leave stops the relays and closes the client. A static member keeps its seat for the session timeout.
func (m *Manager) leave() {
	m.stop(func(*task) bool { return true })
	m.client.CloseAllowingRebalance()
}

func (m *Manager) onAssigned(_ context.Context, _ *kgo.Client, got map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = true // the client calls also when nothing is assigned
	for _, p := range got[m.o.Kafka.PositionsTopic()] {
		m.assigned[p] = true
	}
	if m.ctx.Err() != nil {
		return
	}
	for _, t := range m.tasks {
		if m.assigned[t.partition] && t.cancel == nil {
			m.startLocked(t)
		}
	}
}

// onRevoked gives sources up before it returns, so that their next relay finds nobody at work.
func (m *Manager) onRevoked(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	gone := map[int32]bool{}
	m.mu.Lock()
	for _, p := range lost[m.o.Kafka.PositionsTopic()] {
		gone[p] = true
		delete(m.assigned, p)
	}
	m.mu.Unlock()
	m.stop(func(t *task) bool { return gone[t.partition] })
}

func (m *Manager) stop(which func(*task) bool) {
	m.mu.Lock()
	var wait []*task
	for _, t := range m.tasks {
		if t.cancel != nil && which(t) {
			t.cancel()
			wait = append(wait, t)
		}
	}
	m.mu.Unlock()
	for _, t := range wait {
		<-t.done
		t.relay.enter(StateUnassigned, nil) // a source that had halted here is another's now
	}
	m.mu.Lock()
	for _, t := range wait {
		t.cancel = nil
	}
	m.mu.Unlock()
}

func (m *Manager) startLocked(t *task) {
	ctx, cancel := context.WithCancel(m.ctx)
	t.cancel, t.done = cancel, make(chan struct{})
	go func() {
		defer close(t.done)
		m.runTask(ctx, t)
	}()
}

// runTask runs a source's relay while it is ours. A relay that was fenced begins again only once the group, asked by a
// heartbeat, says that the source is still assigned here: then it was a late one that fenced it.
func (m *Manager) runTask(ctx context.Context, t *task) {
	policy := backoff.Policy{Initial: 100 * time.Millisecond, Max: 5 * time.Second, Jitter: 200 * time.Millisecond}
	for attempt := 0; ; attempt++ {
		err := t.relay.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, outrelay.ErrFenced) {
			if err != nil {
				m.o.Logger.Error("source halted", "source", t.relay.o.Source, "err", err)
			}
			return // until a restart or the next assignment
		}
		m.o.Logger.Warn("source fenced by another relay", "source", t.relay.o.Source, "err", err)
		for {
			if backoff.Sleep(ctx, m.o.Clock, policy.Delay(attempt, nil)) != nil {
				t.relay.enter(StateUnassigned, nil)
				return
			}
			if m.owned(ctx, t.partition) == nil {
				break
			}
			attempt++
		}
	}
}

// owned asks the group's coordinator, by a heartbeat, whether we are still a member, and ourselves whether the partition is assigned to us: a process
// that was stopped for long believes so until it asks.
func (m *Manager) owned(ctx context.Context, partition int32) error {
	m.mu.Lock()
	cl, mine := m.client, m.assigned[partition]
	m.mu.Unlock()
	if cl == nil || !mine {
		return fmt.Errorf("%s/%d is not assigned to this process: %w", m.o.Kafka.PositionsTopic(), partition, outrelay.ErrFenced)
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group = m.o.Kafka.RelayGroup()
	req.MemberID, req.Generation = cl.GroupMetadata()
	if m.o.InstanceID != "" {
		req.InstanceID = &m.o.InstanceID
	}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case err == nil, errors.Is(err, kerr.RebalanceInProgress):
		return nil
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedInstanceID):
		return fmt.Errorf("group %s: %w: %w", m.o.Kafka.RelayGroup(), outrelay.ErrFenced, err)
	}
	return kafka.Wrap(err, "heartbeat to group "+m.o.Kafka.RelayGroup()) // an old generation, a coordinator that moves: ask again
}
