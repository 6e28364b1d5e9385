package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/txn"
)

type (
	groupShard = coordShard[group.Effects, *group.Coordinator]
	txnShard   = coordShard[txn.Effects, *txn.Coordinator]
)

// coordinators is the state of the group and transaction coordinators in the server: one shard for each partition of their topics.
// Which shard a group or a transactional id belongs to follows from its name as in Kafka.
type coordinators struct {
	once   sync.Once
	groups [internalCount]*groupShard
	txns   [internalCount]*txnShard
	ticks  []func() (time.Time, bool)
	ticker coordTicker
	pids   producerIDs
}

// shards makes the shards when the first partition asks for its observer, or when the server opens.
func (s *Server) shards() *coordinators {
	s.coordinators.once.Do(func() {
		s.ticker.wake = make(chan struct{}, 1)
		for i := range internalCount {
			g := &groupShard{s: s, topic: offsetsTopic, index: int32(i)}
			g.core = group.New(group.Options{
				InitialRebalanceDelay: s.opts.GroupInitialRebalanceDelay,
				Consumer: group.ConsumerOptions{
					SessionTimeout: s.opts.ConsumerGroupSession, HeartbeatInterval: s.opts.ConsumerGroupHeartbeat, Times: s.groupTimes,
				},
				Metadata:    func() group.Metadata { return s.topics.set() },
				NewMemberID: newMemberID,
			})
			g.load = func(c *group.Coordinator, now time.Time, _ int32) { c.Load(now) }
			g.send = func(e group.Effects) { s.sendGroup(g, e) }
			t := &txnShard{s: s, topic: txnStateTopic, index: int32(i), core: txn.New(txn.Options{})}
			t.load = func(c *txn.Coordinator, now time.Time, epoch int32) { c.Load(now, epoch) }
			t.send = func(e txn.Effects) { s.sendTxn(t, e) }
			s.coordinators.groups[i], s.coordinators.txns[i] = g, t
			s.ticks = append(s.ticks, g.tick, t.tick)
		}
	})
	return &s.coordinators
}

// memberPrefixMax bounds what of a client's id or instance id a member id begins with: with the rest it is a string of the protocol still.
const memberPrefixMax = 1000

// newMemberID returns an id that no member had before, beginning as Kafka's do.
func newMemberID(prefix string) string {
	if len(prefix) > memberPrefixMax {
		prefix = strings.ToValidUTF8(prefix[:memberPrefixMax], "")
	}
	return prefix + "-" + uuid.NewString()
}

// groupShard returns the coordinator of a group.
func (s *Server) groupShard(name string) *groupShard {
	return s.shards().groups[internalPartition(name)]
}

// txnShard returns the coordinator of a transactional id.
func (s *Server) txnShard(id string) *txnShard { return s.shards().txns[internalPartition(id)] }

// internalPartition is the partition of a coordinator's topic that a key belongs to: Java's String.hashCode, as in Kafka.
func internalPartition(key string) int32 {
	var h int32
	for _, u := range utf16.Encode([]rune(key)) {
		h = 31*h + int32(u)
	}
	return (h & 0x7fffffff) % internalCount
}

// openCoordinators starts the coordinators, after the partitions are open and before the first connection is accepted. Transactions whose end
// was decided before a crash get their markers as soon as this node leads their partition.
func (s *Server) openCoordinators(context.Context) error {
	s.shards()
	s.goRun(s.runTicker)
	return nil
}

// closeCoordinators stops them, after the connections were told to end and before the storage is closed. It may be called
// without openCoordinators.
func (s *Server) closeCoordinators() {
	if s.clock == nil {
		return
	}
	c := s.shards()
	for i := range internalCount {
		c.groups[i].close()
		c.txns[i].close()
	}
}

// waitCoordinator waits until this node leads the partition that coordinates key.
func (s *Server) waitCoordinator(ctx context.Context, topic string, key string) *kerr.Error {
	for range 1000 {
		p, err := s.lookup(topic, internalPartition(key))
		if err == nil {
			if _, leads := s.node.Leader(p.group); leads {
				return nil
			}
		}
		t := s.clock.NewTimer(tickFloor)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return kerr.CoordinatorNotAvailable
		}
	}
	return kerr.CoordinatorNotAvailable
}

// answerer is who gets the answer to one request of a coordinator. It is called once and must not block.
type answerer interface{ answer(r any) }

// aheadAnswerer is one that also wants to know when the record that its request wrote has its place in the log. ahead is called at most
// once, before answer, and may propose.
type aheadAnswerer interface {
	answerer
	ahead()
}

// waiter is an answerer for who waits.
type waiter struct{ ch chan any }

func newWaiter() *waiter { return &waiter{ch: make(chan any, 1)} }

func (w *waiter) answer(r any) { w.ch <- r } // has room: there is one answer

// wait returns the answer, or nil when ctx ends first.
func (w *waiter) wait(ctx context.Context) any {
	select {
	case r := <-w.ch:
		return r
	case <-ctx.Done():
		return nil
	}
}

// pending waits for an answer that is the response itself.
func (w *waiter) pending(c *conn, req kmsg.Request) pending {
	return func() kmsg.Response {
		r, ok := w.wait(c.ctx).(kmsg.Response)
		if !ok {
			return nil
		}
		r.SetVersion(req.GetVersion())
		return r
	}
}

// sendGroup carries out effects of a group coordinator.
func (s *Server) sendGroup(sh *groupShard, e group.Effects) {
	for _, w := range e.Writes {
		b := record.NewBuilder(coordBatch(w.ProducerID, w.ProducerEpoch))
		now := s.clock.Now().UnixMilli()
		for _, r := range w.Records {
			b.Add(now, r.Key, r.Value, nil)
		}
		sh.propose(b.Build(), replica.ProduceOptions{Guard: replica.TxnGuard(w.Guard)}, func(r replica.ProduceResult) {
			sh.wrote(r, func(now time.Time, c *group.Coordinator, err *kerr.Error) { c.Written(now, w.ID, err) })
		})
	}
	for _, r := range e.Replies {
		r.To.(answerer).answer(r.Response)
	}
}

// sendTxn carries out effects of a transaction coordinator.
func (s *Server) sendTxn(sh *txnShard, e txn.Effects) {
	for _, w := range e.Writes {
		b := record.NewBuilder(coordBatch(-1, -1))
		b.Add(s.clock.Now().UnixMilli(), w.Key, w.Value, nil)
		placed := func() {
			sh.do(func(now time.Time, c *txn.Coordinator) { c.Placed(now, w.ID) })
		}
		sh.propose(b.Build(), replica.ProduceOptions{Placed: placed}, func(r replica.ProduceResult) {
			sh.wrote(r, func(now time.Time, c *txn.Coordinator, err *kerr.Error) { c.Written(now, w.ID, err) })
		})
	}
	for _, m := range e.Markers {
		s.sendMarker(sh, m)
	}
	for _, to := range e.Ahead {
		if a, ok := to.(aheadAnswerer); ok {
			a.ahead()
		}
	}
	for _, ask := range e.NewIDs {
		s.pids.get(s, func(id int64, err *kerr.Error) {
			sh.do(func(now time.Time, c *txn.Coordinator) { c.ProducerID(now, ask, id, err) })
		})
	}
	for _, r := range e.Replies {
		r.To.(answerer).answer(r.Result)
	}
}

func (s *Server) sendMarker(sh *txnShard, m txn.Marker) {
	done := func(err *kerr.Error) {
		sh.do(func(now time.Time, c *txn.Coordinator) { c.MarkerWritten(now, m.ID, err) })
	}
	p, err := s.lookup(m.Partition.Topic, m.Partition.Partition)
	if err != nil {
		done(err)
		return
	}
	write := p.WriteMarker
	if m.Bumped {
		write = p.WriteMarkerV2
	}
	write(m.ProducerID, m.ProducerEpoch, m.Commit, m.CoordinatorEpoch, func(r replica.ProduceResult) {
		if r.Err != nil {
			done(kafkaError(r.Err))
			return
		}
		done(nil)
	})
}

func coordBatch(producerID int64, epoch int16) record.BuilderOptions {
	o := record.NoProducer(record.CodecNone)
	if producerID >= 0 {
		o.ProducerID, o.Epoch, o.Transactional = producerID, epoch, true
	}
	return o
}

// propose appends a batch to the shard's partition; done is called once.
func (sh *coordShard[E, C]) propose(batch []byte, o replica.ProduceOptions, done func(replica.ProduceResult)) {
	p, err := sh.s.lookup(sh.topic, sh.index)
	if err != nil {
		done(replica.ProduceResult{Err: kerr.NotLeaderForPartition})
		return
	}
	o.InternalControl = true
	p.Produce(batch, o, done)
}

// partitionTopics says for the coordinators which partitions exist, open here or not.
func (s *Server) partitionTopics() group.Topics { return s.topics.set().partitionTopics() }

func (ts *topicSet) partitionTopics() group.Topics {
	return func(tp group.TopicPartition) (id [16]byte, ok bool) {
		t := ts.byName[tp.Topic]
		if t == nil || tp.Partition < 0 || int(tp.Partition) >= len(t.partitions) {
			return id, false
		}
		return t.ID, true
	}
}

// Version implements group.Metadata.
func (ts *topicSet) Version() uint64 { return ts.version }

// Topic implements group.Metadata.
func (ts *topicSet) Topic(name string) (id [16]byte, partitions int32, ok bool) {
	t := ts.byName[name]
	if t == nil {
		return id, 0, false
	}
	return t.ID, int32(len(t.partitions)), true
}

// TopicName implements group.Metadata.
func (ts *topicSet) TopicName(id [16]byte) (string, bool) {
	t := ts.byID[id]
	if t == nil {
		return "", false
	}
	return t.Name, true
}

// TopicNames implements group.Metadata.
func (ts *topicSet) TopicNames() []string { return slices.Collect(maps.Keys(ts.byName)) }

// topicDeleted makes the groups forget the offsets of a topic that is gone. It does not block.
func (s *Server) topicDeleted(id [16]byte) {
	for _, sh := range s.shards().groups {
		sh.do(func(_ time.Time, c *group.Coordinator) { c.TopicDeleted(id) })
	}
}

// producerIDs hands out producer ids from blocks of group 0. A block that is not used up before a restart is lost, which does no harm.
type producerIDs struct {
	mu         sync.Mutex
	next, end  int64
	waiting    []func(id int64, err *kerr.Error)
	allocating bool
}

// producerIDBlock is how many ids a block has, as in Kafka.
const producerIDBlock = 1000

// get calls done once with a producer id that nobody else gets, perhaps from another goroutine.
func (p *producerIDs) get(s *Server, done func(id int64, err *kerr.Error)) {
	p.mu.Lock()
	if p.next < p.end {
		id := p.next
		p.next++
		p.mu.Unlock()
		done(id, nil)
		return
	}
	p.waiting = append(p.waiting, done)
	start := !p.allocating
	p.allocating = true
	p.mu.Unlock()
	if start {
		s.goRun(func() { p.allocate(s) })
	}
}

func (p *producerIDs) allocate(s *Server) {
	first, err := s.cluster.AllocateProducerIDs(s.ctx, producerIDBlock)
	p.mu.Lock()
	waiting := p.waiting
	p.waiting, p.allocating = nil, false
	if err == nil {
		p.next, p.end = first, first+producerIDBlock
	}
	p.mu.Unlock()
	for _, done := range waiting {
		if err != nil {
			done(-1, kerr.CoordinatorNotAvailable)
			continue
		}
		p.get(s, done)
	}
}
