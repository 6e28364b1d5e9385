package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
)

// docs/format/wal.md says what these bytes mean and why.
const (
	magic         = "OUTRLWAL"
	version       = 1
	fileHeader    = 4096 // bytes before the first batch
	recordHeader  = 40
	trailerBytes  = recordHeader
	alignment     = 8 // of records, so that a search for trailers tries few places
	kindTrailer   = 0xFF
	nameSuffix    = ".wal"
	sparePrefix   = "spare-"
	spareSuffix   = ".tmp"
	payloadMaxMax = 1 << 30 // whatever Options.RecordBytesMax says
)

// castagnoli is never written to.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// identity is whose a file is. Zero fields are not known.
type identity struct {
	node        int32
	incarnation [16]byte
	logID       [16]byte
}

// header is what a file's first 4096 bytes say.
type header struct {
	seq      uint64
	base     uint64 // LSN of the file's first byte
	capacity int64
	identity
}

func (h header) encode() []byte {
	b := make([]byte, fileHeader)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], fileHeader)
	le.PutUint64(b[16:], h.seq)
	le.PutUint64(b[24:], h.base)
	le.PutUint64(b[32:], uint64(h.capacity))
	h.identity.encode(b)
	le.PutUint32(b[fileHeader-4:], crc32.Checksum(b[:fileHeader-4], castagnoli))
	return b
}

// encode writes the identity to bytes [40, 80) of a header.
func (id identity) encode(b []byte) {
	binary.LittleEndian.PutUint32(b[40:], uint32(id.node))
	copy(b[48:64], id.incarnation[:])
	copy(b[64:80], id.logID[:])
}

// seed is the part of a file's record seeds that does not depend on the place.
func (id identity) seed() uint32 {
	var b [80]byte
	id.encode(b[:])
	return crc32.Checksum(b[40:80], castagnoli)
}

// decodeHeader reads a header. Its errors wrap ErrCorrupt or ErrVersion and do not name the file.
func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	var h header
	if len(b) < fileHeader {
		return h, fmt.Errorf("%d bytes, shorter than a file header: %w", len(b), ErrCorrupt)
	}
	if string(b[:8]) != magic {
		return h, fmt.Errorf("magic %q, want %q: %w", b[:8], magic, ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v > version {
		// Judged before the CRC: a newer version may keep it elsewhere.
		return h, fmt.Errorf("version %d, this build reads up to %d: %w", v, version, ErrVersion)
	}
	if le.Uint32(b[fileHeader-4:]) != crc32.Checksum(b[:fileHeader-4], castagnoli) {
		return h, fmt.Errorf("file header CRC: %w", ErrCorrupt)
	}
	if flags := le.Uint32(b[44:]); flags != 0 || le.Uint32(b[8:]) != version || le.Uint32(b[12:]) != fileHeader {
		return h, fmt.Errorf("flags %#x, version %d, header of %d bytes: %w", flags, le.Uint32(b[8:]), le.Uint32(b[12:]), ErrVersion)
	}
	h.seq, h.base, h.capacity = le.Uint64(b[16:]), le.Uint64(b[24:]), int64(le.Uint64(b[32:]))
	h.node = int32(le.Uint32(b[40:]))
	copy(h.incarnation[:], b[48:64])
	copy(h.logID[:], b[64:80])
	return h, nil
}

// aligned rounds up to where the next record may begin.
func aligned(n int64) int64 { return (n + alignment - 1) &^ (alignment - 1) }

// sizeOf returns the bytes that a record takes.
func sizeOf(payloadBytes int) int64 { return aligned(recordHeader + int64(payloadBytes)) }

// recordSeed starts the CRC of the record at lsn. Two places less than 4 GiB apart that share their high half never share a seed, and a CRC with
// another seed over the same bytes is another CRC: bytes that were written elsewhere never pass.
func recordSeed(file uint32, lsn uint64) uint32 {
	return file ^ uint32(lsn) ^ uint32(lsn>>32)*0x9E3779B1
}

// appendRecord encodes r at the end of buf, padded. It allocates only when buf has no room.
func appendRecord(buf []byte, fileSeed uint32, lsn uint64, r *Record) []byte {
	at, n := len(buf), recordHeader+len(r.Payload)
	buf = slices.Grow(buf, int(aligned(int64(n))))
	buf = append(appendRecordHead(buf, fileSeed, lsn, r), r.Payload...)
	return append(buf, padding[:int(aligned(int64(n)))-(len(buf)-at)]...)
}

// appendRecordHead encodes what stands before r's payload.
func appendRecordHead(buf []byte, fileSeed uint32, lsn uint64, r *Record) []byte {
	at := len(buf)
	le := binary.LittleEndian
	buf = le.AppendUint32(buf, 0)
	buf = le.AppendUint32(buf, uint32(len(r.Payload)))
	buf = le.AppendUint64(buf, r.Group)
	buf = le.AppendUint64(buf, r.Index)
	buf = le.AppendUint64(buf, r.Term)
	buf = le.AppendUint64(buf, uint64(r.Kind)) // and 7 bytes of zero
	sum := crc32.Update(recordSeed(fileSeed, lsn), castagnoli, buf[at+4:])
	le.PutUint32(buf[at:], crc32.Update(sum, castagnoli, r.Payload))
	return buf
}

// padding ends a record.
var padding [alignment]byte

// appendTrailer ends a batch of count records whose trailer stands at lsn and which begins at start.
func appendTrailer(buf []byte, fileSeed uint32, lsn, start uint64, count int) []byte {
	return appendRecord(buf, fileSeed, lsn, &Record{Group: uint64(count), Kind: kindTrailer, Index: lsn, Term: start})
}

func payloadLen(head []byte) int64 { return int64(binary.LittleEndian.Uint32(head[4:])) }
func kindOf(head []byte) uint8     { return head[32] }

// crcGood reports whether the record whose header and payload are given was written at lsn.
func crcGood(head, payload []byte, fileSeed uint32, lsn uint64) bool {
	sum := crc32.Update(recordSeed(fileSeed, lsn), castagnoli, head[4:recordHeader])
	return crc32.Update(sum, castagnoli, payload) == binary.LittleEndian.Uint32(head)
}

// knownRecord reports whether this build knows what a good record means; a newer one may have written others.
func knownRecord(head []byte) bool {
	k := kindOf(head)
	return head[33] == 0 && k != 0 && (k < KindReserved || k == kindTrailer)
}

// parseRecord reads the header's fields; payload is not copied.
func parseRecord(head, payload []byte) Record {
	le := binary.LittleEndian
	return Record{Group: le.Uint64(head[8:]), Kind: kindOf(head), Index: le.Uint64(head[16:]), Term: le.Uint64(head[24:]), Payload: payload}
}

func fileName(seq uint64) string { return fmt.Sprintf("%020d%s", seq, nameSuffix) }

func spareName(n uint64) string { return fmt.Sprintf("%s%015d%s", sparePrefix, n, spareSuffix) }

// parseName returns the number in a name of the given shape.
func parseName(name, prefix, suffix string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, suffix); !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}
