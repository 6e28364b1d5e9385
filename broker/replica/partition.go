package replica

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/invariant"
)

// Partition is one replica of a partition: the state machine whose segments are the log. A batch gets its offset, its leader epoch and its
// place in its producer's sequence when it is applied, from the log alone; only its first 16 bytes are stamped.
//
// Produce, Read and what describes the partition may be called concurrently, before AddGroup too (then with
// NOT_LEADER_OR_FOLLOWER). What implements StateMachine is for the Node.
//
// It keeps L2 (offsets follow one another), L4 (decided at apply), L5 (once), L6 (the last stable offset) and L7 (nothing goes back) of
// docs/invariants.md.
type Partition struct {
	o  PartitionOptions
	in binding

	log *segment.Log // appended by the shard; nil before Restore

	mu       sync.Mutex // guards the fields down to durable; held for no I/O
	ps       producers
	logStart int64
	watch    chan struct{} // nil: nobody waits
	frozen   mark          // as of the last Checkpoint
	durable  mark          // as of the last checkpoint that is on disk

	// Published once a round for readers.
	hw, lso, start atomic.Int64
	term           atomic.Uint64
	leads          atomic.Bool
	closed         atomic.Bool
	damage         atomic.Pointer[error] // nil: none is known
}

// mark is how far a checkpoint reaches: retention and compaction touch only segments wholly below.
type mark struct {
	logStart, activeBase int64
}

// binding is what a partition needs of the node.
type binding struct {
	propose func(payload []byte, placed func(), done func(any, error))
	buffer  func(n int) []byte // lends a payload of n bytes
	// onShard runs fn between two applies and waits for it. fn says whether the next checkpoint has something to say of the group that no entry brought.
	onShard func(fn func() (changed bool)) error
}

const defaultProducerExpiry = 24 * time.Hour

// PartitionDir returns the directory of one replica under base. It names topic id, partition and replica, so that a topic that was
// deleted and made again, or a replica that was placed again, never finds the files of its predecessor.
func PartitionDir(base string, topicID [16]byte, index int32, replicaID uint64) string {
	return path.Join(base, hex.EncodeToString(topicID[:])+"-"+strconv.Itoa(int(index))+"-"+strconv.FormatUint(replicaID, 10))
}

// NewPartition returns a partition; it does no I/O. Node.AddGroup opens it.
func NewPartition(o PartitionOptions) *Partition {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("topic", o.Topic, "partition", o.Index)
	if o.ProducerExpiry <= 0 {
		o.ProducerExpiry = defaultProducerExpiry
	}
	return &Partition{o: o, ps: newProducers(o.ProducerExpiry.Milliseconds())}
}

func (p *Partition) bind(b binding) { p.in = b }

func (p *Partition) config() TopicConfig {
	if p.o.Config == nil {
		return TopicConfig{Delete: true, RetentionMs: -1, RetentionBytes: -1}
	}
	return p.o.Config()
}

func (p *Partition) leaderChanged(term uint64, leads bool) {
	p.term.Store(term)
	p.leads.Store(leads)
}

// Apply implements StateMachine: the result of a batch or marker is a ProduceResult, of a log start entry the log start offset.
func (p *Partition) Apply(e Entry) any {
	d, err := decodeEntry(e.Payload)
	if err != nil {
		return Fatal{fmt.Errorf("%s/%d: %w", p.o.Topic, p.o.Index, err)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ps.advance(d.timeMs)
	switch d.kind {
	case entryBatch:
		return p.applyBatch(e, d)
	case entryTxnMarker:
		return p.applyMarker(e, d)
	default:
		p.logStart = max(p.logStart, min(d.logStart, p.log.NextOffset()))
		return p.logStart
	}
}

func (p *Partition) applyBatch(e Entry, d partitionEntry) any {
	dup, err := p.ps.check(d.batch, d.flags)
	switch {
	case err != nil:
		return ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.logStart, Err: err}
	case dup != nil:
		return ProduceResult{Base: dup.offset, LogAppendTime: dup.appendMs, LogStart: p.logStart, Duplicate: true}
	case p.ps.late(d.batch.ProducerID(), d.guard):
		return ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.logStart, Err: kerr.InvalidTxnState}
	}
	base, err := p.append(e, d.batch)
	if err != nil {
		return Fatal{err}
	}
	appendMs := int64(-1)
	if d.batch.LogAppendTime() {
		appendMs = d.batch.MaxTimestamp()
	}
	p.ps.appended(d.batch, base, appendMs)
	if p.o.Observer != nil && !d.batch.Control() {
		if err := p.o.Observer.ApplyBatch(base, d.batch); err != nil {
			// What a batch means to the coordinator is not the log's concern: it stands, and every replica skips it alike.
			p.o.Logger.Error("batch not understood by the coordinator", "offset", base, "err", err)
		}
	}
	return ProduceResult{Base: base, LogAppendTime: appendMs, LogStart: p.logStart}
}

// append writes a batch to the segments, in the page cache: the write-ahead log holds it until a checkpoint.
func (p *Partition) append(e Entry, b record.Batch) (base int64, err error) {
	base = p.log.NextOffset()
	err = p.log.Append(record.Stamp16(b, base, int32(e.Term)), b)
	if err != nil {
		return 0, fmt.Errorf("%s/%d at offset %d: %w", p.o.Topic, p.o.Index, base, err)
	}
	next := p.log.NextOffset()
	invariant.Check(next == base+int64(b.LastOffsetDelta())+1, "L2: %s/%d: offset %d after a batch at %d of %d records", p.o.Topic, p.o.Index, next, base, b.LastOffsetDelta()+1)
	return base, nil
}

func (p *Partition) applyMarker(e Entry, d partitionEntry) any {
	pid, epoch := d.batch.ProducerID(), d.batch.ProducerEpoch()
	commit, coordinatorEpoch, err := record.ParseEndTxnMarker(d.batch)
	if err != nil {
		return Fatal{fmt.Errorf("%s/%d: marker: %w: %w", p.o.Topic, p.o.Index, ErrCorrupt, err)}
	}
	v := p.ps.checkMarker(pid, epoch, coordinatorEpoch, d.flags&flagStrict != 0)
	switch {
	case v.err != nil:
		return ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.logStart, Err: v.err}
	case v.skip:
		p.ps.noteMarker(pid, e.Index)
		return ProduceResult{Base: -1, LogAppendTime: -1, LogStart: p.logStart, Duplicate: true}
	}
	base, err := p.append(e, d.batch)
	if err != nil {
		return Fatal{err}
	}
	first := p.ps.marked(pid, epoch, coordinatorEpoch)
	p.ps.noteMarker(pid, e.Index)
	if !commit && first >= 0 {
		a := segment.AbortedTxn{ProducerID: pid, First: first, Last: base, LSO: p.ps.lastStable(base + 1)}
		if err := p.log.AppendAborted(a); err != nil {
			return Fatal{fmt.Errorf("%s/%d: aborted transactions: %w", p.o.Topic, p.o.Index, err)}
		}
	}
	if p.o.Observer != nil {
		p.o.Observer.ApplyMarker(pid, epoch, commit)
	}
	return ProduceResult{Base: base, LogAppendTime: -1, LogStart: p.logStart}
}

// endRound publishes what a round applied and wakes who waits for it, once for all of its entries.
func (p *Partition) endRound() {
	p.mu.Lock()
	moved := p.publish()
	w := p.watch
	if moved {
		p.watch = nil
	}
	p.mu.Unlock()
	if moved && w != nil {
		close(w)
	}
}

// publish is called with mu held.
func (p *Partition) publish() (moved bool) {
	hw := p.log.NextOffset()
	lso := max(p.ps.lastStable(hw), p.logStart)
	p.start.Store(p.logStart)
	// The watermark last: a reader that sees it finds a last stable offset that is not older.
	moved = p.lso.Swap(lso) != lso
	return p.hw.Swap(hw) != hw || moved
}

// Checkpoint implements StateMachine.
func (p *Partition) Checkpoint() func() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.log.State()
	// The segments' own start follows the partition's here first, and only once this is on disk are files deleted: a restart finds
	// what the checkpoint says, or more.
	st.LogStartOffset = max(st.LogStartOffset, min(p.logStart, st.ActiveBase))
	p.frozen = mark{logStart: st.LogStartOffset, activeBase: st.ActiveBase}
	b := partitionBlob{logStart: p.logStart, segments: st.Marshal()}
	head := b.encode(&p.ps)
	var observed []byte
	if p.o.Observer != nil {
		observed = p.o.Observer.Snapshot()
	}
	return func() ([]byte, error) {
		if _, err := p.log.Sync(); err != nil {
			return nil, fmt.Errorf("%s/%d: %w", p.o.Topic, p.o.Index, err)
		}
		head = be32(head, uint32(len(observed)))
		return append(head, observed...), nil
	}
}

// checkpointed notes, on the shard, that the last Checkpoint is on disk.
func (p *Partition) checkpointed() {
	p.mu.Lock()
	p.durable = p.frozen
	p.mu.Unlock()
}

// Restore implements StateMachine: it opens the segments as of the checkpoint; what they hold beyond is cut, since it is applied again.
func (p *Partition) Restore(blob []byte) error {
	var st segment.State
	var observed []byte
	if blob != nil {
		b, err := decodePartitionBlob(blob, &p.ps)
		if err == nil {
			err = st.Unmarshal(b.segments)
		}
		if err != nil {
			return fmt.Errorf("%s/%d: checkpoint: %w", p.o.Topic, p.o.Index, err)
		}
		p.logStart, observed = b.logStart, b.observed
	}
	if p.o.Observer != nil {
		if err := p.o.Observer.Restore(observed); err != nil {
			return fmt.Errorf("%s/%d: checkpoint of the coordinator: %w", p.o.Topic, p.o.Index, err)
		}
	}
	cfg := p.config()
	log, err := segment.Open(p.o.FS, p.o.Dir, st, segment.Options{
		SegmentBytes: cfg.SegmentBytes, SegmentAge: cfg.segmentAge(), Clock: p.o.Clock, Logger: p.o.Logger,
	})
	if err != nil {
		return fmt.Errorf("%s/%d: %w", p.o.Topic, p.o.Index, err)
	}
	p.log = log
	p.durable = mark{logStart: st.LogStartOffset, activeBase: st.ActiveBase}
	p.frozen = p.durable
	p.publish()
	return nil
}

// Close closes the segments; the node calls it. Reads fail afterwards.
func (p *Partition) Close() error {
	if p.log == nil || p.closed.Swap(true) {
		return nil
	}
	return p.log.Close()
}

// Destroy closes the partition and deletes its directory. Call it after RemoveGroup, and only for a topic whose deletion is
// committed and has this topic id.
func (p *Partition) Destroy() error {
	err := p.Close()
	if rerr := p.o.FS.RemoveAll(p.o.Dir); rerr != nil {
		return errors.Join(err, rerr)
	}
	return errors.Join(err, p.o.FS.SyncDir(path.Dir(p.o.Dir)))
}

// kafkaError is the wire error of a proposal that was not applied. All of them are retriable: the batch may be found in the log later, and
// an idempotent producer's retry is then answered as a duplicate.
func kafkaError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTooLarge):
		return kerr.MessageTooLarge
	case errors.Is(err, ErrTooManyInFlight):
		return kerr.RequestTimedOut
	case errors.Is(err, ErrUnknownGroup):
		return kerr.UnknownTopicOrPartition
	}
	return kerr.NotLeaderForPartition
}
