package txn

import (
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// End is EndTxn. Bump says that the client knows transaction version 2 (v5+): it gets a higher epoch for its next transaction.
type End struct {
	ID            string
	ProducerID    int64
	ProducerEpoch int16
	Commit, Bump  bool
}

// EndTxn commits or aborts the producer's transaction. The reply comes when the markers are applied in every partition, so that
// the producer can go on at once; with Bump it carries the id and epoch to go on with. Asked again after the end it answers as before.
func (c *Coordinator) EndTxn(now time.Time, e End, to any) {
	t, err := c.find(e.ID)
	if err != nil {
		c.reply(to, err)
		return
	}
	c.when(now, t, nil, func(now time.Time, err *kerr.Error) {
		if err != nil {
			c.reply(to, err)
			return
		}
		if e.Bump {
			c.endV2(now, t, e, to)
		} else {
			c.endV1(now, t, e, to)
		}
	})
}

func (c *Coordinator) endV1(now time.Time, t *txn, e End, to any) {
	done := CompleteAbort
	if e.Commit {
		done = CompleteCommit
	}
	switch {
	case t.m.epoch < 0, t.m.producerID != e.ProducerID:
		c.reply(to, kerr.InvalidProducerIDMapping)
	case t.m.epoch != e.ProducerEpoch:
		c.reply(to, kerr.ProducerFenced)
	case t.m.state == Ongoing:
		c.prepare(now, t, e.Commit, false, to)
	case t.m.state == done:
		c.replyID(to, &t.m)
	default:
		c.reply(to, kerr.InvalidTxnState)
	}
}

// endV2 tells a retry from the end of the next transaction by the epoch: whoever still has the one before asks again (KIP-890).
func (c *Coordinator) endV2(now time.Time, t *txn, e End, to any) {
	overflowed := t.m.prevProducerID == e.ProducerID && e.ProducerEpoch == epochMax && t.m.epoch == 0
	retry := overflowed || t.m.producerID == e.ProducerID && t.m.epoch == e.ProducerEpoch+1
	ended := t.m.state == CompleteCommit || t.m.state == CompleteAbort
	switch {
	case t.m.epoch < 0, t.m.producerID != e.ProducerID && !overflowed:
		c.reply(to, kerr.InvalidProducerIDMapping)
	case retry && ended:
		if e.Commit != (t.m.state == CompleteCommit) {
			c.reply(to, kerr.InvalidTxnState)
			return
		}
		c.replyID(to, &t.m)
	case t.m.producerID != e.ProducerID || t.m.epoch != e.ProducerEpoch:
		c.reply(to, kerr.ProducerFenced)
	case t.m.state == Ongoing:
		c.prepare(now, t, e.Commit, true, to)
	case e.Commit:
		c.reply(to, kerr.InvalidTxnState)
	default:
		// An abort before anything was added still raises the epoch: requests of the aborted transaction may be under way.
		c.prepare(now, t, false, true, to)
	}
}

// prepare decides the end of the transaction: durably, and then with markers. to is answered when all are applied; nil for nobody.
func (c *Coordinator) prepare(now time.Time, t *txn, commit, bump bool, to any) {
	t.busy, t.ending = true, true
	m := t.m
	m.state = PrepareAbort
	if commit {
		m.state = PrepareCommit
	}
	m.updateMs = now.UnixMilli()
	if !bump {
		m.version = 1
		c.storePrepare(now, t, m, to)
		return
	}
	rotate := m.exhausted()
	m.lastEpoch, m.epoch, m.version = m.epoch, m.epoch+1, 2
	if !rotate {
		c.storePrepare(now, t, m, to)
		return
	}
	// The markers carry 32767, which no client ever sees; then it goes on with a new id at epoch 0.
	c.newID(func(now time.Time, id int64, err *kerr.Error) {
		if err != nil {
			t.busy, t.ending = false, false
			if to != nil {
				c.reply(to, err)
			}
			c.settle(now, t)
			return
		}
		m.nextProducerID = id
		c.storePrepare(now, t, m, to)
	})
}

func (c *Coordinator) storePrepare(now time.Time, t *txn, m meta, to any) {
	if len(m.partitions) == 0 {
		// No markers to write, so one record will do. It is awaited: the epoch in it is handed out.
		c.transition(now, t, m.complete(now), nil, func(_ time.Time, err *kerr.Error) {
			switch {
			case to == nil:
			case err != nil:
				c.reply(to, err)
			default:
				c.replyID(to, &t.m)
			}
		})
		t.ending = true
		return
	}
	placed := func(time.Time) { c.mark(t, m) }
	c.transition(now, t, m, placed, func(now time.Time, err *kerr.Error) {
		if err != nil {
			if to != nil {
				c.reply(to, err)
			}
			return
		}
		if to != nil {
			t.ended = append(t.ended, to)
		}
		c.settleEnd(now, t)
	})
	t.ending = true
}

// mark has the markers of a decided transaction written. The decision has its place in the log; it need not be durable yet (T1).
func (c *Coordinator) mark(t *txn, decided meta) {
	t.decided = decided
	t.marking, t.retry = make(map[TopicPartition]bool, len(decided.partitions)), map[TopicPartition]time.Time{}
	for _, tp := range decided.partitions {
		t.marking[tp] = true
		c.sendMarker(t, tp)
	}
}

func (c *Coordinator) sendMarker(t *txn, tp TopicPartition) {
	c.lastID++
	c.markers[c.lastID] = openMarker{t: t, tp: tp}
	m := &t.decided
	c.eff.Markers = append(c.eff.Markers, Marker{
		ID: c.lastID, ProducerID: m.producerID, ProducerEpoch: m.epoch, Commit: m.state == PrepareCommit, Bumped: m.version >= 2,
		CoordinatorEpoch: c.epoch, Partition: tp,
	})
}

// settleEnd completes the transaction when its decision and all of its markers are applied, in whatever order they were.
func (c *Coordinator) settleEnd(now time.Time, t *txn) {
	if t.m.state.preparing() && !t.busy && len(t.marking) == 0 {
		c.complete(now, t)
	}
}

// MarkerWritten says how a marker ended: err is nil when it was applied. A partition that is gone for good (UNKNOWN_TOPIC_OR_PARTITION) or
// knows a higher epoch of the producer needs none; anything else is tried again.
func (c *Coordinator) MarkerWritten(now time.Time, id uint64, err *kerr.Error) {
	om, ok := c.markers[id]
	if !ok {
		return // from before Unload
	}
	delete(c.markers, id)
	t := om.t
	switch err {
	case nil, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InvalidProducerEpoch, kerr.ProducerFenced:
		delete(t.marking, om.tp)
		c.settleEnd(now, t)
	default:
		t.retry[om.tp] = now.Add(c.o.MarkerRetry)
	}
}

// complete ends the transaction. Its record is not waited for, and left out when another one follows soon (see the package comment): T3.
func (c *Coordinator) complete(now time.Time, t *txn) {
	t.m = t.m.complete(now)
	t.marking, t.retry, t.unwritten = nil, nil, now.Add(c.o.CompleteDelay)
	for _, to := range t.ended {
		c.replyID(to, &t.m)
	}
	t.ended = nil
	c.settle(now, t)
}

// complete is the state after the markers of m.
func (m meta) complete(now time.Time) meta {
	m.state, m.partitions, m.startMs, m.updateMs = m.state+(CompleteCommit-PrepareCommit), nil, -1, now.UnixMilli()
	if m.nextProducerID >= 0 {
		m.prevProducerID, m.producerID, m.nextProducerID, m.epoch = m.producerID, m.nextProducerID, -1, 0
	}
	return m
}

func sortedPartitions[V any](m map[TopicPartition]V) []TopicPartition {
	out := make([]TopicPartition, 0, len(m))
	for tp := range m {
		out = append(out, tp)
	}
	slices.SortFunc(out, func(a, b TopicPartition) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	return out
}
