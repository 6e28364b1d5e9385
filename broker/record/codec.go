package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// OutputMaxDefault is how many bytes one batch may decompress to, where nothing else is said. Kafka has no such limit; without
// one a batch of 1 MiB can ask for a GiB of memory.
const OutputMaxDefault = 64 << 20

// Codecs compresses and decompresses records, keeping the codecs' state for the next call. The zero value is ready; a nil *Codecs
// works too and keeps nothing. Safe for concurrent use.
type Codecs struct {
	OutputMax int // bytes one batch may decompress to; 0: OutputMaxDefault. Set it before first use.

	gunzip, unlz4, unzstd sync.Pool
	gzip, lz4, zstd       sync.Pool
}

func (c *Codecs) outputMax() int {
	if c == nil || c.OutputMax <= 0 {
		return OutputMaxDefault
	}
	return c.OutputMax
}

// get takes a T from one of c's pools, if c and the pool have one.
func get[T any](c *Codecs, pool func(*Codecs) *sync.Pool) (t T, ok bool) {
	if c == nil {
		return t, false
	}
	t, ok = pool(c).Get().(T)
	return t, ok
}

func put(c *Codecs, pool func(*Codecs) *sync.Pool, v any) {
	if c != nil {
		pool(c).Put(v)
	}
}

// Decompress returns what p holds, in a slice of the caller's own (p itself for CodecNone). Errors wrap ErrCorrupt, ErrInvalid for an
// unknown codec, or ErrTooLarge; memory stays within the limit whatever p claims.
func (c *Codecs) Decompress(p []byte, codec Codec) ([]byte, error) {
	var out []byte
	var err error
	switch codec {
	case CodecNone:
		return p, nil
	case CodecGzip:
		out, err = c.decompressGzip(p)
	case CodecSnappy:
		out, err = c.decompressSnappy(p)
	case CodecLZ4:
		out, err = c.decompressLZ4(p)
	case CodecZstd:
		out, err = c.decompressZstd(p)
	default:
		return nil, fmt.Errorf("unknown compression codec %d: %w", codec, ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codec, err)
	}
	return out, nil
}

func (c *Codecs) decompressGzip(p []byte) ([]byte, error) {
	pool := func(c *Codecs) *sync.Pool { return &c.gunzip }
	r, ok := get[*gzip.Reader](c, pool)
	if !ok {
		r = new(gzip.Reader)
	}
	if err := r.Reset(bytes.NewReader(p)); err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	out, err := c.readAll(r, len(p))
	put(c, pool, r)
	return out, err
}

func (c *Codecs) decompressLZ4(p []byte) ([]byte, error) {
	pool := func(c *Codecs) *sync.Pool { return &c.unlz4 }
	r, ok := get[*lz4.Reader](c, pool)
	if !ok {
		r = lz4.NewReader(nil)
	}
	r.Reset(bytes.NewReader(p))
	out, err := c.readAll(r, len(p))
	if err == nil {
		put(c, pool, r)
	}
	return out, err
}

// readAll reads r to its end into memory that grows with what really comes.
func (c *Codecs) readAll(r io.Reader, compressed int) ([]byte, error) {
	limit := c.outputMax()
	out := make([]byte, 0, min(limit, max(512, 3*compressed))+1)
	for {
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
		n, err := r.Read(out[len(out):min(cap(out), limit+1)])
		out = out[:len(out)+n]
		if len(out) > limit {
			return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
		}
	}
}

// snappyRatioMax bounds what snappy can make of its input: a copy of 64 bytes takes 3. A length that claims more is a lie, found
// before it is allocated.
const snappyRatioMax = 22

// xerialMagic begins the framing of Java's snappy streams: magic, two 4-byte versions, then blocks with a 4-byte length each.
const (
	xerialMagic       = "\x82SNAPPY\x00"
	xerialHeaderBytes = len(xerialMagic) + 8
)

func (c *Codecs) decompressSnappy(p []byte) ([]byte, error) {
	if !bytes.HasPrefix(p, []byte(xerialMagic)) {
		return appendSnappy(nil, p, c.outputMax())
	}
	if len(p) < xerialHeaderBytes {
		return nil, fmt.Errorf("xerial header of %d bytes: %w", len(p), ErrCorrupt)
	}
	var out []byte
	for p = p[xerialHeaderBytes:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, fmt.Errorf("xerial block length: %w", ErrCorrupt)
		}
		n := int64(binary.BigEndian.Uint32(p))
		if n > int64(len(p)-4) {
			return nil, fmt.Errorf("xerial block of %d bytes, %d left: %w", n, len(p)-4, ErrCorrupt)
		}
		var err error
		if out, err = appendSnappy(out, p[4:4+n], c.outputMax()); err != nil {
			return nil, err
		}
		p = p[4+n:]
	}
	return out, nil
}

func appendSnappy(out, block []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	if n > snappyRatioMax*len(block) {
		return nil, fmt.Errorf("%d bytes claim to hold %d: %w", len(block), n, ErrCorrupt)
	}
	if len(out)+n > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
	}
	at := len(out)
	if out == nil {
		out = make([]byte, 0, n)
	}
	out = append(out, make([]byte, n)...)
	if _, err := s2.Decode(out[at:], block); err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	return out, nil
}

// zstdBlockBytesMax is what one block of zstd, of at least 4 bytes, can become.
const zstdBlockBytesMax = 128 << 10

func (c *Codecs) decompressZstd(p []byte) ([]byte, error) {
	// The decoder allocates what the frame's header claims, so a claim that cannot be true is found first.
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	if h.HasFCS && h.FrameContentSize > uint64(c.outputMax()) {
		return nil, fmt.Errorf("more than %d bytes: %w", c.outputMax(), ErrTooLarge)
	}
	if h.HasFCS && h.FrameContentSize > uint64(len(p)/4+1)*zstdBlockBytesMax {
		return nil, fmt.Errorf("%d bytes claim to hold %d: %w", len(p), h.FrameContentSize, ErrCorrupt)
	}
	pool := func(c *Codecs) *sync.Pool { return &c.unzstd }
	d, ok := get[*zstd.Decoder](c, pool)
	if !ok {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(uint64(c.outputMax())), zstd.WithDecoderMaxWindow(1<<30))
		if err != nil {
			return nil, fmt.Errorf("new decoder: %w", err)
		}
	}
	out, err := d.DecodeAll(p, nil)
	if c == nil {
		d.Close()
	}
	put(c, pool, d)
	switch {
	case err == nil && len(out) <= c.outputMax():
		return out, nil
	case err == nil, err == zstd.ErrDecoderSizeExceeded:
		return nil, fmt.Errorf("more than %d bytes: %w", c.outputMax(), ErrTooLarge)
	}
	return nil, fmt.Errorf("%v: %w", err, ErrCorrupt)
}

// Compress appends p, compressed, to dst and returns the extended slice. The only error is an unknown codec's, which wraps
// ErrInvalid. Formats are those that every client reads: snappy as one raw block, lz4 as a frame of independent blocks.
func (c *Codecs) Compress(dst, p []byte, codec Codec) ([]byte, error) {
	switch codec {
	case CodecNone:
		return append(dst, p...), nil
	case CodecGzip:
		pool := func(c *Codecs) *sync.Pool { return &c.gzip }
		w, ok := get[*gzip.Writer](c, pool)
		if !ok {
			w = gzip.NewWriter(nil)
		}
		defer put(c, pool, w)
		out := bytes.NewBuffer(dst)
		w.Reset(out)
		return finish(w, out, p, codec)
	case CodecSnappy:
		return append(dst, s2.EncodeSnappy(nil, p)...), nil
	case CodecLZ4:
		pool := func(c *Codecs) *sync.Pool { return &c.lz4 }
		w, ok := get[*lz4.Writer](c, pool)
		if !ok {
			w = lz4.NewWriter(nil)
			if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ConcurrencyOption(1)); err != nil {
				return nil, fmt.Errorf("lz4: %w", err)
			}
		}
		defer put(c, pool, w)
		out := bytes.NewBuffer(dst)
		w.Reset(out)
		return finish(w, out, p, codec)
	case CodecZstd:
		pool := func(c *Codecs) *sync.Pool { return &c.zstd }
		e, ok := get[*zstd.Encoder](c, pool)
		if !ok {
			var err error
			e, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10), zstd.WithZeroFrames(true))
			if err != nil {
				return nil, fmt.Errorf("zstd: %w", err)
			}
		}
		defer put(c, pool, e)
		return e.EncodeAll(p, dst), nil
	}
	return nil, fmt.Errorf("unknown compression codec %d: %w", codec, ErrInvalid)
}

func finish(w io.WriteCloser, out *bytes.Buffer, p []byte, codec Codec) ([]byte, error) {
	if _, err := w.Write(p); err != nil {
		return nil, fmt.Errorf("%s: %w", codec, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("%s: %w", codec, err)
	}
	return out.Bytes(), nil
}
