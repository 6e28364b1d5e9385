package record

import (
	"errors"
	"iter"

	"github.com/outrelay/outrelay"
)

var errTODO = errors.New("not there yet")

// ValidateOptions says what Validate accepts. The zero value accepts what a client may produce to an ordinary topic, of any size.
type ValidateOptions struct {
	BytesMax     int  // max.message.bytes, 0: no limit
	AllowControl bool // accept control batches (the broker's own)
	RequireKeys  bool // compacted topic: every record needs a key; decompresses
	Deep         bool // walk the records of compressed batches too
	Codecs       *Codecs
}

// Validate checks that b is exactly one whole batch that a producer may send.
func Validate(b []byte, o ValidateOptions) error { return errTODO }

// Split yields the batches of b, which stand one after the other.
func Split(b []byte) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) { yield(nil, errTODO) }
}

// Record is one record of a batch.
type Record struct {
	OffsetDelta    int32
	TimestampDelta int64
	Key, Value     []byte
	Headers        []outrelay.Header
}

// Records calls fn for each record of b.
func Records(b Batch, fn func(Record) error) error { return errTODO }

// Codecs compresses and decompresses.
type Codecs struct {
	OutputMax int
}

// BuilderOptions describes the batch to build. Set ProducerID, Epoch and Sequence to NoProducerID, NoProducerEpoch,
// NoSequence where there is no idempotent producer: 0 is a producer.
type BuilderOptions struct {
	ProducerID    int64
	Epoch         int16
	Sequence      int32
	Transactional bool
	Control       bool
	Codec         Codec
}

// Builder builds one batch.
type Builder struct{}

// NewBuilder returns an empty builder.
func NewBuilder(o BuilderOptions) *Builder { return &Builder{} }

// Add appends a record. nil key is the null key, nil value a tombstone.
func (b *Builder) Add(timestampMs int64, key, value []byte, headers []outrelay.Header) {}

// Build returns the batch, with base offset 0 and leader epoch -1.
func (b *Builder) Build() []byte { return nil }

// EndTxnMarker returns a control batch that ends a producer's transaction.
func EndTxnMarker(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, tsMs int64) []byte {
	return nil
}

// ParseEndTxnMarker reads a control batch made by EndTxnMarker.
func ParseEndTxnMarker(b Batch) (commit bool, coordinatorEpoch int32, err error) {
	return false, 0, errTODO
}

// Upconvert turns a message set of v0 or v1 into one batch of v2.
func Upconvert(b []byte) ([]byte, error) { return nil, errTODO }
