package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outrelay/outrelay/broker/record"
)

const (
	mapBytesDefault       = 16 << 20
	producerExpiryDefault = 24 * time.Hour
)

// CompactOptions configures one compaction.
type CompactOptions struct {
	// Below: only segments wholly below it are touched. S2 is the caller's duty: at most the ActiveBase of the State in the last durable
	// checkpoint, and at most the last stable offset, so that every transaction below has ended.
	Below           int64
	Now             time.Time
	DeleteRetention time.Duration // delete.retention.ms: how long a tombstone, or the marker of an empty transaction, stays once a pass has met it
	MinDirtyRatio   float64       // min.cleanable.dirty.ratio: do nothing while less of the log is dirty
	MinLag          time.Duration // min.compaction.lag.ms: records younger than this stay as they are
	MaxLag          time.Duration // max.compaction.lag.ms: compact whatever the ratio when a dirty record is older; 0: never
	ProducerExpiry  time.Duration // a producer that was silent for longer loses its last header; default 24 h
	MapBytes        int           // memory for the map of keys; a pass that would need more stops where it is full. Default 16 MiB
}

func (o CompactOptions) withDefaults() CompactOptions {
	if o.ProducerExpiry <= 0 {
		o.ProducerExpiry = producerExpiryDefault
	}
	if o.MapBytes <= 0 {
		o.MapBytes = mapBytesDefault
	}
	return o
}

// CompactStats says what a compaction did. All are zero when there was nothing to do.
type CompactStats struct {
	SegmentsIn, SegmentsOut int
	BytesIn, BytesOut       int64
	RecordsIn, RecordsOut   int64
	Keys                    int   // in the map
	CleanedTo               int64 // every record below has been seen with all later ones of its key below it
	Partial                 bool  // the map was full: call again
}

// Compact removes records that a later record of the same key replaces, as Kafka's cleaner does. One pass over the dirty segments gathers the last offset of
// each key, another over all segments up to there writes what stays into new files, which then take the old ones' places, each crash-safe by
// itself. Offsets never change (S3). A tombstone stays for DeleteRetention after the pass that first met it (KIP-534); records of aborted
// transactions go; a transaction's marker goes DeleteRetention after its last record has gone; the last batch of each active producer leaves at least
// its header, so that its sequence is not forgotten; a record without a key goes; a batch that decompresses to more than the limit stays as it is.
//
// It blocks on the disk, beside appends and reads; a second call waits. ctx ends it between batches; the segments finished by then stay compacted.
// Errors: ctx's, ErrCorrupt (the log stays as it was), ErrClosed, the disk's.
func (l *Log) Compact(ctx context.Context, o CompactOptions) (CompactStats, error) {
	l.upkeep.Lock()
	defer l.upkeep.Unlock()
	c := &cleaner{l: l, o: o.withDefaults(), ctx: ctx}
	if ok, err := c.plan(); !ok || err != nil {
		return CompactStats{}, err
	}
	if err := c.gather(); err != nil {
		return CompactStats{}, err
	}
	for _, g := range c.groups() {
		if err := c.clean(g); err != nil {
			return c.stats, err
		}
	}
	c.stats.Keys, c.stats.CleanedTo, c.stats.Partial = c.keys.count, c.to, c.partial
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanedTo = c.to
	return c.stats, nil
}

// cleaner is one compaction.
type cleaner struct {
	l     *Log
	o     CompactOptions
	ctx   context.Context //nolint:containedctx // lives no longer than the call it belongs to
	stats CompactStats

	segments []*segment // to clean: from the log's first to the last dirty one
	from     int64      // records below are clean
	to       int64      // the map speaks for the records in [from, to)
	partial  bool
	keys     *offsetMap
	last     map[int64]lastBatch
	aborted  map[int64][]AbortedTxn // by producer, ascending

	observed map[int64]bool // producers with data since their last marker, in the pass that cleans
}

// lastBatch is where a producer's last batch ends: of data, or if there is none left, of a marker.
type lastBatch struct {
	offset int64
	data   bool
	maxTS  int64
}

// plan finds the segments to clean; ok is false when there is nothing to do yet.
func (c *cleaner) plan() (ok bool, err error) {
	l := c.l
	l.mu.Lock()
	err, c.from = l.err, l.cleanedTo
	l.mu.Unlock()
	if err != nil {
		return false, err
	}
	v := l.view.Load()
	c.from = max(c.from, v.segments[0].base)
	young := c.o.Now.Add(-c.o.MinLag).UnixMilli()
	var clean, dirty int64
	oldest := int64(-1)
	for _, s := range v.segments {
		limit := s.limit.Load()
		if !s.sealed() || limit > c.o.Below {
			break
		}
		if limit > c.from {
			most, err := s.maxTimestamp(l.o.IndexIntervalBytes)
			if err != nil {
				return false, err
			}
			if c.o.MinLag > 0 && most > young {
				break
			}
			if dirty == 0 {
				if oldest, err = firstTimestamp(s); err != nil {
					return false, err
				}
			}
			dirty += s.size.Load()
			c.to = limit
		} else {
			clean += s.size.Load()
		}
		c.segments = append(c.segments, s)
	}
	if c.to <= c.from || dirty == 0 {
		return false, nil
	}
	due := c.o.MaxLag > 0 && oldest >= 0 && oldest < c.o.Now.Add(-c.o.MaxLag).UnixMilli()
	return due || float64(dirty) >= c.o.MinDirtyRatio*float64(clean+dirty), nil
}

func firstTimestamp(s *segment) (int64, error) {
	f, err := s.acquire()
	if err != nil {
		return 0, err
	}
	defer s.release()
	h, _, ok, err := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load()).header()
	if err != nil || !ok {
		return noTimestamp, err
	}
	return h.BaseTimestamp(), nil
}

// gather is the first pass: the last offset of each key in the dirty segments, each producer's last batch in all of them.
func (c *cleaner) gather() error {
	as, err := c.l.Aborted(c.segments[0].base, c.to)
	if err != nil {
		return err
	}
	c.aborted = map[int64][]AbortedTxn{}
	for _, a := range as {
		c.aborted[a.ProducerID] = append(c.aborted[a.ProducerID], a)
	}
	c.keys, c.last = newOffsetMap(c.o.MapBytes), map[int64]lastBatch{}
	for _, s := range c.segments {
		if err := c.gatherSegment(s); err != nil {
			return err
		}
	}
	for len(c.segments) > 0 && c.segments[len(c.segments)-1].base >= c.to {
		c.segments = c.segments[:len(c.segments)-1] // the map was full before it
	}
	return nil
}

func (c *cleaner) gatherSegment(s *segment) error {
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release()
	sc := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load())
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		h, pos, ok, err := sc.header()
		if err != nil || !ok {
			return err
		}
		c.noteProducer(h)
		if h.LastOffset() < c.from || h.Control() || h.Count() == 0 || c.partial || c.isAborted(h) {
			continue
		}
		b, err := sc.body(pos, h.Size())
		if err == nil {
			err = c.mapKeys(b)
		}
		switch {
		case errors.Is(err, record.ErrTooLarge): // its keys replace nothing
		case errors.Is(err, record.ErrCorrupt):
			return sc.corrupt(pos, "%v", err)
		case err != nil:
			return err
		}
	}
}

func (c *cleaner) noteProducer(h record.Batch) {
	pid := h.ProducerID()
	if pid < 0 || (h.Control() && c.last[pid].data) {
		return
	}
	c.last[pid] = lastBatch{offset: h.LastOffset(), data: !h.Control(), maxTS: h.MaxTimestamp()}
}

func (c *cleaner) mapKeys(b record.Batch) error {
	err := c.l.codec.RecordsBare(b, func(r record.Record) error {
		offset := b.Offset(r)
		if r.Key == nil || offset < c.from {
			return nil
		}
		if !c.keys.put(r.Key, offset) {
			c.partial, c.to = true, offset
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// isAborted reports whether h is data of an aborted transaction.
func (c *cleaner) isAborted(h record.Batch) bool {
	if !h.Transactional() || h.Control() {
		return false
	}
	for _, a := range c.aborted[h.ProducerID()] {
		if a.First <= h.BaseOffset() && h.BaseOffset() <= a.Last {
			return true
		}
	}
	return false
}

// isLast reports whether h is what is left of a producer that is still active.
func (c *cleaner) isLast(h record.Batch) bool {
	last, ok := c.last[h.ProducerID()]
	if !ok || h.ProducerID() < 0 || last.offset != h.LastOffset() {
		return false
	}
	return last.maxTS < 0 || c.o.Now.UnixMilli()-last.maxTS <= c.o.ProducerExpiry.Milliseconds()
}

// groups cuts the segments into runs that each become one segment.
func (c *cleaner) groups() (groups [][]*segment) {
	c.l.mu.Lock()
	bytesMax := c.l.segmentBytes
	c.l.mu.Unlock()
	const offsetsMax = 1<<31 - 1
	var bytes int64
	for _, s := range c.segments {
		n := len(groups)
		if n > 0 && bytes+s.size.Load() <= bytesMax && s.limit.Load()-groups[n-1][0].base <= offsetsMax {
			groups[n-1] = append(groups[n-1], s)
			bytes += s.size.Load()
			continue
		}
		groups, bytes = append(groups, []*segment{s}), s.size.Load()
	}
	return groups
}

// clean writes what stays of a group into a new segment and puts that in the group's place.
func (c *cleaner) clean(group []*segment) error {
	base, limit := group[0].base, group[len(group)-1].limit.Load()
	if c.observed == nil {
		c.observed = map[int64]bool{}
	}
	w, err := newSegmentWriter(c.l, base, limit)
	if err != nil {
		return fmt.Errorf("compaction: %w", err)
	}
	for _, s := range group {
		if err = c.cleanSegment(s, w); err != nil {
			break
		}
	}
	if err == nil && len(group) == 1 && !w.changed {
		c.stats.SegmentsIn++
		c.stats.SegmentsOut++
		c.stats.BytesIn += group[0].size.Load()
		c.stats.BytesOut += group[0].size.Load()
		return w.abandon()
	}
	if err == nil {
		err = w.finish()
	}
	if err != nil {
		return fmt.Errorf("compaction: %w", errors.Join(err, w.abandon()))
	}
	if err := c.l.swap(group, w); err != nil {
		return fmt.Errorf("compaction: %w", err)
	}
	for _, s := range group {
		c.stats.BytesIn += s.size.Load()
	}
	c.stats.SegmentsIn += len(group)
	c.stats.SegmentsOut++
	c.stats.BytesOut += w.pos
	return nil
}

func (c *cleaner) cleanSegment(s *segment, w *segmentWriter) error {
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release()
	sum, err := c.l.sumOf(s)
	if err != nil {
		return err
	}
	x := indexer{}
	sc := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load())
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		h, pos, ok, err := sc.header()
		if err == nil && !ok && x.sum != sum {
			sc.cur = s.base
			err = sc.corrupt(0, "offsets or leader epochs have changed: their sum is %08x, want %08x", x.sum, sum)
		}
		if err != nil || !ok {
			return err
		}
		x.mix(h)
		b, err := sc.body(pos, h.Size())
		if err != nil {
			return err
		}
		kept, err := c.filter(b)
		if errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrInvalid) {
			return sc.corrupt(pos, "%v", err)
		}
		if err != nil {
			return err
		}
		c.stats.RecordsIn += int64(b.Count())
		if kept == nil {
			w.changed = true
			continue
		}
		c.stats.RecordsOut += int64(kept.Count())
		w.changed = w.changed || &kept[0] != &b[0]
		if err := w.add(kept); err != nil {
			return err
		}
	}
}
