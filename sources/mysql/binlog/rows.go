package binlog

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// RowsBody is the body of a rows event, without checksum, split.
type RowsBody struct {
	Columns int
	before  []byte // bitmap of the columns that are in the image: of an insert or delete the only one
	after   []byte // of an update
	images  []byte
}

const tableIDBytes = 6

// TableID reads the number that joins a rows event or a table map to the table: the first six bytes of its body.
func TableID(body []byte) (uint64, error) {
	if len(body) < tableIDBytes {
		return 0, fmt.Errorf("body of %d bytes: %w", len(body), ErrMalformed)
	}
	return littleEndian(body[:tableIDBytes]), nil
}

// ParseRows splits the body of a rows event of version 1 or 2; an update has two bitmaps. What is compressed (MariaDB) is decompressed, up to bytesMax.
func ParseRows(body []byte, version2, update, compressed bool, bytesMax int) (RowsBody, error) {
	var r RowsBody
	pos := tableIDBytes + 2 // flags
	if version2 {
		if len(body) < pos+2 {
			return r, fmt.Errorf("rows of %d bytes: %w", len(body), ErrMalformed)
		}
		extra := int(binary.LittleEndian.Uint16(body[pos:])) // counts itself
		if extra < 2 {
			return r, fmt.Errorf("rows with %d bytes of extra data: %w", extra, ErrMalformed)
		}
		pos += extra
	}
	if len(body) < pos {
		return r, fmt.Errorf("rows of %d bytes: %w", len(body), ErrMalformed)
	}
	count, n, err := PackedInt(body[pos:])
	if err != nil {
		return r, err
	}
	pos += n
	if count == 0 || count > columnsMax {
		return r, fmt.Errorf("rows of %d columns: %w", count, ErrMalformed)
	}
	r.Columns = int(count)
	size := (r.Columns + 7) / 8
	need := size
	if update {
		need += size
	}
	if len(body) < pos+need {
		return r, fmt.Errorf("rows of %d bytes: %w", len(body), ErrMalformed)
	}
	r.before, r.images = body[pos:pos+size], body[pos+need:]
	if update {
		r.after = body[pos+size : pos+need]
	}
	if compressed {
		r.images, err = Inflate(r.images, bytesMax)
	}
	return r, err
}

// columnsMax is how many columns MySQL and MariaDB allow in a table.
const columnsMax = 4096

// Inflate reads MariaDB's form of compressed data: a byte that holds the algorithm and the size of the length, the length, and a zlib stream.
func Inflate(b []byte, bytesMax int) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("compressed rows without a header: %w", ErrMalformed)
	}
	n := int(b[0] & 7)
	if b[0]>>4&7 != 0 || n == 0 || n > 4 || len(b) < 1+n {
		return nil, fmt.Errorf("compressed rows with header %#x: %w", b[0], ErrMalformed)
	}
	size := bigEndian(b[1 : 1+n])
	if size > uint64(bytesMax) {
		return nil, fmt.Errorf("compressed rows of %d bytes: %w", size, ErrTooLarge)
	}
	z, err := zlib.NewReader(bytes.NewReader(b[1+n:]))
	if err != nil {
		return nil, fmt.Errorf("compressed rows: %w: %w", ErrMalformed, err)
	}
	var out bytes.Buffer
	if m, err := io.Copy(&out, io.LimitReader(z, int64(size)+1)); err != nil || uint64(m) != size {
		return nil, fmt.Errorf("compressed rows of %d bytes, said to have %d: %w", m, size, ErrMalformed)
	}
	return out.Bytes(), nil
}

// ErrTooLarge: a row, or what is compressed, exceeds the limit.
var ErrTooLarge = fmt.Errorf("larger than the limit")

// More reports whether another row follows.
func (r *RowsBody) More() bool { return len(r.images) > 0 }

// Full reports whether the rows hold every column.
func (r *RowsBody) Full() bool {
	n := 0
	for i, b := range r.before {
		if i == len(r.before)-1 && r.Columns%8 != 0 {
			b &= 1<<(r.Columns%8) - 1
		}
		n += bits.OnesCount8(b)
	}
	return n == r.Columns
}

// Next appends the text of the next row's columns to dst, one behind the other, and to ends where in dst each ends; the end of a NULL is negative, ^end.
// Only rows that are full can be read so.
func (r *RowsBody) Next(t *Table, dst []byte, ends []int) ([]byte, []int, error) {
	nulls := (r.Columns + 7) / 8
	if len(t.columns) != r.Columns || len(r.images) < nulls {
		return dst, ends, fmt.Errorf("row of %d columns, %d bytes; the table has %d columns: %w", r.Columns, len(r.images), len(t.columns), ErrMalformed)
	}
	isNull, rest := r.images[:nulls], r.images[nulls:]
	for i := range t.columns {
		if isNull[i>>3]&(1<<(i&7)) != 0 {
			ends = append(ends, ^len(dst))
			continue
		}
		c := &t.columns[i]
		n, err := c.size(rest)
		if err == nil {
			dst, err = c.append(dst, rest[:n])
		}
		if err != nil {
			return dst, ends, fmt.Errorf("column %s: %w", c.Name, err)
		}
		rest = rest[n:]
		ends = append(ends, len(dst))
	}
	r.images = rest
	return dst, ends, nil
}

// Size returns how many bytes the images hold that follow.
func (r *RowsBody) Size() int { return len(r.images) }

// Count returns how many rows follow, whatever columns their images hold.
func (r *RowsBody) Count(t *Table) (n int, err error) {
	for r.More() {
		if err := r.Skip(t); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Skip passes the next row, of an update both its images.
func (r *RowsBody) Skip(t *Table) error {
	if len(t.columns) != r.Columns {
		return fmt.Errorf("row of %d columns; the table has %d: %w", r.Columns, len(t.columns), ErrMalformed)
	}
	err := r.skip(t, r.before)
	if err == nil && r.after != nil {
		err = r.skip(t, r.after)
	}
	return err
}

// skip passes one image that holds the columns of a bitmap.
func (r *RowsBody) skip(t *Table, present []byte) error {
	in := 0
	for i := range t.columns {
		in += int(present[i>>3] >> (i & 7) & 1)
	}
	nulls := (in + 7) / 8
	if len(r.images) < nulls {
		return fmt.Errorf("image of %d bytes: %w", len(r.images), ErrMalformed)
	}
	isNull, rest, at := r.images[:nulls], r.images[nulls:], 0
	for i := range t.columns {
		if present[i>>3]>>(i&7)&1 == 0 {
			continue
		}
		if isNull[at>>3]>>(at&7)&1 == 0 {
			n, err := t.columns[i].size(rest)
			if err != nil {
				return fmt.Errorf("column %s: %w", t.columns[i].Name, err)
			}
			rest = rest[n:]
		}
		at++
	}
	if len(rest) == len(r.images) {
		return fmt.Errorf("image without columns: %w", ErrMalformed)
	}
	r.images = rest
	return nil
}
