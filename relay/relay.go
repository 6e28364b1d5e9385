// Package relay moves transactions of a source into the log: route, gather, transact, confirm. It never looks inside a
// position, never keeps one anywhere but in the log, and confirms to the source only what the log has committed.
package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Relay relays one source. Run is called by one goroutine; Status by any.
type Relay struct {
	o       Options
	handoff atomic.Pointer[handoff] // of the session under way

	mu sync.Mutex
	st Status
}

// New checks the options; it does not connect.
func New(o Options) (*Relay, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, err := newRouter(o, nil); err != nil {
		return nil, err
	}
	if _, err := compression(o.Compression); err != nil {
		return nil, err
	}
	if err := kafka.CheckTopicName(DeadLetterTopic(o.Source)); err != nil {
		return nil, fmt.Errorf("source %q: its name is part of a topic's: %w: %w", o.Source, outrelay.ErrConfig, err)
	}
	r := &Relay{o: o}
	r.st = Status{Source: o.Source, State: StateUnassigned, Since: o.Clock.Now(), Partition: PositionPartition(o.Source)}
	o.Metrics.watch(r)
	return r, nil
}

// Run relays until ctx ends (then it returns nil) or the relay must stop: outrelay.ErrFenced when another relay of the source has taken
// over, a data halt or a configuration error when a person must decide. After any other error, also one of the environment (a server that is a
// standby, a privilege that is missing, nobody who listens) and also at the first start, it begins again, with backoff, from the position in the log:
// somebody mends that without knowing of us. Until it works Status says StateWaiting, and for what.
func (r *Relay) Run(ctx context.Context) error {
	polled := make(chan struct{})
	pctx, stop := context.WithCancel(ctx)
	go func() {
		defer close(polled)
		r.pollSource(pctx)
	}()
	defer func() {
		stop()
		<-polled
	}()
	r.enter(StateStarting, nil)
	for attempt := 0; ; attempt++ {
		progressed, err := r.session(ctx)
		switch {
		case ctx.Err() != nil:
			r.enter(StateUnassigned, nil)
			return nil
		case errors.Is(err, outrelay.ErrFenced):
			r.o.Metrics.Fenced.WithLabelValues(string(r.o.Source)).Inc()
			r.enter(StateFenced, err)
			return err
		case final(err):
			r.o.Metrics.Halts.WithLabelValues(string(r.o.Source)).Inc()
			r.enter(StateHalted, err)
			return err
		}
		if progressed {
			attempt = 0
		}
		delay := r.o.Backoff.Delay(attempt, nil)
		r.o.Metrics.Reconnects.WithLabelValues(string(r.o.Source)).Inc()
		r.set(func(st *Status) { st.Reconnects++ })
		r.enter(StateWaiting, err)
		r.o.Logger.Warn("relay begins again from the position in the log", "source", r.o.Source, "err", err, "in", delay)
		if backoff.Sleep(ctx, r.o.Clock, delay) != nil {
			r.enter(StateUnassigned, nil)
			return nil
		}
	}
}

// pollEvery is how often a running source is asked what it ignored.
const pollEvery = 15 * time.Second

// pollSource keeps the figures that only the source knows.
func (r *Relay) pollSource(ctx context.Context) {
	for backoff.Sleep(ctx, r.o.Clock, pollEvery) == nil {
		st := r.Status()
		if st.State != StateRunning {
			continue
		}
		got, err := r.o.From.Status(ctx, st.Position)
		if err != nil {
			continue // the stream will tell
		}
		for kind, n := range got.Ignored {
			r.o.Metrics.Ignored.WithLabelValues(string(r.o.Source), kind).Set(float64(n))
		}
	}
}

// final reports whether waiting does not mend err.
func final(err error) bool {
	return errors.Is(err, outrelay.ErrDataHalt) || errors.Is(err, outrelay.ErrConfig) || errors.Is(err, outrelay.ErrRecord)
}

// Init prepares the source's database and writes its first position, unless it has one; it returns the position in the log. It fences a
// relay of this source that is running.
func (r *Relay) Init(ctx context.Context) (_ PositionRecord, err error) {
	s := &session{r: r, o: r.o, hand: newHandoff(r.o.GatherBytesMax)}
	if s.admin, err = kafka.NewClient(r.o.Kafka); err != nil {
		return PositionRecord{}, err
	}
	defer s.admin.Close()
	if err := s.ensureTopics(ctx); err != nil {
		return PositionRecord{}, err
	}
	if pos, found, err := ReadPosition(ctx, s.admin, r.o.Kafka.PositionsTopic(), r.o.Source); err != nil || found {
		return pos, err
	}
	s.pub = newPublisher(s)
	defer func() { s.pub.end(err) }()
	found, err := s.pub.openAndRead(ctx, false)
	if err == nil && !found {
		err = s.init(ctx)
	}
	return s.pos, err
}

// Status returns a snapshot.
func (r *Relay) Status() Status {
	r.mu.Lock()
	st := r.st
	if st.OpenTxn != nil {
		open := *st.OpenTxn
		st.OpenTxn = &open
	}
	r.mu.Unlock()
	st.LagSeconds = r.lag().Seconds()
	return st
}

// lag is the time since the source's commit of the oldest transaction that was read and is not in the log.
func (r *Relay) lag() time.Duration {
	h := r.handoff.Load()
	if h == nil {
		return 0
	}
	oldest := h.oldest()
	if oldest.IsZero() {
		return 0
	}
	return max(0, r.o.Clock.Now().Sub(oldest))
}

func (r *Relay) set(fn func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.st)
}

func (r *Relay) enter(s State, err error) {
	r.set(func(st *Status) {
		if st.State != s {
			st.State, st.Since = s, r.o.Clock.Now()
		}
		switch {
		case err != nil:
			st.Error = err.Error()
		case s != StateStarting: // a start after an error keeps its text until it has worked
			st.Error = ""
		}
	})
}
