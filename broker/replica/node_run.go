package replica

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker/wal"
)

const (
	tickEvery    = 100 * time.Millisecond
	drainTimeout = 5 * time.Second
)

// Start starts the committer, the shards and the housekeeping. It does not block.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *Node) startLocked() error {
	if n.closed {
		return ErrClosed
	}
	if n.started {
		return nil
	}
	n.started = true
	if n.o.Manual {
		return nil
	}
	n.commit = wal.NewCommitter(n.log, wal.CommitterOptions{Logger: n.o.Logger})
	for _, s := range n.shards {
		n.wg.Go(func() { s.run(n.stop) })
	}
	n.wg.Go(func() { n.every(n.o.CheckpointEvery, n.kick, n.checkpointOrFail) })
	n.wg.Go(func() { n.every(n.o.MaintainEvery, nil, n.maintain) })
	n.wg.Go(func() { n.every(tickEvery, nil, n.tick) })
	if n.o.ScrubBytes > 0 {
		n.wg.Go(n.scrub)
	}
	return nil
}

// every calls fn each period, and at a kick, until the node stops.
func (n *Node) every(period time.Duration, kick <-chan struct{}, fn func()) {
	for {
		t := n.o.Clock.NewTimer(period)
		select {
		case <-t.C():
		case <-kick:
			t.Stop()
		case <-n.stop:
			t.Stop()
			return
		case <-n.dead:
			t.Stop()
			return
		}
		fn()
	}
}

// tick moves raft's time on in groups with more than one voter; a single voter has no timeouts.
func (n *Node) tick() {
	for _, s := range n.shards {
		s.push(event{tick: true}, false)
	}
}

func (n *Node) checkpointOrFail() {
	if err := n.Checkpoint(context.Background()); err != nil && !errors.Is(err, ErrClosed) {
		n.fail(err)
	}
}

// maintainer is a state machine with retention or compaction to look after.
type maintainer interface {
	Maintain(now time.Time) error
}

// maintain lets every partition look at retention and compaction, one after the other, beside the applies.
func (n *Node) maintain() {
	for id, h := range n.handles() {
		m, ok := h.sm.(maintainer)
		if !ok {
			continue
		}
		n.upkeep.Lock()
		err := m.Maintain(n.o.Clock.Now())
		n.upkeep.Unlock()
		if err != nil && !n.removed(id, h) {
			n.fail(err)
			return
		}
	}
}

func (n *Node) handles() map[GroupID]*handle {
	n.mu.Lock()
	defer n.mu.Unlock()
	hs := make(map[GroupID]*handle, len(n.groups))
	for id, h := range n.groups {
		if h.g != nil {
			hs[id] = h
		}
	}
	return hs
}

// Close refuses new proposals, waits for those in flight (5 s at most), writes a checkpoint and closes everything, the state
// machines that are io.Closers too. A second call is harmless. After a failure it writes nothing.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	started := n.started
	n.mu.Unlock()
	n.closing.Store(true)
	var errs []error
	if started && !n.failed() {
		n.drain()
		if err := n.Checkpoint(context.Background()); err != nil {
			errs = append(errs, err)
		}
	}
	close(n.stop)
	if n.commit != nil {
		n.commit.Close()
	}
	n.wg.Wait()
	for _, s := range n.shards { // nobody drives any more: answer what is left
		s.push(event{call: func(s *shard) { s.abandonAll() }}, false)
		s.drive()
	}
	for _, h := range n.handles() {
		if c, ok := h.sm.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	errs = append(errs, n.log.Close(), n.lock.Close())
	return errors.Join(errs...)
}

func (n *Node) drain() {
	if n.o.Manual {
		n.Pump()
		return
	}
	if n.proposals.Load() == 0 {
		return
	}
	t := n.o.Clock.NewTimer(drainTimeout)
	defer t.Stop()
	select {
	case <-n.drained:
	case <-t.C():
	case <-n.dead:
	}
}

// Step runs, with Options.Manual, one round of every shard and then one write and sync of what they wrote. It reports whether
// anything was done.
func (n *Node) Step() bool {
	busy := false
	for _, s := range n.shards {
		busy = s.drive() || busy
	}
	if len(n.pending) == 0 {
		return busy
	}
	batches := n.pending
	n.pending = nil
	var err error
	pos := make([][]wal.Pos, len(batches))
	for i, b := range batches {
		if pos[i], err = n.log.Append(b.Records...); err != nil {
			break
		}
	}
	if err == nil {
		err = n.log.Sync()
	}
	for i, b := range batches {
		b.Done(pos[i], err)
	}
	return true
}

// Pump steps, with Options.Manual, until nothing is left to do.
func (n *Node) Pump() {
	for n.Step() {
	}
}

func (n *Node) pumpUntil(ch <-chan struct{}) error {
	for {
		select {
		case <-ch:
			return nil
		default:
		}
		if !n.Step() {
			if err := n.Err(); err != nil {
				return err
			}
			return ErrClosed
		}
	}
}

type metrics struct {
	proposals   prometheus.Counter
	checkpoints prometheus.Histogram
	scrubbed    prometheus.Counter

	scrubbedPartitions prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		proposals: prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_replica_proposals_total", Help: "Proposals answered."}),
		checkpoints: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outrelay_replica_checkpoint_seconds", Help: "Time to write a checkpoint, segment syncs included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		scrubbed: prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_replica_scrubbed_bytes_total", Help: "Bytes of segments that were read and checked in the background."}),
		scrubbedPartitions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outrelay_replica_scrubbed_partitions_total", Help: "Partitions whose segments were all checked in the background, each once a day.",
		}),
	}
	if r != nil {
		r.MustRegister(m.proposals, m.checkpoints, m.scrubbed, m.scrubbedPartitions)
	}
	return m
}
