package txn

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Options are the coordinator's settings; the zero value means Kafka's defaults.
type Options struct {
	TimeoutMax  time.Duration // transaction.max.timeout.ms; 0 means 15 min
	Expiry      time.Duration // transactional.id.expiration.ms; 0 means 7 days
	ExpiryEvery time.Duration // how often expired ids are looked for; 0 means 1 h
	WaitMax     time.Duration // how long a request waits for a transition under way; 0 means 20 s
	MarkerRetry time.Duration // wait before a marker that failed is tried again; 0 means 50 ms
	// CompleteDelay is how long the record of a completed transaction waits for a later one that makes it needless; 0 means 100 ms.
	CompleteDelay time.Duration
	QueueMax      int // requests that wait for one transactional id; 0 means 256
	IDsMax        int // transactional ids of one coordinator partition; 0 means 100,000
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.TimeoutMax, 15*time.Minute)
	def(&o.Expiry, 7*24*time.Hour)
	def(&o.ExpiryEvery, time.Hour)
	def(&o.WaitMax, 20*time.Second)
	def(&o.MarkerRetry, 50*time.Millisecond)
	def(&o.CompleteDelay, 100*time.Millisecond)
	if o.QueueMax == 0 {
		o.QueueMax = 256
	}
	if o.IDsMax == 0 {
		o.IDsMax = 100_000
	}
	return o
}

// Coordinator decides for the transactional ids of one partition of __transaction_state. It is not safe for concurrent use: one lock of
// the shell covers it, the feeding of its store included.
type Coordinator struct {
	o      Options
	store  store
	txns   map[string]*txn
	active map[string]*txn // those that Tick must look at: all with something under way, and some that had
	loaded bool
	epoch  int32 // of this node's lead of the partition: the coordinator epoch in markers
	expiry time.Time

	writing    map[uint64]writing
	allocating map[uint64]func(now time.Time, id int64, err *kerr.Error)
	markers    map[uint64]openMarker
	lastID     uint64
	eff        Effects
}

// txn is one transactional id.
//
// What holds between calls:
//
//	T1  m is durable, apart from a Complete* state whose record is proposed, or will be at the time unwritten
//	T2  at most one transition is under way: busy, or the state is Prepare*
//
// A decision that is on its way has markers already, once it has its place in the log: decided is what they say, and m follows.
type txn struct {
	id      string
	m       meta
	busy    bool // a record is being written, or a producer id allocated
	ending  bool // and it is the end of the transaction
	queue   []request
	decided meta                         // what the markers under way say; set by mark
	marking map[TopicPartition]bool      // markers that are not applied yet
	retry   map[TopicPartition]time.Time // and when to try again those that failed
	ended   []any                        // whom to answer when the transaction is complete
	// unwritten is when the record of the Complete* state is written, unless another one comes before; zero when there is none to write.
	unwritten time.Time
}

// request waits for a transition to settle; run is then called with nil, or with an error when it waited too long.
type request struct {
	since time.Time
	run   func(now time.Time, err *kerr.Error)
	add   *addition // what run does, if it adds partitions: several are written as one
}

type openMarker struct {
	t  *txn
	tp TopicPartition
}

// New returns a coordinator with an empty store, not loaded.
func New(o Options) *Coordinator {
	return &Coordinator{
		o: o.withDefaults(), store: store{}, txns: map[string]*txn{}, active: map[string]*txn{}, markers: map[uint64]openMarker{},
		writing:    map[uint64]writing{},
		allocating: map[uint64]func(time.Time, int64, *kerr.Error){},
	}
}

// Loaded reports whether this node coordinates: Load was called, and Unload not since.
func (c *Coordinator) Loaded() bool { return c.loaded }

// Load begins to coordinate from what the store holds: transactions whose end was decided get their markers again.
func (c *Coordinator) Load(now time.Time, epoch int32) {
	if c.loaded {
		return
	}
	c.loaded, c.epoch, c.expiry = true, epoch, now.Add(c.o.ExpiryEvery)
	for _, id := range c.store.ids() {
		t := &txn{id: id, m: *c.store[id]}
		c.txns[id] = t
		if t.m.state == Ongoing || t.m.state.preparing() {
			c.active[id] = t
		}
		if t.m.state.preparing() {
			c.mark(t, t.m)
			c.settleEnd(now, t)
		}
	}
}

// Unload stops coordinating: whoever waits is told NOT_COORDINATOR. The store stays.
func (c *Coordinator) Unload(now time.Time) {
	if !c.loaded {
		return
	}
	c.loaded = false
	for _, id := range sortedKeys(c.writing) {
		w := c.writing[id]
		delete(c.writing, id)
		w.then(now, kerr.NotCoordinator)
	}
	for _, id := range sortedKeys(c.allocating) {
		then := c.allocating[id]
		delete(c.allocating, id)
		then(now, -1, kerr.NotCoordinator)
	}
	for _, t := range c.sorted() {
		c.fail(now, t, kerr.NotCoordinator)
	}
	c.txns, c.active, c.markers = map[string]*txn{}, map[string]*txn{}, map[uint64]openMarker{}
	// What was asked for meanwhile must not happen any more; only the answers go out.
	c.eff = Effects{Replies: c.eff.Replies}
	clear(c.writing)
	clear(c.allocating)
}

// fail answers everybody who waits for t.
func (c *Coordinator) fail(now time.Time, t *txn, err *kerr.Error) {
	q := t.queue
	t.queue = nil
	for _, r := range q {
		r.run(now, err)
	}
	for _, to := range t.ended {
		c.reply(to, err)
	}
	t.ended = nil
}

// Tick does what is due at now: transactions and waits that timed out, markers to be tried again, ids that expired.
func (c *Coordinator) Tick(now time.Time) {
	if !c.loaded {
		return
	}
	for _, id := range sortedKeys(c.active) {
		t := c.active[id]
		c.tick(now, t)
		if !t.busy && len(t.queue) == 0 && t.m.state != Ongoing && !t.m.state.preparing() && t.unwritten.IsZero() {
			delete(c.active, id)
		}
	}
	if !now.Before(c.expiry) {
		c.expiry = now.Add(c.o.ExpiryEvery)
		c.expireIDs(now)
	}
}

func (c *Coordinator) tick(now time.Time, t *txn) {
	for _, tp := range sortedPartitions(t.retry) {
		if !now.Before(t.retry[tp]) {
			delete(t.retry, tp)
			c.sendMarker(t, tp)
		}
	}
	if !t.unwritten.IsZero() && !now.Before(t.unwritten) {
		t.unwritten = time.Time{}
		c.write(t.id, &t.m, nil, func(now time.Time, err *kerr.Error) {
			if err != nil && t.m.state >= CompleteCommit && !t.busy {
				t.unwritten = now.Add(c.o.CompleteDelay)
				c.active[t.id] = t
			}
		})
	}
	var late []request
	t.queue = slices.DeleteFunc(t.queue, func(r request) bool {
		if now.Sub(r.since) < c.o.WaitMax {
			return false
		}
		late = append(late, r)
		return true
	})
	for _, r := range late {
		r.run(now, kerr.ConcurrentTransactions)
	}
	if d, ok := t.deadline(); ok && !now.Before(d) {
		// KIP-98: the producer is gone or stuck. The epoch goes up, so that what it still sends is refused.
		c.prepare(now, t, false, true, nil)
	}
}

// deadline is when the open transaction times out.
func (t *txn) deadline() (time.Time, bool) {
	if t.m.state != Ongoing || t.busy {
		return time.Time{}, false
	}
	return time.UnixMilli(t.m.startMs).Add(t.m.timeout), true
}

// NextDeadline returns when Tick has something to do, and false when it never will.
func (c *Coordinator) NextDeadline() (time.Time, bool) {
	if !c.loaded {
		return time.Time{}, false
	}
	next := c.expiry
	for _, t := range c.active {
		if d, ok := t.deadline(); ok && d.Before(next) {
			next = d
		}
		if !t.unwritten.IsZero() && t.unwritten.Before(next) {
			next = t.unwritten
		}
		for _, d := range t.retry {
			if d.Before(next) {
				next = d
			}
		}
		if len(t.queue) > 0 {
			if d := t.queue[0].since.Add(c.o.WaitMax); d.Before(next) {
				next = d
			}
		}
	}
	return next, true
}

// expireIDs forgets transactional ids that were not used for long.
func (c *Coordinator) expireIDs(now time.Time) {
	for _, t := range c.sorted() {
		idle := !t.busy && len(t.queue) == 0 && t.m.state != Ongoing && !t.m.state.preparing()
		if !idle || now.UnixMilli()-t.m.updateMs < c.o.Expiry.Milliseconds() {
			continue
		}
		t.busy = true
		c.write(t.id, nil, nil, func(now time.Time, err *kerr.Error) {
			t.busy = false
			if err == nil {
				t.m.epoch = -1 // as if it had never been
			}
			c.settle(now, t)
		})
	}
}

// when runs f as soon as no transition of t is under way; f gets an error instead when that takes too long.
func (c *Coordinator) when(now time.Time, t *txn, add *addition, f func(now time.Time, err *kerr.Error)) {
	switch {
	case !t.busy && !t.m.state.preparing() && len(t.queue) == 0:
		f(now, nil)
		c.settle(now, t)
	case len(t.queue) >= c.o.QueueMax:
		f(now, kerr.ConcurrentTransactions)
	default:
		t.queue = append(t.queue, request{since: now, run: f, add: add})
		c.active[t.id] = t
	}
}

// settle lets waiting requests run as long as no transition is under way.
func (c *Coordinator) settle(now time.Time, t *txn) {
	for !t.busy && !t.m.state.preparing() && len(t.queue) > 0 && c.loaded {
		r := t.queue[0]
		t.queue = t.queue[1:]
		r.run(now, nil)
	}
	if t.m.epoch < 0 && !t.busy && len(t.queue) == 0 && c.txns[t.id] == t {
		delete(c.txns, t.id) // it never got a producer id, or expired
	}
}

func (c *Coordinator) sorted() []*txn {
	ts := make([]*txn, 0, len(c.txns))
	for _, id := range sortedKeys(c.txns) {
		ts = append(ts, c.txns[id])
	}
	return ts
}
