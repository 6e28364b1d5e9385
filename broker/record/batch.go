package record

import (
	"encoding/binary"
	"errors"
)

// The classes of error of this package; find them with errors.Is. Texts say what is wrong, and where.
var (
	// ErrCorrupt: the bytes are not what their writer wrote: lengths, CRC, encoding. CORRUPT_MESSAGE.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrInvalid: the bytes are whole, but a producer may not send them. INVALID_RECORD.
	ErrInvalid = errors.New("invalid record batch")
	// ErrTimestamp: the batch has a timestamp, or a type of timestamp, that its producer may not give it. INVALID_TIMESTAMP.
	ErrTimestamp = errors.New("invalid timestamp")
	// ErrTooLarge: above the size limit, as sent or decompressed. MESSAGE_TOO_LARGE.
	ErrTooLarge = errors.New("record batch too large")
	// ErrUnsupportedMagic: the format version is not one that is served here. UNSUPPORTED_FOR_MESSAGE_FORMAT.
	ErrUnsupportedMagic = errors.New("unsupported record batch magic")
)

const (
	// HeaderBytes is the size of a batch without records.
	HeaderBytes = 61
	// PrefixBytes is the part of the header that the broker stamps; the CRC starts after it (at the attributes).
	PrefixBytes = 16
	// lengthOverhead is what the length field does not count: base offset and the field itself.
	lengthOverhead = 12
	// Magic is the format version of this package's batches.
	Magic = 2
	// NoProducerID, NoProducerEpoch and NoSequence stand in batches without an idempotent producer.
	NoProducerID    = int64(-1)
	NoProducerEpoch = int16(-1)
	NoSequence      = int32(-1)
	// NoTimestamp is the timestamp of records that have none (message format v0).
	NoTimestamp = int64(-1)
)

const (
	attrCodecMask     = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// Codec is how the records of a batch are compressed.
type Codec int8

// The codecs of Kafka's format.
const (
	CodecNone Codec = iota
	CodecGzip
	CodecSnappy
	CodecLZ4
	CodecZstd
)

// String returns the name that Kafka's configuration uses.
func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecGzip:
		return "gzip"
	case CodecSnappy:
		return "snappy"
	case CodecLZ4:
		return "lz4"
	case CodecZstd:
		return "zstd"
	}
	return "unknown"
}

// Batch is the raw bytes of one record batch. The accessors read the header in place and panic on fewer than HeaderBytes
// bytes, so call them on what [Validate] accepted or [Split] yielded. A Batch is never changed by this package.
type Batch []byte

// BaseOffset returns the offset of the first record (before compaction; the offset never changes).
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[0:])) }

// Length returns the length field: the bytes that follow it.
func (b Batch) Length() int32 { return int32(binary.BigEndian.Uint32(b[8:])) }

// Size returns the size of the whole batch in bytes as its length field says.
func (b Batch) Size() int64 { return int64(b.Length()) + lengthOverhead }

// LeaderEpoch returns the leader epoch that the broker stamped (KIP-101); producers send -1.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[12:])) }

// Magic returns the format version.
func (b Batch) Magic() int8 { return int8(b[16]) }

// CRC returns the stored CRC32C, which covers everything from the attributes on.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[17:]) }

// Attributes returns the attribute bits.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[21:])) }

// Codec returns how the records are compressed. Values above CodecZstd are not valid.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & attrCodecMask) }

// LogAppendTime reports whether the max timestamp, set by the broker, is the timestamp of every record (KIP-32).
func (b Batch) LogAppendTime() bool { return b.Attributes()&attrLogAppendTime != 0 }

// Transactional reports whether the batch belongs to a transaction.
func (b Batch) Transactional() bool { return b.Attributes()&attrTransactional != 0 }

// Control reports whether the batch holds a control record, as the end of a transaction.
func (b Batch) Control() bool { return b.Attributes()&attrControl != 0 }

// DeleteHorizon returns the time in ms after which tombstones and empty transaction markers of this batch may go. It
// stands in the base timestamp's place once compaction has set it (KIP-534).
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	if b.Attributes()&attrDeleteHorizon == 0 {
		return 0, false
	}
	return b.BaseTimestamp(), true
}

// LastOffsetDelta returns the last record's offset less the base offset. Compaction keeps it.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[23:])) }

// LastOffset returns the offset of the last record.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// BaseTimestamp returns the time in ms that the records' timestamp deltas count from.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[27:])) }

// MaxTimestamp returns the largest timestamp of the records in ms.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[35:])) }

// ProducerID returns the producer's id, or NoProducerID.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[43:])) }

// ProducerEpoch returns the producer's epoch, or NoProducerEpoch.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[51:])) }

// BaseSequence returns the sequence number of the first record, or NoSequence.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[53:])) }

// LastSequence returns the sequence number of the last record; sequences wrap from 2^31-1 to 0.
func (b Batch) LastSequence() int32 {
	if b.BaseSequence() == NoSequence {
		return NoSequence
	}
	return int32((int64(b.BaseSequence()) + int64(b.LastOffsetDelta())) & 0x7fffffff)
}

// Count returns the number of records that the header claims.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[57:])) }

// Stamp16 returns the first 16 bytes of batch b with the given base offset and leader epoch; b is not changed. The
// CRC does not cover them.
func Stamp16(b []byte, baseOffset int64, leaderEpoch int32) [PrefixBytes]byte {
	var p [PrefixBytes]byte
	binary.BigEndian.PutUint64(p[0:], uint64(baseOffset))
	copy(p[8:12], b[8:12])
	binary.BigEndian.PutUint32(p[12:], uint32(leaderEpoch))
	return p
}
