package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/outrelay/outrelay/internal/vfs"
)

// Both index files have one shape: a header, entries of a fixed size, and a seal once the segment is complete.
// docs/format/index-files.md shows it.
const (
	indexVersion     = 1
	indexHeaderBytes = 32
	sealBytes        = 40
	sealMagic        = 0x5345414c // "SEAL"
	noTimestamp      = int64(-1)
)

// kind is one of the two index files.
type kind struct {
	magic      string // 8 bytes
	ext        string
	entryBytes int
}

func offsetKind() kind { return kind{magic: "OUTRLIDX", ext: extIndex, entryBytes: 20} }
func txnKind() kind    { return kind{magic: "OUTRLTXN", ext: extTxn, entryBytes: 36} }

// entry says: the batch with base offset base+rel stands at byte pos, and no batch before it has a timestamp above ts.
type entry struct {
	rel, pos uint32
	ts       int64
}

// seal ends the index of a complete segment.
type seal struct {
	count uint32
	size  int64  // of the log file
	limit int64  // base offset of the next segment
	maxTS int64  // largest timestamp in the segment
	sum   uint32 // CRC32C of the first 16 bytes of all batches, which their own CRCs leave out
}

// sum is the CRC32C of payload as what stands at index i of the file of base: an entry of another file or place does not pass.
func (k kind) sum(base int64, i uint32, payload []byte) uint32 {
	var seed [20]byte
	copy(seed[:], k.magic)
	binary.BigEndian.PutUint64(seed[8:], uint64(base))
	binary.BigEndian.PutUint32(seed[16:], i)
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(seed[:], table), table, payload)
}

func (k kind) header(base int64) []byte {
	b := make([]byte, indexHeaderBytes)
	copy(b, k.magic)
	binary.BigEndian.PutUint16(b[8:], indexVersion)
	binary.BigEndian.PutUint16(b[10:], uint16(k.entryBytes))
	binary.BigEndian.PutUint64(b[16:], uint64(base))
	binary.BigEndian.PutUint32(b[24:], k.sum(base, math.MaxUint32, b[:24]))
	return b
}

// appendSum ends the entry that begins at byte start of b.
func (k kind) appendSum(b []byte, start int, base int64, i uint32) []byte {
	return binary.BigEndian.AppendUint32(b, k.sum(base, i, b[start:]))
}

func (k kind) appendEntry(b []byte, base int64, i uint32, e entry) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, e.rel)
	b = binary.BigEndian.AppendUint32(b, e.pos)
	b = binary.BigEndian.AppendUint64(b, uint64(e.ts))
	return k.appendSum(b, start, base, i)
}

func (k kind) appendAborted(b []byte, base int64, i uint32, a AbortedTxn) []byte {
	start := len(b)
	for _, v := range []int64{a.ProducerID, a.First, a.Last, a.LSO} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return k.appendSum(b, start, base, i)
}

func (k kind) appendSeal(b []byte, base int64, s seal) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, sealMagic)
	b = binary.BigEndian.AppendUint32(b, s.count)
	b = binary.BigEndian.AppendUint64(b, uint64(s.size))
	b = binary.BigEndian.AppendUint64(b, uint64(s.limit))
	b = binary.BigEndian.AppendUint64(b, uint64(s.maxTS))
	b = binary.BigEndian.AppendUint32(b, s.sum)
	return k.appendSum(b, start, base, math.MaxUint32-1)
}

func (k kind) parseSeal(b []byte, base int64) (s seal, ok bool) {
	be := binary.BigEndian
	if len(b) != sealBytes || be.Uint32(b) != sealMagic || be.Uint32(b[36:]) != k.sum(base, math.MaxUint32-1, b[:36]) {
		return s, false
	}
	return seal{
		count: be.Uint32(b[4:]), size: int64(be.Uint64(b[8:])), limit: int64(be.Uint64(b[16:])), maxTS: int64(be.Uint64(b[24:])),
		sum: be.Uint32(b[32:]),
	}, true
}

// checkHeader reports whether b begins with the header of base's file.
func (k kind) checkHeader(b []byte, base int64) bool {
	return len(b) >= indexHeaderBytes && string(b[:8]) == k.magic &&
		binary.BigEndian.Uint16(b[8:]) == indexVersion && int(binary.BigEndian.Uint16(b[10:])) == k.entryBytes &&
		int64(binary.BigEndian.Uint64(b[16:])) == base && binary.BigEndian.Uint32(b[24:]) == k.sum(base, math.MaxUint32, b[:24])
}

// parse calls fn with the payload of each valid entry of the file b, up to the first that is not, and returns the seal if all of
// the file is valid and sealed.
func (k kind) parse(b []byte, base int64, fn func(i int, p []byte)) (s seal, sealed bool) {
	if !k.checkHeader(b, base) {
		return s, false
	}
	rest := b[indexHeaderBytes:]
	if n := len(rest) - sealBytes; n >= 0 && n%k.entryBytes == 0 {
		if s, sealed = k.parseSeal(rest[n:], base); sealed {
			sealed = int(s.count) == n/k.entryBytes
			rest = rest[:n]
		}
	}
	i := 0
	for ; len(rest) >= k.entryBytes; i++ {
		p := rest[:k.entryBytes-4]
		if binary.BigEndian.Uint32(rest[len(p):]) != k.sum(base, uint32(i), p) {
			return s, false
		}
		fn(i, p)
		rest = rest[k.entryBytes:]
	}
	return s, sealed && len(rest) == 0
}

// read reads the file of base whole. A file longer than any index of a log of logBytes is not read: it is wrong.
func (k kind) read(d files, base, logBytes int64) ([]byte, error) {
	f, err := d.fs.Open(d.name(base, k.ext))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if most := indexHeaderBytes + (logBytes/61+1)*int64(k.entryBytes) + sealBytes; size > most {
		return nil, fmt.Errorf("index %s: %d bytes, a log of %d has at most %d: %w", d.name(base, k.ext), size, logBytes, most, ErrCorrupt)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b[:n], nil
}

// readSeal reads the seal alone.
func (k kind) readSeal(d files, base int64) (s seal, ok bool) {
	f, err := d.fs.Open(d.name(base, k.ext))
	if err != nil {
		return s, false
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size < indexHeaderBytes+sealBytes {
		return s, false
	}
	var b [sealBytes]byte
	if n, _ := f.ReadAt(b[:], size-sealBytes); n != sealBytes {
		return s, false
	}
	s, ok = k.parseSeal(b[:], base)
	return s, ok && size == indexHeaderBytes+int64(s.count)*int64(k.entryBytes)+sealBytes
}

// write writes data, entries from the from-th on, into the file of base, which it makes (with the header) when from is 0 or the file
// is not there with what should precede. The caller syncs and closes the file. ok is false when the file has to be written from 0.
func (k kind) write(d files, base int64, from int, data []byte) (f vfs.File, ok bool, err error) {
	name := d.name(base, k.ext)
	if from == 0 {
		if f, err = d.fs.Create(name); err != nil {
			return nil, false, err
		}
		if _, err = f.WriteAt(append(k.header(base), data...), 0); err != nil {
			f.Close()
			return nil, false, err
		}
		return f, true, nil
	}
	at := indexHeaderBytes + int64(from)*int64(k.entryBytes)
	if f, err = d.fs.OpenRW(name); err != nil {
		return nil, false, nil //nolint:nilerr // a lost cache is written anew
	}
	if size, err := f.Size(); err != nil || size < at {
		f.Close()
		return nil, false, err
	}
	if _, err = f.WriteAt(data, at); err == nil {
		err = f.Truncate(at + int64(len(data)))
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, true, nil
}

func parseEntry(p []byte) entry {
	be := binary.BigEndian
	return entry{rel: be.Uint32(p), pos: be.Uint32(p[4:]), ts: int64(be.Uint64(p[8:]))}
}

func parseAborted(p []byte) AbortedTxn {
	be := binary.BigEndian
	return AbortedTxn{ProducerID: int64(be.Uint64(p)), First: int64(be.Uint64(p[8:])), Last: int64(be.Uint64(p[16:])), LSO: int64(be.Uint64(p[24:]))}
}
