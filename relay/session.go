package relay

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/sources"
)

// session is one run from the position in the log to the first error. Nothing is carried from one session to the next: whatever the
// error was, ambiguous or not, the log says what is in (R4).
type session struct {
	r      *Relay
	o      Options
	admin  *kgo.Client // plain: topics, positions
	stream sources.Stream
	router *router
	hand   *handoff
	pub    *publisher
	pos    PositionRecord // the last that stands in the log
	intent string         // stands in the log instead of a position: an earlier start began to initialise the source
}

// completeLast has the last transaction of this source ended where an external log has forgotten to: see kafka.CompleteTransaction.
func (s *session) completeLast(ctx context.Context) error {
	if !s.o.External {
		return nil
	}
	if err := s.o.Owned(ctx); err != nil {
		return kafka.Wrap(err, "ask whether source "+string(s.o.Source)+" is ours")
	}
	m, err := kafka.CompleteTransaction(ctx, s.admin, s.o.Kafka.TransactionalID(s.o.Source))
	if err == nil && m.Partitions > 0 {
		s.o.Logger.Warn("the log's coordinator had decided how the last transaction ends, and not written it everywhere: written now", "source", s.o.Source, "commit", m.Commit, "partitions", m.Partitions)
		s.o.Metrics.Completed.WithLabelValues(string(s.o.Source)).Inc()
	}
	return err
}

// session relays until an error; progressed tells that something was committed. The source is confirmed nothing that is not in the log.
func (r *Relay) session(ctx context.Context) (progressed bool, err error) {
	s := &session{r: r, o: r.o, hand: newHandoff(r.o.GatherBytesMax)}
	if s.admin, err = kafka.NewClient(r.o.Kafka); err != nil {
		return false, err
	}
	defer s.admin.Close()
	if s.router, err = newRouter(r.o, s.ensureTopic); err != nil {
		return false, err
	}
	if err := s.ensureTopics(ctx); err != nil {
		return false, err
	}
	s.pub = newPublisher(s)
	defer func() { s.pub.end(err) }()
	if err := s.completeLast(ctx); err != nil {
		return false, err
	}
	found, err := s.pub.openAndRead(ctx, false)
	if err != nil {
		return false, err
	}
	if !found {
		if err := s.init(ctx); err != nil {
			return false, err
		}
	}
	r.set(func(st *Status) {
		st.Position, st.Place, st.CommittedAt, st.Events = s.pos.Position, s.pos.Place, s.pos.CommittedAt, s.pos.Events
	})
	if s.stream, err = r.o.From.Open(ctx, s.pos.Position); err != nil {
		return false, fmt.Errorf("source %s at %s: %w", r.o.Source, s.pos.Place, err)
	}
	r.o.Logger.Info("source opened", "source", r.o.Source, "place", s.pos.Place, "events", s.pos.Events)
	r.enter(StateRunning, nil)
	gctx, stop := context.WithCancel(ctx)
	gathered := make(chan struct{})
	go func() {
		defer close(gathered)
		s.hand.fail(s.gather(gctx))
	}()
	r.handoff.Store(s.hand)
	defer r.handoff.Store(nil)
	defer func() {
		stop()
		<-gathered
		if cerr := s.stream.Close(); cerr != nil {
			r.o.Logger.Debug("closing the source's stream", "source", r.o.Source, "err", cerr)
		}
	}()
	return s.publish(ctx)
}

// gather reads transactions and routes them into the handoff until an error.
func (s *session) gather(ctx context.Context) error {
	var parts partsInOrder
	for {
		t, err := s.stream.Next(ctx)
		if err != nil {
			return s.named(err)
		}
		if err := parts.check(&t); err != nil {
			return err
		}
		if t.Position.Source == "" {
			t.Position.Source = s.o.Source
		}
		if err := s.hand.put(ctx, &t, func(g *gather) error { return s.route(ctx, g, &t) }); err != nil {
			return err
		}
	}
}

func (s *session) route(ctx context.Context, g *gather, t *outrelay.Txn) error {
	s.router.begin(t)
	for i := range t.Events {
		ev := &t.Events[i]
		err := s.router.route(ctx, g, ev)
		var bad *unroutable
		if errors.As(err, &bad) {
			err = s.unroutable(ctx, g, t, ev, bad)
		}
		if err != nil {
			return err
		}
		g.events++
	}
	return nil
}

// publish commits what was gathered, one Kafka transaction at a time, while the next gathers.
func (s *session) publish(ctx context.Context) (progressed bool, err error) {
	next := s.o.Clock.Now().Add(s.o.IdleEvery)
	for {
		idle := s.o.Clock.NewTimer(next.Sub(s.o.Clock.Now()))
		g, err := s.hand.take(ctx, idle.C())
		idle.Stop()
		if err != nil {
			return progressed, err
		}
		committed, err := s.pub.publish(ctx, g)
		if err != nil {
			return progressed, err
		}
		if committed {
			progressed = true
			next = s.o.Clock.Now().Add(s.o.IdleEvery)
		}
		s.hand.giveBack(g)
	}
}

// ensureTopics makes the topics that must stand before anything is relayed.
func (s *session) ensureTopics(ctx context.Context) error {
	want := internalTopics(s.o.Kafka)
	for _, t := range s.o.Topics {
		def(&t.Partitions, s.o.Partitions)
		want = append(want, t)
	}
	for _, t := range want {
		st, err := s.o.Kafka.EnsureTopic(ctx, s.admin, t.Name, t.Partitions, t.Configs)
		if err != nil {
			return err
		}
		if err := checkInternal(ctx, s.o.Kafka, s.admin, s.o.Logger, t.Name, st); err != nil {
			return err
		}
		if len(st.Differs) > 0 {
			s.o.Logger.Warn("topic stands otherwise than configured; it was left as it is", "topic", t.Name, "differs", st.Differs)
		}
	}
	return nil
}

// ensureTopic is asked by the router before the first record goes to a topic.
func (s *session) ensureTopic(ctx context.Context, name string, t *tablePlan) (int32, *unroutable, error) {
	var st kafka.TopicState
	var err error
	if t.NoAutoCreate {
		st, err = kafka.Topic(ctx, s.admin, name)
		if errors.Is(err, kafka.ErrNoTopic) {
			return 0, &unroutable{code: "no-topic", topic: name, cause: fmt.Sprintf("topic %s does not exist and auto_create is off", name),
				fix: fmt.Sprintf("create it (outrelay topics create %s) or turn auto_create on", name)}, nil
		}
	} else {
		configs := map[string]string{}
		for k, v := range s.o.TopicConfigs {
			configs[k] = v
		}
		for k, v := range t.Configs {
			configs[k] = v
		}
		if s.o.RecordBytesMax > 1_000_000 {
			if _, ok := configs["max.message.bytes"]; !ok {
				configs["max.message.bytes"] = strconv.Itoa(s.o.RecordBytesMax + batchOverheadBytes)
			}
		}
		st, err = s.o.Kafka.EnsureTopic(ctx, s.admin, name, t.Partitions, configs)
	}
	if err != nil {
		return 0, nil, err
	}
	if st.Created {
		s.o.Logger.Info("topic created", "topic", name, "partitions", st.Partitions)
	}
	s.pub.topicMet(name, st.ID)
	return st.Partitions, nil, nil
}

// unroutable halts, or writes the row to the dead letter topic.
func (s *session) unroutable(ctx context.Context, g *gather, t *outrelay.Txn, ev *outrelay.Event, bad *unroutable) error {
	table := s.router.table(ev.Schema.Table)
	if table.OnUnroutable == UnroutableDeadLetter {
		return s.deadLetter(ctx, g, t, ev, table, bad)
	}
	return bad.halt(s.o.Source, t, ev, table)
}

// named says which source an error is of, unless it says so itself.
func (s *session) named(err error) error {
	var e *outrelay.Error
	if errors.As(err, &e) && e.Place != "" {
		return err
	}
	return fmt.Errorf("source %s: %w", s.o.Source, err)
}
