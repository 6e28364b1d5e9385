// Package consumer runs managed groups: it takes committed records of the log to a sink that keeps the group's offsets, so that each
// record takes effect once. It never trusts Kafka's group offsets and never imports the broker: the log is reached as a client.
//
// A group uses two clients. One is a member of the Kafka group and learns which partitions are ours; it fetches nothing. The other is in
// no group and fetches what the workers tell it to, from the offsets that the sink holds. Between them stands one worker per
// partition, which drives a pure state machine (machine.go).
package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/sinks"
)

// Group is one managed consumer group in this process. Its methods may be called concurrently, Run once.
type Group struct {
	o       Options
	metrics *metrics

	mu      sync.Mutex // guards what follows
	session *session   // nil until the sink is open
	waiting error      // why it is not
}

// session is what a running group has.
type session struct {
	g        *Group
	store    sinks.OffsetStore
	combiner *combiner   // nil when the store takes one batch at a time
	member   *kgo.Client // in the group
	fetcher  *fetcher    // in no group
	log      *logClient
	turns    sync.RWMutex // read-locked by every transaction, locked by those that must be alone
	ctx      context.Context

	mu       sync.Mutex // guards what follows; never held while a worker is waited for
	noTopics bool       // none of the group's topics exists yet
	ending   bool
	workers  map[outrelay.TopicPartition]*worker
	behindAt map[outrelay.TopicPartition]time.Time // since when a partition without fetched records is behind
	hinted   map[outrelay.TopicPartition]int64     // what Kafka was last told
}

// New checks o and returns a group that does nothing until Run. Errors are of class outrelay.ErrConfig.
func New(o Options) (*Group, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	g := &Group{o: o, metrics: newMetrics(), waiting: errors.New("not started")}
	if err := g.metrics.register(g, o.Registerer); err != nil {
		return nil, fmt.Errorf("group %s: metrics: %w: %w", o.Name, outrelay.ErrConfig, err)
	}
	return g, nil
}

// Run opens the sink, joins the group and works until ctx ends; then it lets each partition finish the transaction that is under way. It
// returns nil when ctx ended, else why the group cannot work (see Options.Sink).
func (g *Group) Run(ctx context.Context) error {
	store, err := g.openSink(ctx)
	if err != nil || store == nil {
		return err
	}
	defer func() { _ = store.Close() }()
	s := &session{
		g: g, store: store, workers: map[outrelay.TopicPartition]*worker{},
		behindAt: map[outrelay.TopicPartition]time.Time{}, hinted: map[outrelay.TopicPartition]int64{},
	}
	// Workers outlive ctx: what they have under way they finish.
	work, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()
	s.ctx = work
	if m, ok := store.(sinks.MultiApplier); ok {
		s.combiner = newCombiner(m, &s.turns, &g.o, g.metrics)
		defer s.combiner.wg.Wait()
	}
	if err := s.connect(); err != nil {
		return err
	}
	g.mu.Lock()
	g.session, g.waiting = s, nil
	g.mu.Unlock()

	var loops sync.WaitGroup
	loops.Go(func() { s.fetcher.run(work) })
	loops.Go(func() { s.pollMember(work) })
	loops.Go(func() { s.housekeep(work) })
	<-ctx.Done()
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.stopWorkers(nil, g.o.StopTimeout)
	s.hint(work, hintTimeout)
	s.member.CloseAllowingRebalance()
	cancelWork()
	loops.Wait()
	s.fetcher.cl.Close()
	g.mu.Lock()
	g.session, g.waiting = nil, errors.New("stopped")
	g.mu.Unlock()
	return nil
}

// openSink tries until it works, or fails in a way that waiting does not mend. An environment that is wrong is waited out: somebody mends it without
// knowing of us, and other groups go on meanwhile. (nil, nil): ctx ended.
func (g *Group) openSink(ctx context.Context) (sinks.OffsetStore, error) {
	for attempt := 0; ; attempt++ {
		store, err := g.o.Sink(ctx)
		if err == nil {
			return store, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		for _, final := range []error{outrelay.ErrConfig, outrelay.ErrDataHalt} {
			if errors.Is(err, final) {
				return nil, fmt.Errorf("group %s: %w", g.o.Name, err)
			}
		}
		g.o.Logger.Warn("sink cannot be opened yet", "err", err)
		g.mu.Lock()
		g.waiting = err
		g.mu.Unlock()
		if backoff.Sleep(ctx, g.o.Clock, g.o.backoff.Delay(attempt, nil)) != nil {
			return nil, nil
		}
	}
}

// connect makes the two clients. They connect by themselves, and again when they must.
func (s *session) connect() error {
	o := &s.g.o
	common := append(slices.Clone(o.Client), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableClientMetrics())
	fetch, err := kgo.NewClient(append(slices.Clone(common),
		kgo.KeepControlRecords(), // a drained partition's next offset is behind the last marker
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMinBytes(1), kgo.FetchMaxWait(fetchWaitMax),
		kgo.FetchMaxBytes(fetchBytesMax), kgo.FetchMaxPartitionBytes(int32(min(o.BufferBytes, fetchPartitionBytesMax))),
		kgo.MetadataMinAge(metadataAgeMin), kgo.MetadataMaxAge(metadataAgeMax),
	)...)
	if err != nil {
		return fmt.Errorf("group %s: client: %w: %w", o.Name, outrelay.ErrConfig, err)
	}
	opts := append(slices.Clone(common),
		kgo.ConsumerGroup(o.Name), kgo.ConsumeTopics(o.Topics...), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(o.SessionTimeout), kgo.HeartbeatInterval(o.SessionTimeout/4), kgo.RebalanceTimeout(rebalanceTimeout),
		// The member fetches nothing: no partition is left to it, and Kafka's offsets are not looked at.
		kgo.AdjustFetchOffsetsFn(func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return nil, nil
		}),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.assigned(m) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.stopWorkers(m, o.StopTimeout) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.stopWorkers(m, 0) }),
		kgo.MetadataMinAge(metadataAgeMin), kgo.MetadataMaxAge(metadataAgeMax),
	)
	if o.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(o.InstanceID))
	}
	// The fetcher must be there before the member can be told of partitions.
	s.fetcher = newFetcher(fetch, o.Logger)
	if s.combiner != nil {
		s.fetcher.expect = s.combiner.expect
	}
	s.log = &logClient{cl: fetch, logID: o.LogID}
	s.mu.Lock() // callbacks wait until member is set
	defer s.mu.Unlock()
	if s.member, err = kgo.NewClient(opts...); err != nil {
		fetch.Close()
		return fmt.Errorf("group %s: client: %w: %w", o.Name, outrelay.ErrConfig, err)
	}
	return nil
}

const (
	fetchBytesMax = 8 << 20
	// A partition that was paused is in no fetch until the one under way for the others has ended: when those have nothing new, after
	// this long. The queue's other half must last until then.
	fetchWaitMax           = 100 * time.Millisecond
	fetchPartitionBytesMax = 1 << 20
	metadataAgeMin         = 250 * time.Millisecond // a topic that does not exist yet is asked for this often
	metadataAgeMax         = 15 * time.Second       // and a new partition is noticed within this
	rebalanceTimeout       = 30 * time.Second
	housekeepEvery         = time.Second
	hintTimeout            = time.Second
	lookTimeout            = 5 * time.Second
)

// assigned starts a worker for each new partition.
func (s *session) assigned(m map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	for topic, partitions := range m {
		for _, n := range partitions {
			tp := outrelay.TopicPartition{Topic: topic, Partition: n}
			if s.workers[tp] != nil {
				continue
			}
			w := newWorker(s.g, s, tp)
			s.workers[tp] = w
			go w.run()
		}
	}
}

// stopWorkers ends the workers of m, all when m is nil, and waits for them: grace for the transactions that are under way, then they are cut.
func (s *session) stopWorkers(m map[string][]int32, grace time.Duration) {
	s.mu.Lock()
	var stopping []*worker
	for tp, w := range s.workers {
		if m == nil || slices.Contains(m[tp.Topic], tp.Partition) {
			stopping = append(stopping, w)
			delete(s.workers, tp)
			delete(s.hinted, tp)
		}
	}
	s.mu.Unlock()
	for _, w := range stopping {
		w.end()
	}
	t := s.g.o.Clock.NewTimer(grace)
	defer t.Stop()
	for _, w := range stopping {
		select {
		case <-w.done:
			continue
		case <-t.C():
		}
		for _, w := range stopping {
			w.cut()
		}
		break
	}
	for _, w := range stopping {
		<-w.done
	}
	if len(stopping) > 0 && grace > 0 {
		s.hintOf(s.ctx, stopping, hintTimeout)
	}
}

// pollMember takes what the group's client has to say besides its callbacks: errors.
func (s *session) pollMember(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		s.member.PollFetches(ctx).EachError(func(topic string, partition int32, err error) {
			if ctx.Err() != nil || errors.Is(err, kgo.ErrClientClosed) || err.Error() == last {
				return
			}
			last = err.Error()
			s.g.o.Logger.Warn("group membership", "topic", topic, "partition", partition, "err", err)
		})
	}
}

// housekeep looks at the log's ends, for the lag, and tells Kafka's tools where the group is.
func (s *session) housekeep(ctx context.Context) {
	s.lookAtTopics(ctx) // at once: a group that waits for its topics is ready
	for backoff.Sleep(ctx, s.g.o.Clock, housekeepEvery) == nil {
		s.lookAtTopics(ctx)
		s.lookAtEnds(ctx)
		s.hint(ctx, hintTimeout)
	}
}

// lookAtTopics tells a group that waits for its topics, which cannot join, from one that cannot reach the log; and it notices a topic
// that was created again sooner than a client that looks at metadata now and then.
func (s *session) lookAtTopics(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, ids, err := s.log.identities(ctx, s.g.o.Topics)
	if err != nil {
		return
	}
	none := true
	for _, i := range ids {
		none = none && errors.Is(i.err, kerr.UnknownTopicOrPartition)
	}
	s.mu.Lock()
	s.noTopics = none
	s.mu.Unlock()
	for _, w := range s.all() {
		if i, ok := ids[w.tp.Topic]; ok && i.err == nil {
			w.q.sawTopic(i.id)
		}
	}
}

func (s *session) lookAtEnds(ctx context.Context) {
	ws := s.all()
	of := map[string][]int32{}
	for _, w := range ws {
		of[w.tp.Topic] = append(of[w.tp.Topic], w.tp.Partition)
	}
	if len(of) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ends, err := s.log.offsets(ctx, of, timestampLatest, true)
	if err != nil {
		return // the next look is soon
	}
	now := s.g.o.Clock.Now()
	for _, w := range ws {
		if e, ok := ends[w.tp]; ok && e.err == nil {
			w.q.sawStable(e.offset)
		}
		st := w.status(now)
		s.mu.Lock()
		if st.LagRecords == 0 {
			delete(s.behindAt, w.tp)
		} else if s.behindAt[w.tp].IsZero() {
			s.behindAt[w.tp] = now
		}
		s.mu.Unlock()
	}
}

// behind is how long a partition has been behind without anything fetched to tell its age.
func (s *session) behind(tp outrelay.TopicPartition, now time.Time) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.behindAt[tp]; !at.IsZero() {
		return max(0, now.Sub(at).Seconds())
	}
	return 0
}

// hint commits the group's Kafka offsets where they have moved. Nothing reads them here: they are for lag tools.
func (s *session) hint(ctx context.Context, timeout time.Duration) {
	s.hintOf(ctx, s.all(), timeout)
}

func (s *session) hintOf(ctx context.Context, ws []*worker, timeout time.Duration) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	s.mu.Lock()
	for _, w := range ws {
		w.mu.Lock()
		next := w.view.next
		w.mu.Unlock()
		if old, ok := s.hinted[w.tp]; next < 0 || ok && old == next {
			continue
		}
		s.hinted[w.tp] = next
		if offsets[w.tp.Topic] == nil {
			offsets[w.tp.Topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[w.tp.Topic][w.tp.Partition] = kgo.EpochOffset{Epoch: -1, Offset: next}
	}
	s.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s.member.CommitOffsetsSync(ctx, offsets, nil) // best effort
}

func (s *session) all() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*worker, 0, len(s.workers))
	for _, w := range s.workers {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *worker) int {
		return cmp.Or(cmp.Compare(a.tp.Topic, b.tp.Topic), cmp.Compare(a.tp.Partition, b.tp.Partition))
	})
	return out
}

// Ready reports why the group cannot work: the sink is not open, the group not joined, or a partition halted. A group none of whose
// topics exists yet is ready.
func (g *Group) Ready() error {
	g.mu.Lock()
	s, waiting := g.session, g.waiting
	g.mu.Unlock()
	if s == nil {
		return fmt.Errorf("group %s: %w", g.o.Name, waiting)
	}
	s.mu.Lock()
	noTopics := s.noTopics
	s.mu.Unlock()
	if id, _ := s.member.GroupMetadata(); id == "" && !noTopics {
		return fmt.Errorf("group %s: not joined yet", g.o.Name)
	}
	for _, p := range g.Status() {
		if p.State == StateHalted {
			return fmt.Errorf("group %s: %s is halted: %s", g.o.Name, p.TopicPartition, p.LastError)
		}
	}
	return nil
}

// Status returns the partitions assigned to this process, sorted. It does no I/O.
func (g *Group) Status() []PartitionStatus {
	g.mu.Lock()
	s := g.session
	g.mu.Unlock()
	if s == nil {
		return nil
	}
	now := g.o.Clock.Now()
	var out []PartitionStatus
	for _, w := range s.all() {
		out = append(out, w.status(now))
	}
	return out
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }
