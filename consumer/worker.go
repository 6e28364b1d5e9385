package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sinks"
)

// worker drives one partition's machine: it does what the machine asks for and tells it what came of it. One goroutine owns the
// machine; what others may see is in view.
type worker struct {
	g    *Group
	s    *session
	tp   outrelay.TopicPartition
	m    *machine
	q    *queue
	stop chan struct{} // closed: end after what is under way
	once sync.Once
	cut  context.CancelFunc // ends what is under way
	ctx  context.Context    // ended by cut
	done chan struct{}      // closed when the goroutine has ended

	topicID  [16]byte // of the last claim
	expected bool     // by the combiner: what is done next is a batch for it, or unexpect

	mu   sync.Mutex // guards view
	view view
}

// view is what status, metrics and the offset hint see of a partition.
type view struct {
	state       State
	epoch, next int64
	pending     int
	oldest      time.Time // when the oldest pending record was committed at its source, or published
	err         error
	blockedAt   int64
	applied     time.Time // last time that something was applied
}

func newWorker(g *Group, s *session, tp outrelay.TopicPartition) *worker {
	w := &worker{g: g, s: s, tp: tp, q: newQueue(g.o.BufferBytes), stop: make(chan struct{}), done: make(chan struct{})}
	w.m = newMachine(machineConf{
		group: g.o.Name, tp: tp, batchRecords: g.o.BatchRecords, batchBytes: g.o.BatchBytes,
		backoff: g.o.backoff, blocked: g.o.blockedBackoff, decide: g.o.Failure.Decide,
	}, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	w.ctx, w.cut = context.WithCancel(s.ctx)
	w.publish()
	return w
}

func (w *worker) end() { w.once.Do(func() { close(w.stop) }) }

// run works until stop is closed or the worker is cut.
func (w *worker) run() {
	ctx := w.ctx
	defer close(w.done)
	defer w.cut()
	defer w.unexpect()
	defer w.s.fetcher.drop(w.tp, w.q)
	ev := event{kind: evStart}
	for {
		before, beforeErr := w.m.state, w.m.err
		act := w.m.step(ev)
		if w.q.release(w.m.bytes) {
			w.s.fetcher.resume(w.tp)
		}
		if act.kind != actApply || act.apart {
			w.unexpect()
		}
		w.publish()
		w.logChange(before, beforeErr)
		select {
		case <-w.stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		var ok bool
		if ev, ok = w.perform(ctx, act); !ok {
			return
		}
	}
}

// perform does one action; false means that the worker ends.
func (w *worker) perform(ctx context.Context, act action) (event, bool) {
	switch act.kind {
	case actCheck:
		return event{kind: evChecked, err: member(ctx, w.s.member, w.g.o.Name, w.g.o.InstanceID)}, ctx.Err() == nil
	case actClaim:
		c, err := w.claim(ctx)
		return event{kind: evClaimed, claim: c, err: err}, ctx.Err() == nil
	case actBounds:
		start := &w.g.o.Start
		if w.m.claim.Next >= 0 {
			start = nil
		}
		b, err := w.s.log.bounds(ctx, w.tp, start)
		return event{kind: evBounds, bounds: b, err: err}, ctx.Err() == nil
	case actSeek:
		return event{kind: evSeeked, err: w.s.fetcher.seek(ctx, w.tp, w.q, act.offset, w.topicID)}, ctx.Err() == nil
	case actApply:
		return event{kind: evApplied, err: w.apply(ctx, act)}, true
	case actWait:
		return w.wait(ctx, act.wait)
	case actIdle:
		return w.idle(ctx)
	}
	panic("BUG: action " + act.kind.String())
}

func (w *worker) wait(ctx context.Context, d time.Duration) (event, bool) {
	t := w.g.o.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return event{kind: evWaited}, true
	case <-w.stop:
	case <-ctx.Done():
	}
	return event{}, false
}

func (w *worker) idle(ctx context.Context) (event, bool) {
	stopping := false
	w.q.rest()
	select {
	case <-w.q.ready:
	case <-w.stop:
		stopping = true
	case <-ctx.Done():
		stopping = true
	}
	if w.expected = w.q.rouse(); stopping {
		return event{}, false
	}
	records, position, err := w.q.take(w.m.bytes)
	if err != nil {
		return event{kind: evLost, err: err}, true
	}
	return event{kind: evFetched, records: convert(records, w.topicID), fetched: position}, true
}

// claim takes the partition for the log and the topic as they are now: that is how a recreated one is noticed.
func (w *worker) claim(ctx context.Context) (sinks.Claim, error) {
	logID, topicID, err := w.s.log.identity(ctx, w.tp.Topic)
	if err != nil {
		return sinks.Claim{}, err
	}
	c, err := w.s.store.Claim(ctx, w.g.o.Name, sinks.Partition{LogID: logID, TopicID: topicID, Topic: w.tp.Topic, Partition: w.tp.Partition})
	if err == nil {
		w.topicID = topicID
	}
	return c, err
}

// unexpect tells the combiner that this worker has nothing for it now.
func (w *worker) unexpect() {
	if w.expected {
		w.expected = false
		w.s.combiner.unexpect()
	}
}

// apply applies a batch together with those of other partitions, or alone where it must be or where together has failed.
func (w *worker) apply(ctx context.Context, act action) error {
	err := errApart
	if c := w.s.combiner; c != nil && !act.apart {
		w.expected, err = c.apply(ctx, act.batch, act.bytes, w.expected)
	}
	if errors.Is(err, errApart) {
		w.unexpect()
		err = w.applyApart(ctx, act)
	}
	if err != nil {
		w.g.metrics.failed(err)
		return err
	}
	failpoint.Hit("C14") // applied, but Kafka's own offset is not yet committed
	now := w.g.o.Clock.Now()
	w.g.metrics.applied(act.batch, now)
	w.mu.Lock()
	w.view.applied = now
	w.mu.Unlock()
	return nil
}

// applyApart applies a batch in a transaction of its own.
func (w *worker) applyApart(ctx context.Context, act action) error {
	if act.exclusive {
		w.s.turns.Lock()
		defer w.s.turns.Unlock()
	} else {
		w.s.turns.RLock()
		defer w.s.turns.RUnlock()
	}
	from := w.g.o.Clock.Now()
	err := w.s.store.Apply(ctx, act.batch)
	if err == nil {
		w.g.metrics.transaction(1, w.g.o.Clock.Now().Sub(from))
	}
	return err
}

// publish makes the machine's state visible.
func (w *worker) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.state, w.view.epoch, w.view.next = w.m.state, w.m.claim.Epoch, w.m.next
	w.view.pending, w.view.err, w.view.blockedAt = len(w.m.pending), w.m.err, w.m.blockedAt
	w.view.oldest = time.Time{}
	if len(w.m.pending) > 0 {
		w.view.oldest = committedAt(&w.m.pending[0])
	}
}

// committedAt is the time of the source's commit, else of publishing.
func committedAt(r *sinks.Record) time.Time {
	if v := r.Header(sinks.HeaderCommittedAt); v != nil {
		if t, err := time.Parse(time.RFC3339Nano, string(v)); err == nil {
			return t
		}
	}
	return r.Timestamp
}

func (w *worker) logChange(before State, beforeErr error) {
	s, err := w.m.state, w.m.err
	if s == before && (err == nil || beforeErr != nil && err.Error() == beforeErr.Error()) {
		return
	}
	log := w.g.o.Logger.With("partition", w.tp.String(), "next_offset", w.m.next, "epoch", w.m.claim.Epoch)
	switch {
	case s == StateHalted:
		log.Error("partition halted", "err", err)
	case s == StateBlocked:
		log.Error("partition blocked by a record that fails by itself", "offset", w.m.blockedAt, "err", err)
	case s == StatePaused:
		log.Warn("partition paused", "err", err)
	case errors.Is(err, outrelay.ErrFenced):
		log.Warn("partition fenced by another owner", "err", err)
	case s == StateRunning && s != before:
		log.Info("partition running")
	default:
		log.Debug("partition", "state", s, "err", err)
	}
}

// status is the partition as people see it.
func (w *worker) status(now time.Time) PartitionStatus {
	queued, oldest, position, stable := w.q.depth()
	w.mu.Lock()
	v := w.view
	w.mu.Unlock()
	st := PartitionStatus{
		TopicPartition: w.tp, State: v.state, Epoch: v.epoch, NextOffset: v.next, LogEnd: max(stable, v.next), BlockedAt: v.blockedAt, LastApplied: v.applied,
	}
	if v.err != nil {
		st.LastError = v.err.Error()
	}
	// What was fetched is counted in records, the rest of the log in offsets, markers among them: nobody has seen it yet.
	st.LagRecords = int64(v.pending+queued) + max(0, st.LogEnd-max(position, v.next, 0))
	since := v.oldest
	if since.IsZero() && oldest != nil {
		since = kgoTime(oldest)
	}
	switch {
	case st.LagRecords == 0:
	case !since.IsZero():
		st.LagSeconds = max(0, now.Sub(since).Seconds())
	default:
		st.LagSeconds = w.s.behind(w.tp, now)
	}
	return st
}

func kgoTime(r *kgo.Record) time.Time {
	c := convert([]*kgo.Record{r}, [16]byte{})
	return committedAt(&c[0])
}
