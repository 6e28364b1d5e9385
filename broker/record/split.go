package record

import (
	"fmt"
	"hash/crc32"
	"iter"
)

// Split yields the batches of b, which stand one after the other, as slices of b. It looks at lengths and magic, not at CRCs. An
// incomplete or unreadable batch is yielded as an error wrapping ErrCorrupt or ErrUnsupportedMagic, with its place in b, and ends the walk.
func Split(b []byte) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for at := 0; at < len(b); {
			n, err := Frame(b[at:])
			if err == nil && n > int64(len(b)-at) {
				err = fmt.Errorf("%d bytes of a batch of %d: %w", len(b)-at, n, ErrCorrupt)
			}
			if err != nil {
				yield(nil, fmt.Errorf("batch at byte %d: %w", at, err))
				return
			}
			end := at + int(n)
			if !yield(Batch(b[at:end:end]), nil) {
				return
			}
			at = end
		}
	}
}

// Frame returns the size of the batch that begins at b[0], which may extend beyond b, having checked what can be checked in
// its header: at least HeaderBytes bytes, the magic, a length that has room for the header, offsets and counts that are not negative.
func Frame(b []byte) (size int64, err error) {
	if len(b) > 16 && b[16] != Magic {
		return 0, fmt.Errorf("magic %d: %w", int8(b[16]), ErrUnsupportedMagic)
	}
	if len(b) < HeaderBytes {
		return 0, fmt.Errorf("%d bytes, fewer than a header's %d: %w", len(b), HeaderBytes, ErrCorrupt)
	}
	h := Batch(b)
	if h.Length() < HeaderBytes-lengthOverhead {
		return 0, fmt.Errorf("length field %d: %w", h.Length(), ErrCorrupt)
	}
	if h.LastOffsetDelta() < 0 || h.Count() < 0 {
		return 0, fmt.Errorf("last offset delta %d, %d records: %w", h.LastOffsetDelta(), h.Count(), ErrCorrupt)
	}
	return h.Size(), nil
}

// Checksum computes the CRC32C that b's CRC field should hold. b is a whole batch.
func Checksum(b Batch) uint32 {
	return crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli))
}

// CheckCRC returns an error wrapping ErrCorrupt when b, a whole batch, is not what its CRC was computed over.
func CheckCRC(b Batch) error {
	if got, want := Checksum(b), b.CRC(); got != want {
		return fmt.Errorf("CRC32C is %08x, the header says %08x: %w", got, want, ErrCorrupt)
	}
	return nil
}
