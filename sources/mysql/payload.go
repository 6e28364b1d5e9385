package mysql

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

// The fields before a compressed transaction: each a number and a length, then as many bytes; MySQL source documentation, "Transaction_payload".
const (
	payloadEnd          = 0
	payloadSize         = 1
	payloadCompression  = 2
	payloadUncompressed = 3
)

// How it is compressed.
const (
	compressionZstd = 0
	compressionNone = 255
)

// windowMax bounds how far back a compressed transaction may refer to itself: what the decompressor keeps. The server's own is 8 MiB at most.
const windowMax = 64 << 20

// payload handles a transaction that was compressed as a whole (binlog_transaction_compression): its events are decompressed one by one, so that memory is
// bounded by the largest of them.
func (st *stream) payload(body []byte) error {
	size, kind, data, err := payloadFields(body)
	if err != nil {
		return err
	}
	var r io.Reader = bytes.NewReader(data)
	switch kind {
	case compressionZstd:
		if st.zstd == nil {
			if st.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax)); err != nil {
				return err
			}
		}
		if err := st.zstd.Reset(r); err != nil {
			return fmt.Errorf("compressed transaction: %w: %w", binlog.ErrMalformed, err)
		}
		r = st.zstd
	case compressionNone:
	default:
		return fmt.Errorf("transaction compressed by method %d: %w", kind, binlog.ErrMalformed)
	}
	return st.payloadEvents(io.LimitReader(r, int64(min(size, 1<<62))))
}

// payloadEvents handles the events that r holds, which have no checksums.
func (st *stream) payloadEvents(r io.Reader) error {
	for {
		var head [binlog.HeaderBytes]byte
		if n, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("compressed transaction: event cut off at %d: %w: %w", n, binlog.ErrMalformed, err)
		}
		size := binary.LittleEndian.Uint32(head[9:])
		switch {
		case size < binlog.HeaderBytes:
			return fmt.Errorf("compressed transaction: event of %d bytes: %w", size, binlog.ErrMalformed)
		case int64(size) > int64(st.src.o.MaxRowBytes):
			return fmt.Errorf("an event of the binlog exceeds %d bytes: %w", st.src.o.MaxRowBytes, binlog.ErrTooLarge)
		}
		buf := bytes.NewBuffer(append(st.inner[:0], head[:]...)) // it grows as bytes come, so that a length alone claims nothing
		if n, err := io.CopyN(buf, r, int64(size)-binlog.HeaderBytes); err != nil {
			return fmt.Errorf("compressed transaction: event of %d bytes cut off at %d: %w: %w", size, n, binlog.ErrMalformed, err)
		}
		event := buf.Bytes()
		if st.inner = event[:0]; cap(event) > frameKeepBytes {
			st.inner = nil
		}
		h, err := binlog.ParseHeader(event)
		if err != nil {
			return err
		}
		if err := st.handle(h, event); err != nil {
			return err
		}
	}
}

// payloadFields reads what stands before the compressed bytes.
func payloadFields(body []byte) (size, kind uint64, data []byte, err error) {
	bad := func() (uint64, uint64, []byte, error) {
		return 0, 0, nil, fmt.Errorf("compressed transaction: header cut off: %w", binlog.ErrMalformed)
	}
	kind = compressionNone
	for {
		field, n, err := binlog.PackedInt(body)
		if err != nil {
			return bad()
		}
		body = body[n:]
		if field == payloadEnd {
			return size, kind, body, nil
		}
		length, n, err := binlog.PackedInt(body)
		if err != nil || length > uint64(len(body)-n) {
			return bad()
		}
		value := body[n : n+int(length)]
		body = body[n+int(length):]
		v, _, err := binlog.PackedInt(value)
		if err != nil {
			return bad()
		}
		switch field {
		case payloadSize, payloadUncompressed: // the size of what is not compressed may be left out
			size = max(size, v)
		case payloadCompression:
			kind = v
		}
	}
}
