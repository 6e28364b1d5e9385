package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Message sets of v0 and v1 (Produce v0 to v2) are messages one after the other:
//
//	┌────────┬──────┬───────┬───────┬──────────┬─────────────────┬─────────────────┬──────────────────┐
//	│offset 8│size 4│CRC32 4│magic 1│attrib. 1 │timestamp 8 (v1) │key length 4, key│value length 4, … │
//	└────────┴──────┴───────┴───────┴──────────┴─────────────────┴─────────────────┴──────────────────┘
//
// A compressed message's value is a message set in turn, whose messages are not compressed.
const (
	setOverhead    = 12 // offset and size
	messageMin     = 14 // a v0 message without key and value, after offset and size
	setLogAppend   = 0x08
	lz4FrameMagic  = 0x184D2204
	lz4HeaderBytes = 7 // magic, flags, block descriptor, header checksum
)

// Upconvert turns a message set of v0 or v1, as producers before Kafka 0.11 send it, into one batch of v2 without a producer, compressed
// with the set's codec. The result is the caller's own. A v0 message has NoTimestamp. Every message's CRC is checked. Errors wrap
// ErrCorrupt, ErrInvalid (nested compression, no messages, zstd), ErrTooLarge (decompressed above the limit) or ErrUnsupportedMagic.
func Upconvert(b []byte) ([]byte, error) { return (*Codecs)(nil).Upconvert(b) }

// Upconvert is the function Upconvert with the codecs and the limit of c.
func (c *Codecs) Upconvert(b []byte) ([]byte, error) {
	u := upconverter{c: c, out: NewBuilder(NoProducer(CodecNone))}
	u.out.o.Codecs = c
	if err := u.set(b, false); err != nil {
		return nil, err
	}
	if u.out.Count() == 0 {
		return nil, fmt.Errorf("no messages: %w", ErrInvalid)
	}
	return u.out.Build(), nil
}

type upconverter struct {
	c   *Codecs
	out *Builder
}

// message is one parsed message of v0 or v1.
type message struct {
	magic      int8
	attributes byte
	timestamp  int64
	key, value []byte
}

func (m message) codec() Codec { return Codec(m.attributes & attrCodecMask) }

func (u *upconverter) set(b []byte, inner bool) error {
	for at := 0; at < len(b); {
		m, n, err := parseMessage(b[at:])
		if err == nil {
			err = u.message(m, inner)
		}
		if err != nil {
			return fmt.Errorf("message at byte %d: %w", at, err)
		}
		at += n
	}
	return nil
}

func (u *upconverter) message(m message, inner bool) error {
	if m.attributes&setLogAppend != 0 && m.magic == 1 && !inner {
		return fmt.Errorf("timestamp type LogAppendTime from a client: %w", ErrInvalid)
	}
	codec := m.codec()
	if codec == CodecNone {
		u.out.Add(m.timestamp, m.key, m.value, nil)
		if u.out.Bytes() > u.c.outputMax() {
			return fmt.Errorf("more than %d bytes: %w", u.c.outputMax(), ErrTooLarge)
		}
		return nil
	}
	if inner {
		return fmt.Errorf("compressed message inside a compressed one: %w", ErrInvalid)
	}
	if codec >= CodecZstd {
		return fmt.Errorf("codec %s in a message of v%d: %w", codec, m.magic, ErrInvalid)
	}
	p := m.value
	if codec == CodecLZ4 && m.magic == 0 {
		p = fixLZ4Header(p)
	}
	p, err := u.c.Decompress(p, codec)
	if err != nil {
		return err
	}
	if len(p) == 0 {
		return fmt.Errorf("compressed message without messages: %w", ErrInvalid)
	}
	u.out.o.Codec = codec
	return u.set(p, true)
}

// parseMessage reads the message at b[0] and returns it with its size.
func parseMessage(b []byte) (m message, size int, err error) {
	be := binary.BigEndian
	if len(b) < setOverhead+messageMin {
		return m, 0, fmt.Errorf("%d bytes: %w", len(b), ErrCorrupt)
	}
	n := int64(int32(be.Uint32(b[8:])))
	if n < messageMin || n > int64(len(b)-setOverhead) {
		return m, 0, fmt.Errorf("size %d, %d bytes left: %w", n, len(b)-setOverhead, ErrCorrupt)
	}
	size = setOverhead + int(n)
	p := b[setOverhead:size]
	m.magic, m.attributes, m.timestamp = int8(p[4]), p[5], NoTimestamp
	if m.magic != 0 && m.magic != 1 {
		return m, 0, fmt.Errorf("magic %d: %w", m.magic, ErrUnsupportedMagic)
	}
	if got, want := crc32.ChecksumIEEE(p[4:]), be.Uint32(p); got != want {
		return m, 0, fmt.Errorf("CRC32 is %08x, the message says %08x: %w", got, want, ErrCorrupt)
	}
	rest := p[6:]
	if m.magic == 1 {
		if len(rest) < 8 {
			return m, 0, fmt.Errorf("size %d: %w", n, ErrCorrupt)
		}
		m.timestamp, rest = int64(be.Uint64(rest)), rest[8:]
	}
	var ok1, ok2 bool
	m.key, rest, ok1 = cutBytes(rest)
	m.value, rest, ok2 = cutBytes(rest)
	if !ok1 || !ok2 || len(rest) != 0 {
		return m, 0, fmt.Errorf("key and value do not fill the size %d: %w", n, ErrCorrupt)
	}
	return m, size, nil
}

// cutBytes reads a 4-byte length, -1 for nil, and as many bytes.
func cutBytes(p []byte) (b, rest []byte, ok bool) {
	if len(p) < 4 {
		return nil, nil, false
	}
	n := int32(binary.BigEndian.Uint32(p))
	p = p[4:]
	if n == -1 {
		return nil, p, true
	}
	if n < 0 || int(n) > len(p) {
		return nil, nil, false
	}
	return p[:n:n], p[n:], true
}

// fixLZ4Header returns p with the header checksum that the LZ4 frame format asks for. Clients of v0 computed it over the magic too
// (KAFKA-3160), which no decoder accepts.
func fixLZ4Header(p []byte) []byte {
	if len(p) < lz4HeaderBytes || binary.LittleEndian.Uint32(p) != lz4FrameMagic {
		return p
	}
	end := 6 // after flags and block descriptor
	if p[4]&0x08 != 0 {
		end += 8 // the content's size
	}
	if len(p) <= end {
		return p
	}
	fixed := append([]byte(nil), p...)
	fixed[end] = byte(xxh32Short(p[4:end]) >> 8)
	return fixed
}

// xxh32Short is xxHash32 with seed 0 of fewer than 16 bytes.
func xxh32Short(p []byte) uint32 {
	const prime1, prime2, prime3, prime4, prime5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
	h := uint32(prime5) + uint32(len(p))
	for ; len(p) >= 4; p = p[4:] {
		h = bits.RotateLeft32(h+binary.LittleEndian.Uint32(p)*prime3, 17) * prime4
	}
	for _, c := range p {
		h = bits.RotateLeft32(h+uint32(c)*prime5, 11) * prime1
	}
	h = (h ^ h>>15) * prime2
	h = (h ^ h>>13) * prime3
	return h ^ h>>16
}
