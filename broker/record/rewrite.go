package record

// WithLogAppendTime returns a copy of b, a whole batch, whose records all have the timestamp ms, as
// message.timestamp.type=LogAppendTime asks (KIP-32). The records are not touched; the CRC is computed again.
func WithLogAppendTime(b Batch, ms int64) Batch {
	h := headerOf(b)
	h.attributes |= attrLogAppendTime
	h.maxTimestamp = ms
	c := append(Batch(nil), b...)
	patch(c, h)
	return c
}

// EmptyHeader returns b's header as a batch without records, with the same offsets and producer fields. Compaction leaves it
// where a producer's last records stood, so that its last sequence number is not forgotten.
func EmptyHeader(b Batch) Batch {
	h := headerOf(b)
	h.attributes &= attrLogAppendTime | attrTransactional | attrControl
	h.baseTimestamp = NoTimestamp
	h.count = 0
	e, err := seal(nil, h, nil)
	if err != nil {
		panic("BUG: " + err.Error()) // nothing to compress
	}
	return e
}

// Rewrite returns b with only those records for which keep, indexed by their place in b, is true; it needs as many entries
// as b has records, one of them true. Offsets, sequence, last offset delta, codec and leader epoch stay. A horizon >= 0 becomes the delete
// horizon (KIP-534): it takes the base timestamp's place, and the records' timestamps stay as they were. Errors wrap ErrCorrupt or ErrTooLarge.
func (c *Codecs) Rewrite(b Batch, keep []bool, horizon int64) (Batch, error) {
	p, err := c.payload(b)
	if err != nil {
		return nil, err
	}
	h := headerOf(b)
	if horizon >= 0 {
		h.attributes |= attrDeleteHorizon
		h.baseTimestamp = horizon
	}
	h.count = 0
	maxTS := NoTimestamp
	out := make([]byte, 0, len(p))
	w := walker{p: p, left: b.Count()}
	for i := 0; w.next(); i++ {
		if !keep[i] {
			continue
		}
		ts := b.BaseTimestamp() + w.timestampDelta
		maxTS = max(maxTS, ts)
		out = appendPrefix(out, len(w.rest), ts-h.baseTimestamp, w.offsetDelta)
		out = append(out, w.rest...)
		h.count++
	}
	if w.err != nil {
		return nil, w.err
	}
	if !b.LogAppendTime() {
		h.maxTimestamp = maxTS
	}
	return seal(c, h, out)
}

func headerOf(b Batch) header {
	return header{
		baseOffset: b.BaseOffset(), leaderEpoch: b.LeaderEpoch(), attributes: b.Attributes(), lastOffsetDelta: b.LastOffsetDelta(),
		baseTimestamp: b.BaseTimestamp(), maxTimestamp: b.MaxTimestamp(), producerID: b.ProducerID(),
		producerEpoch: b.ProducerEpoch(), baseSequence: b.BaseSequence(), count: b.Count(),
	}
}

// Recompress returns b, a whole batch, with its records compressed by codec (compression.type). Everything else stays. It walks the records, so that what did
// not decompress to whole ones is not hidden behind a new checksum. Errors wrap ErrCorrupt, ErrInvalid or ErrTooLarge.
func (c *Codecs) Recompress(b Batch, codec Codec) (Batch, error) {
	p, err := c.payload(b)
	if err != nil {
		return nil, err
	}
	w := walker{p: p, left: b.Count()}
	for w.next() {
	}
	if w.err != nil {
		return nil, w.err
	}
	h := headerOf(b)
	h.attributes = h.attributes&^attrCodecMask | int16(codec)
	return seal(c, h, p)
}
