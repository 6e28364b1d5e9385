package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/kafka"
)

const (
	// batchOverheadBytes is room for a batch's header and the framing of a record at the limit.
	batchOverheadBytes = 16 << 10
	// stopGrace is how long a transaction that has begun may take to end once the relay is told to stop.
	stopGrace = 5 * time.Second
	// unknownTopicRetries is generous: the router has just seen or made the topic.
	unknownTopicRetries = 20
)

// publisher writes gathers into the log in Kafka transactions, under the source's transactional id. One goroutine owns it; the
// client's promises and topicMet come from others, and mu is theirs.
type publisher struct {
	s  *session
	o  Options
	cl *kgo.Client

	longTimeout bool // the client's transactions have LargeTxnTimeout

	inTxn   bool
	began   time.Time
	bytes   int64 // of the open transaction
	records int64
	events  int64
	dead    int64
	oldest  time.Time
	split   bool // the source transaction under way was committed in part
	promise func(*kgo.Record, error)

	index       *index
	indexDue    []byte // value of an index record, carried by the next transaction
	indexAt     time.Time
	indexBytes  int64 // committed since the last index record
	control     []kgo.Record
	controlData []byte

	mu      sync.Mutex
	ids     map[string][16]byte
	failed  error // first error of a promise
	cur     outrelay.TopicPartition
	curNext int64
}

func newPublisher(s *session) *publisher {
	p := &publisher{s: s, o: s.o, index: newIndex(s.o.Source), ids: map[string][16]byte{}, indexAt: s.o.Clock.Now()}
	p.promise = p.onProduced
	return p
}

func compression(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none", "":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("compression %q: %w: it is none, gzip, snappy, lz4 or zstd", name, outrelay.ErrConfig)
}

// openAndRead takes the transactional id, which ends what any relay of this source had under way and fences it, and then reads the position: in this
// order, so that nothing can follow what was read (R3).
func (p *publisher) openAndRead(ctx context.Context, long bool) (found bool, err error) {
	if err := p.o.Owned(ctx); err != nil {
		return false, kafka.Wrap(err, "ask whether source "+string(p.o.Source)+" is ours")
	}
	codec, err := compression(p.o.Compression)
	if err != nil {
		return false, err
	}
	p.close()
	timeout := p.o.TxnTimeout
	if long {
		timeout = p.o.LargeTxnTimeout
	}
	p.cl, err = kafka.NewClient(p.o.Kafka,
		kgo.TransactionalID(p.o.Kafka.TransactionalID(p.o.Source)),
		kgo.TransactionTimeout(timeout),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kafka.Partitioner()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(p.o.RecordBytesMax+batchOverheadBytes)),
		// We flush by hand, so that records of all partitions share a request; what is buffered is bounded by the gather.
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(math.MaxInt32),
		kgo.UnknownTopicRetries(unknownTopicRetries),
	)
	if err != nil {
		return false, err
	}
	p.longTimeout = long
	if _, _, err := p.cl.ProducerID(ctx); err != nil {
		return false, kafka.Wrap(err, "take transactional id "+p.o.Kafka.TransactionalID(p.o.Source))
	}
	pos, found, err := ReadPosition(ctx, p.s.admin, p.o.Kafka.PositionsTopic(), p.o.Source)
	if err != nil {
		return false, err
	}
	p.s.intent = pos.Intent
	if found {
		p.s.pos = pos
	}
	return found, nil
}

// retime takes the transactional id again with the other timeout. What stands in the log must be what we wrote last, else somebody was
// there in between and everything we have gathered is void.
func (p *publisher) retime(ctx context.Context, long bool) error {
	was := p.s.pos
	found, err := p.openAndRead(ctx, long)
	if err != nil {
		return err
	}
	if !found || p.s.pos.Position.Token != was.Position.Token || p.s.pos.Events != was.Events {
		return fmt.Errorf("source %s: the position in the log is %s, ours was %s: another relay has been at work: %w",
			p.o.Source, p.s.pos.Place, was.Place, outrelay.ErrTransient)
	}
	return nil
}

// publish writes g. When g ends a Kafka transaction, that is committed and then confirmed to the source, and committed is true. The call outlives
// ctx by stopGrace at most, so that what has begun may end.
func (p *publisher) publish(ctx context.Context, g *gather) (committed bool, err error) {
	ctx, stop := graceful(ctx, p.o.TxnTimeout)
	defer stop()
	if err := p.begin(ctx, g); err != nil {
		return false, err
	}
	if g.events > 0 {
		failpoint.Hit("C2")
	}
	if err := p.produce(ctx, g); err != nil {
		return false, err
	}
	end := g.last
	if !end && p.tooLarge() {
		end = true
		if !p.split {
			p.split = true
			p.o.Metrics.Split.WithLabelValues(string(p.o.Source)).Inc()
		}
		p.o.Logger.Warn("source transaction is larger than one Kafka transaction may be; its rows become visible in parts",
			"source", p.o.Source, "place", g.place, "bytes", p.bytes, "limit", p.o.LargeBytesMax)
	}
	if !end {
		if err := p.flush(ctx); err != nil {
			return false, err
		}
		failpoint.Hit("relay.afterPartOfLarge")
		return false, nil
	}
	return true, p.finish(ctx, g)
}

// graceful returns a context that ends after the timeout, or stopGrace after ctx does. The client itself retries for ever; a transaction
// that makes no headway for its timeout is void.
func graceful(ctx context.Context, timeout time.Duration) (context.Context, func()) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	var mu sync.Mutex
	var t *time.Timer
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		t = time.AfterFunc(stopGrace, cancel)
	})
	return out, func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if t != nil {
			t.Stop()
		}
		cancel()
	}
}

func (p *publisher) begin(ctx context.Context, g *gather) error {
	if p.inTxn {
		return nil
	}
	if long := !g.last; long != p.longTimeout {
		if err := p.retime(ctx, long); err != nil {
			return err
		}
	}
	if err := p.cl.BeginTransaction(); err != nil {
		return kafka.Wrap(err, "begin a transaction of source "+string(p.o.Source))
	}
	p.inTxn, p.began = true, p.o.Clock.Now()
	p.bytes, p.records, p.events, p.dead, p.oldest = 0, 0, 0, 0, g.oldest
	p.s.r.set(func(st *Status) { st.OpenTxn = &OpenTxn{Since: p.began, Large: !g.last} })
	return nil
}

// tooLarge reports whether the open transaction must be committed before its source transaction has ended.
func (p *publisher) tooLarge() bool {
	return p.bytes >= p.o.LargeBytesMax || p.o.Clock.Now().Sub(p.began) >= p.o.LargeTxnTimeout*2/3
}

// produce hands g's records to the client and flushes every GatherBytesMax.
func (p *publisher) produce(ctx context.Context, g *gather) error {
	// The time of publishing, so that retention counts from arrival; the source's commit time travels in a header.
	now := p.o.Clock.Now()
	buffered := 0
	for i := range g.recs {
		r := &g.recs[i]
		r.Timestamp = now
		buffered += recordBytes(r)
		p.cl.Produce(ctx, r, p.promise)
		if buffered >= p.o.GatherBytesMax && i+1 < len(g.recs) {
			if err := p.flush(ctx); err != nil {
				return err
			}
			buffered = 0
		}
	}
	p.bytes += int64(g.bytes)
	p.records += int64(len(g.recs))
	p.events += int64(g.events)
	p.dead += int64(g.dead)
	p.s.r.set(func(st *Status) {
		if st.OpenTxn != nil {
			st.OpenTxn.Records, st.OpenTxn.Bytes = p.records, p.bytes
		}
	})
	return nil
}

// flush sends what is buffered and waits until all of it is acknowledged.
func (p *publisher) flush(ctx context.Context) error {
	err := p.cl.Flush(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		err = p.failed
	}
	if err == nil {
		return nil
	}
	if errors.Is(kafka.Class(err), outrelay.ErrRecord) {
		return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "record-refused", Place: "source " + string(p.o.Source),
			Cause: "the log refuses a record", Err: err, Fix: "raise max.message.bytes of the topic to record_bytes_max or more, then restart"}
	}
	return kafka.Wrap(err, "produce for source "+string(p.o.Source))
}

// onProduced is every record's promise. The client calls it from one goroutine at a time, in order within a partition.
func (p *publisher) onProduced(r *kgo.Record, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if p.failed == nil {
			p.failed = fmt.Errorf("%s: %w", r.Topic, err)
		}
		return
	}
	if r.Offset < 0 {
		return
	}
	if r.Topic != p.cur.Topic || r.Partition != p.cur.Partition {
		p.keepNext()
		p.cur = outrelay.TopicPartition{Topic: r.Topic, Partition: r.Partition}
	}
	p.curNext = r.Offset + 1
}

// keepNext notes the next offset of the partition that promises came for last. mu is held.
func (p *publisher) keepNext() {
	if p.cur.Topic != "" && !p.o.Kafka.Internal(p.cur.Topic) {
		p.index.touched[p.cur] = p.curNext
	}
	p.cur = outrelay.TopicPartition{}
}

// topicMet notes the id of a topic that records go to.
func (p *publisher) topicMet(name string, id [16]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids[name] = id
}

// finish adds the position (R1), commits, and only then confirms (R2).
func (p *publisher) finish(ctx context.Context, g *gather) error {
	pos := p.s.pos
	pos.Position, pos.Place, pos.InTxn = g.pos, g.place, !g.last
	pos.Events += p.events
	if !g.at.IsZero() {
		pos.CommittedAt = g.at
	}
	p.produceControl(ctx, pos)
	if err := p.flush(ctx); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return p.commit(ctx, pos, g) },
		func() error { return p.confirm(ctx, g.pos) },
	}
	if failpoint.Bug("confirm-before-commit") { // a checker that does not see this is no checker
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// produceControl adds the index record that is due and the position to the open transaction.
func (p *publisher) produceControl(ctx context.Context, pos PositionRecord) {
	now := p.o.Clock.Now()
	p.control = p.control[:0]
	if cap(p.control) < 2 {
		p.control = make([]kgo.Record, 0, 2) // the client points into it: it must not grow
	}
	key := []byte(p.o.Source)
	if p.indexDue != nil {
		p.control = append(p.control, kgo.Record{Topic: p.o.Kafka.IndexTopic(), Partition: kafka.PartitionOf(key, kafka.IndexPartitions), Timestamp: now, Key: key, Value: p.indexDue})
	}
	p.controlData = pos.Append(p.controlData[:0])
	p.control = append(p.control, kgo.Record{Topic: p.o.Kafka.PositionsTopic(), Partition: PositionPartition(p.o.Source), Timestamp: now, Key: key, Value: p.controlData})
	for i := range p.control {
		p.cl.Produce(ctx, &p.control[i], p.promise)
	}
}

// publishControl writes a record of the positions topic alone, in a transaction of its own: an intent, or nil, which withdraws one.
func (p *publisher) publishControl(ctx context.Context, value []byte) error {
	ctx, stop := graceful(ctx, p.o.TxnTimeout)
	defer stop()
	if err := p.begin(ctx, &gather{last: true}); err != nil {
		return err
	}
	rec := &kgo.Record{Topic: p.o.Kafka.PositionsTopic(), Partition: PositionPartition(p.o.Source), Timestamp: p.o.Clock.Now(), Key: []byte(p.o.Source), Value: value}
	p.cl.Produce(ctx, rec, p.promise)
	if err := p.flush(ctx); err != nil {
		return err
	}
	if err := kafka.Commit(ctx, p.cl); err != nil {
		return kafka.Wrap(err, "commit a transaction of source "+string(p.o.Source))
	}
	p.inTxn = false
	p.s.r.set(func(st *Status) { st.OpenTxn = nil })
	return nil
}

func (p *publisher) commit(ctx context.Context, pos PositionRecord, g *gather) error {
	failpoint.Hit("relay.beforeCommit")
	if err := kafka.Commit(ctx, p.cl); err != nil {
		return kafka.Wrap(err, "commit a transaction of source "+string(p.o.Source))
	}
	p.inTxn = false
	p.s.pos = pos
	p.indexDue = nil
	if g.last {
		p.split = false
	}
	p.count(pos)
	p.indexBytes += p.bytes
	failpoint.Hit("C3")
	return p.dueIndex(ctx, pos)
}

// confirm tells the source that everything up to pos is in the log. It is the one place in outrelay that does (R2).
func (p *publisher) confirm(ctx context.Context, pos outrelay.Position) error {
	if p.s.stream == nil {
		return nil // the first position, before the stream is open
	}
	if err := p.s.stream.Confirm(ctx, pos); err != nil {
		return fmt.Errorf("confirm to source %s: %w", p.o.Source, err)
	}
	return nil
}

func (p *publisher) count(pos PositionRecord) {
	m, src, now := p.o.Metrics, string(p.o.Source), p.o.Clock.Now()
	m.Events.WithLabelValues(src).Add(float64(p.events))
	m.Txns.WithLabelValues(src).Inc()
	m.Bytes.WithLabelValues(src).Add(float64(p.bytes))
	m.DeadLetters.WithLabelValues(src).Add(float64(p.dead))
	m.CommitTime.WithLabelValues(src).Observe(now.Sub(p.began).Seconds())
	p.s.r.set(func(st *Status) {
		st.Position, st.Place, st.CommittedAt, st.Events = pos.Position, pos.Place, pos.CommittedAt, pos.Events
		st.Txns++
		st.Bytes += p.bytes
		st.DeadLetters += p.dead
		st.OpenTxn = nil
	})
}

// dueIndex makes the pair of pos and the offsets reached, when it is time; the next transaction carries it.
func (p *publisher) dueIndex(ctx context.Context, pos PositionRecord) error {
	p.mu.Lock()
	p.keepNext()
	for t, id := range p.ids {
		p.index.ids[t] = id
	}
	p.mu.Unlock()
	now := p.o.Clock.Now()
	if len(p.index.touched) == 0 || now.Sub(p.indexAt) < p.o.IndexEvery && p.indexBytes < p.o.IndexBytes {
		return nil
	}
	if err := p.index.load(ctx, p.s.admin, p.o.Kafka.IndexTopic()); err != nil {
		return err
	}
	p.indexDue = p.index.record(pos).Append(nil)
	p.index.written()
	p.indexAt, p.indexBytes = now, 0
	return nil
}

// end closes the client. A transaction that is open is aborted when no next session comes to do it, so that readers do not wait
// for its timeout.
func (p *publisher) end(err error) {
	if p.inTxn && p.cl != nil && !errors.Is(err, outrelay.ErrFenced) && (final(err) || errors.Is(err, context.Canceled)) {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		if err := p.cl.AbortBufferedRecords(ctx); err == nil {
			if err := p.cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
				p.o.Logger.Warn("open transaction not aborted; readers wait for its timeout", "source", p.o.Source, "err", err)
			}
		}
	}
	p.inTxn = false
	p.s.r.set(func(st *Status) { st.OpenTxn = nil })
	p.close()
}

func (p *publisher) close() {
	if p.cl != nil {
		p.cl.Close()
		p.cl = nil
	}
}
