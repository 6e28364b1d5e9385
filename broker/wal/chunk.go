package wal

// chunk is a batch that is being assembled. A large payload is not copied: it is written from where it is.
type chunk struct {
	header
	seed  uint32
	start int64 // where in the file it begins
	size  int64
	count int
	buf   []byte // all but the large payloads
	large []largePayload
}

// largePayload stands between buf[:at] and buf[at:].
type largePayload struct {
	at      int
	payload []byte
}

const (
	// payloadCopyMax is the largest payload that is copied into the chunk: below it a copy costs less than a buffer of its own in a write.
	payloadCopyMax = 4 << 10
	// chunkKeepBytes is the largest buffer kept for use again.
	chunkKeepBytes = 8 << 20
)

// add encodes a record at the chunk's end.
func (c *chunk) add(lsn uint64, r *Record) {
	c.count++
	c.size += sizeOf(len(r.Payload))
	if len(r.Payload) <= payloadCopyMax {
		c.buf = appendRecord(c.buf, c.seed, lsn, r)
		return
	}
	c.buf = appendRecordHead(c.buf, c.seed, lsn, r)
	c.large = append(c.large, largePayload{at: len(c.buf), payload: r.Payload})
	n := int64(recordHeader + len(r.Payload))
	c.buf = append(c.buf, padding[:aligned(n)-n]...)
}

// seal ends the chunk with its trailer.
func (c *chunk) seal(lsn uint64) {
	before := len(c.buf)
	c.buf = appendTrailer(c.buf, c.seed, lsn, c.base+uint64(c.start), c.count)
	c.size += int64(len(c.buf) - before)
}

// buffers appends the chunk's bytes, in order, to dst.
func (c *chunk) buffers(dst [][]byte) [][]byte {
	at := 0
	for _, l := range c.large {
		if l.at > at {
			dst = append(dst, c.buf[at:l.at])
		}
		dst = append(dst, l.payload)
		at = l.at
	}
	return append(dst, c.buf[at:])
}

// reset empties the chunk for use at another place, and lets go of payloads.
func (c *chunk) reset(h header, seed uint32, start int64) {
	clear(c.large)
	*c = chunk{header: h, seed: seed, start: start, buf: c.buf[:0], large: c.large[:0]}
}
