package segment

import (
	"errors"

	"github.com/outrelay/outrelay/broker/record"
)

// filter returns what stays of b: b itself, a rewritten batch, its header alone, or nil. The rules are those of Kafka's Cleaner.cleanInto and
// CleanedTransactionMetadata.
func (c *cleaner) filter(b record.Batch) (record.Batch, error) {
	discard := c.discardable(b)
	if b.Count() == 0 {
		if c.isLast(b) {
			return b, nil
		}
		return nil, nil
	}
	if b.Control() {
		return c.filterMarker(b, discard)
	}
	if discard {
		return c.header(b), nil
	}
	keep, all, tombstone, err := c.choose(b)
	if errors.Is(err, record.ErrTooLarge) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	if keep == nil {
		return c.header(b), nil
	}
	horizon := int64(-1)
	if _, has := b.DeleteHorizon(); tombstone && !has {
		horizon = c.horizon()
	}
	if all && horizon < 0 {
		return b, nil
	}
	return c.l.codec.Rewrite(b, keep, horizon)
}

func (c *cleaner) horizon() int64 { return c.o.Now.Add(c.o.DeleteRetention).UnixMilli() }

// header returns what stays of a batch whose records all go.
func (c *cleaner) header(b record.Batch) record.Batch {
	if c.isLast(b) {
		return record.EmptyHeader(b)
	}
	return nil
}

// discardable reports whether b is data of an aborted transaction, or a marker of a transaction that has no data in front of it any more.
func (c *cleaner) discardable(b record.Batch) bool {
	pid := b.ProducerID()
	if b.Control() {
		data := c.observed[pid]
		delete(c.observed, pid)
		return !data
	}
	if b.Transactional() {
		c.observed[pid] = true
	}
	return c.isAborted(b)
}

// filterMarker keeps the end of a transaction until its data has gone, and then as long as a tombstone: a reader that is under way may
// still need it.
func (c *cleaner) filterMarker(b record.Batch, discard bool) (record.Batch, error) {
	if _, _, err := record.ParseEndTxnMarker(b); err != nil {
		if errors.Is(err, record.ErrInvalid) {
			return b, nil // a kind of control record from a later version: not ours to drop
		}
		return nil, err
	}
	if !discard {
		return b, nil
	}
	at, has := b.DeleteHorizon()
	if !has {
		return c.l.codec.Rewrite(b, []bool{true}, c.horizon())
	}
	if at <= c.o.Now.UnixMilli() {
		return c.header(b), nil
	}
	return b, nil
}

// choose says which records of b stay; keep is nil when none does. all: every one. tombstone: one of those that stay has no value.
func (c *cleaner) choose(b record.Batch) (keep []bool, all, tombstone bool, err error) {
	at, has := b.DeleteHorizon()
	expired := has && at <= c.o.Now.UnixMilli()
	all, any := true, false
	keep = make([]bool, 0, b.Count())
	err = c.l.codec.RecordsBare(b, func(r record.Record) error {
		offset := b.Offset(r)
		stays := offset >= c.to // the map does not speak for it
		if !stays && r.Key != nil {
			latest, mapped := c.keys.get(r.Key)
			stays = (!mapped || offset >= latest) && (r.Value != nil || !expired)
		}
		keep = append(keep, stays)
		all, any = all && stays, any || stays
		tombstone = tombstone || (stays && r.Value == nil)
		return nil
	})
	if err != nil || !any {
		return nil, false, false, err
	}
	return keep, all, tombstone, nil
}
