package txn

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Init is InitProducerId for a transactional id. Expected* are what the producer has, from v3 on (KIP-360); -1 for a new one.
type Init struct {
	ID                    string
	Timeout               time.Duration
	ExpectedProducerID    int64
	ExpectedProducerEpoch int16
}

// InitProducerID gives the producer its id and a higher epoch, and fences whoever had it before: an open transaction is aborted first. The
// reply carries id and epoch.
func (c *Coordinator) InitProducerID(now time.Time, in Init, to any) {
	switch {
	case !c.loaded:
		c.reply(to, kerr.NotCoordinator)
		return
	case in.ID == "":
		c.reply(to, kerr.InvalidRequest)
		return
	case in.Timeout <= 0 || in.Timeout > c.o.TimeoutMax:
		c.reply(to, kerr.InvalidTransactionTimeout)
		return
	}
	t := c.txns[in.ID]
	if t == nil {
		if len(c.txns) >= c.o.IDsMax {
			c.reply(to, kerr.CoordinatorNotAvailable)
			return
		}
		t = &txn{id: in.ID, m: fresh()}
		c.txns[in.ID] = t
	}
	c.when(now, t, nil, func(now time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, err)
			return
		}
		c.init(now, t, in, to)
	})
}

func fresh() meta {
	return meta{producerID: -1, prevProducerID: -1, nextProducerID: -1, epoch: -1, lastEpoch: -1, startMs: -1, version: 1}
}

func (c *Coordinator) init(now time.Time, t *txn, in Init, to any) {
	expects := in.ExpectedProducerID >= 0
	m := t.m
	if m.epoch < 0 {
		// A new id, or one that expired: what the producer believes does not matter.
		m.epoch = 0
		c.rotate(now, t, in, m, to)
		return
	}
	retry := false
	if expects {
		same := in.ExpectedProducerID == m.producerID && in.ExpectedProducerEpoch == m.epoch
		// The producer's last call raised the epoch, or gave a new id, and the answer was lost. Nobody else came between:
		// that would have set lastEpoch to -1.
		retry = in.ExpectedProducerEpoch == m.lastEpoch && m.lastEpoch >= 0 && m.state != Ongoing &&
			(in.ExpectedProducerID == m.producerID || in.ExpectedProducerID == m.prevProducerID && m.lastEpoch >= epochMax)
		if !same && !retry {
			c.reply(to, kerr.ProducerFenced)
			return
		}
	}
	if m.state == Ongoing {
		// Abort, then decide again. The abort raises the epoch itself, so its owner finds that its epoch is the last one.
		t.queue = slices.Insert(t.queue, 0, request{since: now, run: func(now time.Time, err *kerr.Error) {
			if err != nil {
				c.reply(to, err)
				return
			}
			c.init(now, t, in, to)
		}})
		c.prepare(now, t, false, true, nil)
		return
	}
	switch {
	case retry:
	case m.exhausted():
		m.prevProducerID, m.lastEpoch = m.producerID, -1
		if expects {
			m.lastEpoch = m.epoch
		}
		m.epoch = 0
		c.rotate(now, t, in, m, to)
		return
	default:
		if m.lastEpoch = -1; expects {
			m.lastEpoch = m.epoch
		}
		m.epoch++
	}
	c.storeInit(now, t, in, m, to)
}

// rotate allocates a producer id for m, and goes on with storeInit.
func (c *Coordinator) rotate(now time.Time, t *txn, in Init, m meta, to any) {
	t.busy = true
	c.newID(func(now time.Time, id int64, err *kerr.Error) {
		t.busy = false
		if err != nil {
			c.reply(to, err)
		} else {
			m.producerID = id
			c.storeInit(now, t, in, m, to)
		}
		c.settle(now, t)
	})
}

func (c *Coordinator) storeInit(now time.Time, t *txn, in Init, m meta, to any) {
	m.state, m.timeout, m.startMs, m.updateMs, m.partitions = Empty, in.Timeout, -1, now.UnixMilli(), nil
	c.transition(now, t, m, nil, func(_ time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, err)
			return
		}
		c.replyID(to, &t.m)
	})
}

// transition writes the next state and takes it when it is durable; placed is as in write.
func (c *Coordinator) transition(now time.Time, t *txn, next meta, placed func(now time.Time), then func(now time.Time, err *kerr.Error)) {
	t.busy = true
	c.active[t.id] = t
	unwritten := t.unwritten
	t.unwritten = time.Time{} // this record says it all
	c.write(t.id, &next, placed, func(now time.Time, err *kerr.Error) {
		t.busy, t.ending = false, false
		if err == nil {
			t.m = next
		} else {
			t.unwritten = unwritten
		}
		then(now, err)
		c.settle(now, t)
	})
}

// addition is a request to add partitions.
type addition struct {
	producerID int64
	epoch      int16
	tps        []TopicPartition
	version    int16
	to         any
}

// AddPartitions makes partitions part of the producer's transaction, which begins with the first one. version is the transaction version of
// the client: 2 when Produce v12+ or TxnOffsetCommit v5+ adds implicitly (KIP-890), 1 for AddPartitionsToTxn and AddOffsetsToTxn. When the
// reply is good, the record that names them is durable; before it, to may be among Effects.Ahead, once at most: data may then be proposed,
// and its producer answered when both are good.
func (c *Coordinator) AddPartitions(now time.Time, id string, producerID int64, epoch, version int16, tps []TopicPartition, to any) {
	t, err := c.find(id)
	if err != nil {
		c.reply(to, err)
		return
	}
	a := &addition{producerID: producerID, epoch: epoch, tps: tps, version: version, to: to}
	if c.Has(id, producerID, epoch, tps...) {
		c.reply(to, nil)
		return
	}
	c.when(now, t, a, func(now time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, err)
			return
		}
		c.add(now, t, a)
	})
}

// Has reports whether the partitions are in the producer's open transaction already, durably.
func (c *Coordinator) Has(id string, producerID int64, epoch int16, tps ...TopicPartition) bool {
	t := c.txns[id]
	return c.loaded && t != nil && !t.ending && t.m.state == Ongoing && t.m.producerID == producerID && t.m.epoch == epoch && t.m.hasAll(tps)
}

// Verify is the check that older clients' data gets (KIP-890, part 1): partitions must have been added before.
func (c *Coordinator) Verify(id string, producerID int64, epoch int16, tps ...TopicPartition) *kerr.Error {
	t, err := c.find(id)
	switch {
	case err != nil:
		return err
	case t.m.producerID != producerID:
		return kerr.InvalidProducerIDMapping
	case t.m.epoch != epoch:
		return kerr.ProducerFenced
	case !c.Has(id, producerID, epoch, tps...):
		return kerr.InvalidTxnState
	}
	return nil
}

func (c *Coordinator) find(id string) (*txn, *kerr.Error) {
	switch t := c.txns[id]; {
	case !c.loaded:
		return nil, kerr.NotCoordinator
	case id == "":
		return nil, kerr.InvalidRequest
	case t == nil:
		return nil, kerr.InvalidProducerIDMapping
	default:
		return t, nil
	}
}

func (t *txn) mayAdd(a *addition) *kerr.Error {
	switch {
	case t.m.epoch < 0, t.m.producerID != a.producerID:
		return kerr.InvalidProducerIDMapping
	case t.m.epoch != a.epoch:
		return kerr.ProducerFenced
	}
	return nil
}

// add takes a, and whatever additions wait right behind it, in one record.
func (c *Coordinator) add(now time.Time, t *txn, a *addition) {
	if err := t.mayAdd(a); err != nil {
		c.reply(a.to, err)
		return
	}
	if t.m.state == Ongoing && t.m.hasAll(a.tps) {
		c.reply(a.to, nil)
		return
	}
	adds := []*addition{a}
	for len(t.queue) > 0 && t.queue[0].add != nil && t.mayAdd(t.queue[0].add) == nil {
		adds = append(adds, t.queue[0].add)
		t.queue = t.queue[1:]
	}
	m := t.m
	if m.state != Ongoing {
		m.state, m.startMs, m.partitions = Ongoing, now.UnixMilli(), nil
	}
	m.updateMs = now.UnixMilli()
	m.partitions = slices.Clone(m.partitions)
	for _, a := range adds {
		m.version = a.version
		for _, tp := range a.tps {
			if !m.has(tp) {
				m.partitions = append(m.partitions, tp)
			}
		}
	}
	placed := func(time.Time) {
		for _, a := range adds {
			c.eff.Ahead = append(c.eff.Ahead, a.to)
		}
	}
	c.transition(now, t, m, placed, func(_ time.Time, err *kerr.Error) {
		for _, a := range adds {
			c.reply(a.to, err)
		}
	})
}

func sortedKeys[K interface{ ~string | ~uint64 }, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
