package record

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/outrelay/outrelay"
)

// BuilderOptions describes the batch to build. Where there is no idempotent producer, set ProducerID, Epoch and Sequence to
// NoProducerID, NoProducerEpoch and NoSequence, as [NoProducer] does: 0 is a producer.
type BuilderOptions struct {
	ProducerID    int64
	Epoch         int16
	Sequence      int32
	Transactional bool
	Control       bool
	Codec         Codec
	Codecs        *Codecs // keeps compressors between batches; may be nil
}

// NoProducer returns the options of a batch that no idempotent producer sends.
func NoProducer(codec Codec) BuilderOptions {
	return BuilderOptions{ProducerID: NoProducerID, Epoch: NoProducerEpoch, Sequence: NoSequence, Codec: codec}
}

// Builder builds one batch, record by record. For one goroutine.
type Builder struct {
	o       BuilderOptions
	payload []byte
	count   int32
	baseTS  int64
	maxTS   int64
}

// NewBuilder returns an empty builder.
func NewBuilder(o BuilderOptions) *Builder { return &Builder{o: o} }

// Add appends a record and copies its bytes. A nil key is the null key, a nil value a tombstone. timestampMs may be
// NoTimestamp.
func (b *Builder) Add(timestampMs int64, key, value []byte, headers []outrelay.Header) {
	if b.count == 0 {
		b.baseTS, b.maxTS = timestampMs, timestampMs
	}
	b.maxTS = max(b.maxTS, timestampMs)
	body := bytesSize(key) + bytesSize(value) + varintSize(int64(len(headers)))
	for _, h := range headers {
		body += varintSize(int64(len(h.Key))) + len(h.Key) + bytesSize(h.Value)
	}
	b.payload = appendPrefix(b.payload, body, timestampMs-b.baseTS, b.count)
	b.payload = appendBytes(b.payload, key)
	b.payload = appendBytes(b.payload, value)
	b.payload = binary.AppendVarint(b.payload, int64(len(headers)))
	for _, h := range headers {
		b.payload = binary.AppendVarint(b.payload, int64(len(h.Key)))
		b.payload = append(b.payload, h.Key...)
		b.payload = appendBytes(b.payload, h.Value)
	}
	b.count++
}

// Count returns how many records have been added.
func (b *Builder) Count() int { return int(b.count) }

// Bytes returns the size of the batch so far, before compression.
func (b *Builder) Bytes() int { return HeaderBytes + len(b.payload) }

// Build returns the batch in a slice of the caller's own, with base offset 0 and leader epoch -1. It panics on an unknown codec and on
// more than 2 GiB. The builder should not be used afterwards.
func (b *Builder) Build() []byte {
	attrs := int16(b.o.Codec)
	if b.o.Transactional {
		attrs |= attrTransactional
	}
	if b.o.Control {
		attrs |= attrControl
	}
	out, err := seal(b.o.Codecs, header{
		leaderEpoch: -1, attributes: attrs, lastOffsetDelta: b.count - 1, baseTimestamp: b.baseTS, maxTimestamp: b.maxTS,
		producerID: b.o.ProducerID, producerEpoch: b.o.Epoch, baseSequence: b.o.Sequence, count: b.count,
	}, b.payload)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return out
}

// header holds the fields of a batch that seal does not compute.
type header struct {
	baseOffset      int64
	leaderEpoch     int32
	attributes      int16
	lastOffsetDelta int32
	baseTimestamp   int64
	maxTimestamp    int64
	producerID      int64
	producerEpoch   int16
	baseSequence    int32
	count           int32
}

// seal returns the batch of h and payload, which it compresses as h's attributes say.
func seal(c *Codecs, h header, payload []byte) ([]byte, error) {
	room := len(payload)
	if Codec(h.attributes&attrCodecMask) != CodecNone {
		room /= 2
	}
	b := make([]byte, HeaderBytes, HeaderBytes+room)
	b, err := c.Compress(b, payload, Codec(h.attributes&attrCodecMask))
	if err != nil {
		return nil, err
	}
	if len(b) > math.MaxInt32 {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrTooLarge)
	}
	patch(b, h)
	return b, nil
}

// patch writes h, the length and the CRC into b, a whole batch.
func patch(b []byte, h header) {
	be := binary.BigEndian
	be.PutUint64(b[0:], uint64(h.baseOffset))
	be.PutUint32(b[8:], uint32(len(b)-lengthOverhead))
	be.PutUint32(b[12:], uint32(h.leaderEpoch))
	b[16] = Magic
	be.PutUint16(b[21:], uint16(h.attributes))
	be.PutUint32(b[23:], uint32(h.lastOffsetDelta))
	be.PutUint64(b[27:], uint64(h.baseTimestamp))
	be.PutUint64(b[35:], uint64(h.maxTimestamp))
	be.PutUint64(b[43:], uint64(h.producerID))
	be.PutUint16(b[51:], uint16(h.producerEpoch))
	be.PutUint32(b[53:], uint32(h.baseSequence))
	be.PutUint32(b[57:], uint32(h.count))
	be.PutUint32(b[17:], Checksum(b))
}

// appendPrefix appends what stands before a record's key: the length of all that follows, attributes and the deltas.
// body is the size from the key's length on.
func appendPrefix(p []byte, body int, timestampDelta int64, offsetDelta int32) []byte {
	n := 1 + varintSize(timestampDelta) + varintSize(int64(offsetDelta)) + body
	p = binary.AppendVarint(p, int64(n))
	p = append(p, 0)
	p = binary.AppendVarint(p, timestampDelta)
	return binary.AppendVarint(p, int64(offsetDelta))
}

func appendBytes(p, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(p, -1)
	}
	p = binary.AppendVarint(p, int64(len(b)))
	return append(p, b...)
}

func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

func varintSize(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
