package record

import (
	"fmt"
)

// ValidateOptions says what Validate accepts. The zero value accepts what a client may produce to an ordinary topic, of
// any size, and does not decompress.
type ValidateOptions struct {
	BytesMax     int     // max.message.bytes; 0: no limit
	AllowControl bool    // accept control batches: the broker's own
	RequireKeys  bool    // compacted topic: a record without a key is an ErrInvalid. Decompresses.
	Deep         bool    // also walk the records of a compressed batch. Decompresses.
	Codecs       *Codecs // for decompression, and its limit; nil: one for this call
}

// RecordError says which record of a batch is not valid (Produce v8, record_errors). It wraps ErrInvalid.
type RecordError struct {
	Index int32 // of the record in the batch
	Text  string
}

// Error returns the record's index and what is wrong with it.
func (e *RecordError) Error() string { return fmt.Sprintf("record %d: %s", e.Index, e.Text) }

// Unwrap makes errors.Is find ErrInvalid.
func (e *RecordError) Unwrap() error { return ErrInvalid }

// Validate checks that b is exactly one whole batch of v2 that a producer may send: frame, size, CRC32C, attributes, producer
// fields, last offset delta = records - 1, and, for batches that are not compressed, every record's encoding. It computes the CRC
// once and allocates nothing unless it has to decompress. It does not retain or change b, and may be called concurrently.
//
// Errors wrap ErrUnsupportedMagic (v0 and v1 too: see [Upconvert]), ErrCorrupt, ErrTooLarge or ErrInvalid; of the last, a
// [RecordError] names the record where it is one.
func Validate(b []byte, o ValidateOptions) error {
	size, err := Frame(b)
	if err != nil {
		return err
	}
	if size > int64(len(b)) {
		return fmt.Errorf("%d bytes of a batch of %d: %w", len(b), size, ErrCorrupt)
	}
	if size < int64(len(b)) {
		return fmt.Errorf("%d bytes after the batch; exactly one is allowed: %w", int64(len(b))-size, ErrInvalid)
	}
	if o.BytesMax > 0 && len(b) > o.BytesMax {
		return fmt.Errorf("%d bytes, at most %d are allowed: %w", len(b), o.BytesMax, ErrTooLarge)
	}
	h := Batch(b)
	if err := CheckCRC(h); err != nil {
		return err
	}
	if err := validateHeader(h, o); err != nil {
		return err
	}
	if h.Codec() != CodecNone && !o.Deep && !o.RequireKeys {
		return nil
	}
	return validateRecords(h, o)
}

func validateHeader(h Batch, o ValidateOptions) error {
	if c := h.Codec(); c > CodecZstd {
		return fmt.Errorf("unknown compression codec %d: %w", c, ErrInvalid)
	}
	if h.Control() && !o.AllowControl {
		return fmt.Errorf("control batch from a client: %w", ErrInvalid)
	}
	// Both are the broker's to set (KIP-32, KIP-534).
	if h.LogAppendTime() && !o.AllowControl {
		return fmt.Errorf("timestamp type LogAppendTime from a client: %w: %w", ErrTimestamp, ErrInvalid)
	}
	if _, ok := h.DeleteHorizon(); ok {
		return fmt.Errorf("delete horizon from a client: %w", ErrInvalid)
	}
	if h.Count() == 0 {
		return fmt.Errorf("no records: %w", ErrInvalid)
	}
	if h.LastOffsetDelta() != h.Count()-1 {
		return fmt.Errorf("last offset delta %d for %d records: %w", h.LastOffsetDelta(), h.Count(), ErrInvalid)
	}
	if h.Control() {
		return nil
	}
	if h.ProducerID() < 0 {
		if h.Transactional() {
			return fmt.Errorf("transactional batch without a producer id: %w", ErrInvalid)
		}
		return nil
	}
	if h.ProducerEpoch() < 0 || h.BaseSequence() < 0 {
		return fmt.Errorf("producer %d with epoch %d and sequence %d: %w",
			h.ProducerID(), h.ProducerEpoch(), h.BaseSequence(), ErrInvalid)
	}
	return nil
}

func validateRecords(h Batch, o ValidateOptions) error {
	p, err := o.Codecs.payload(h)
	if err != nil {
		return err
	}
	w := walker{p: p, left: h.Count()}
	for i := int32(0); w.next(); i++ {
		if w.offsetDelta != i {
			return &RecordError{Index: i, Text: fmt.Sprintf("offset delta %d, want %d", w.offsetDelta, i)}
		}
		if o.RequireKeys && w.key == nil && !h.Control() {
			return &RecordError{Index: i, Text: "a compacted topic needs a key"}
		}
	}
	return w.err
}
