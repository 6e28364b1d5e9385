package record_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/record"
)

var codecs = []record.Codec{record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd}

// row is a record as a test means it, with its absolute timestamp.
type row struct {
	ts         int64
	key, value []byte
	headers    []outrelay.Header
}

func (r row) String() string {
	return fmt.Sprintf("{%d %q(nil %v) %q(nil %v) %v}", r.ts, r.key, r.key == nil, r.value, r.value == nil, r.headers)
}

func build(o record.BuilderOptions, rows ...row) record.Batch {
	b := record.NewBuilder(o)
	for _, r := range rows {
		b.Add(r.ts, r.key, r.value, r.headers)
	}
	return b.Build()
}

func rowsOf(t interface{ Fatalf(string, ...any) }, b record.Batch) []row {
	var rows []row
	if err := record.Records(b, func(r record.Record) error {
		rows = append(rows, row{b.Timestamp(r), r.Key, r.Value, r.Headers})
		return nil
	}); err != nil {
		t.Fatalf("records: %v", err)
	}
	return rows
}

func plain(n int, codec record.Codec) record.Batch {
	var rows []row
	for i := range n {
		rows = append(rows, row{ts: 1000 + int64(i), key: fmt.Appendf(nil, "k%d", i), value: bytes.Repeat([]byte("v"), i)})
	}
	return build(record.NoProducer(codec), rows...)
}

// mutate returns a copy of b with a change, and its CRC computed again.
func mutate(b record.Batch, f func(b []byte)) []byte {
	c := append([]byte(nil), b...)
	f(c)
	binary.BigEndian.PutUint32(c[17:], record.Checksum(c))
	return c
}

func TestValidate(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	good := plain(3, record.CodecNone)
	producer := build(record.BuilderOptions{ProducerID: 7, Epoch: 1, Sequence: 5, Transactional: true}, row{ts: 1, key: []byte("k")})
	noKey := build(record.NoProducer(record.CodecZstd), row{key: []byte("k")}, row{value: []byte("v")})
	for _, tc := range []struct {
		name string
		b    []byte
		o    record.ValidateOptions
		want error
		text string
	}{
		{name: "good", b: good},
		{name: "good, producer", b: producer},
		{name: "good, compressed", b: plain(3, record.CodecLZ4), o: record.ValidateOptions{Deep: true, RequireKeys: true}},
		{name: "good, at the limit", b: good, o: record.ValidateOptions{BytesMax: len(good)}},
		{name: "above the limit", b: good, o: record.ValidateOptions{BytesMax: len(good) - 1}, want: record.ErrTooLarge, text: "at most"},
		{name: "empty", b: nil, want: record.ErrCorrupt, text: "0 bytes"},
		{name: "header cut", b: good[:60], want: record.ErrCorrupt},
		{name: "cut", b: good[:len(good)-1], want: record.ErrCorrupt},
		{name: "trailing byte", b: append(append([]byte{}, good...), 0), want: record.ErrInvalid, text: "exactly one"},
		{name: "magic 0", b: mutate(good, func(b []byte) { b[16] = 0 }), want: record.ErrUnsupportedMagic},
		{name: "magic 1", b: mutate(good, func(b []byte) { b[16] = 1 }), want: record.ErrUnsupportedMagic},
		{name: "magic 9", b: mutate(good, func(b []byte) { b[16] = 9 }), want: record.ErrUnsupportedMagic, text: "magic 9"},
		{name: "length negative", b: mutate(good, func(b []byte) { be.PutUint32(b[8:], 1<<31) }), want: record.ErrCorrupt, text: "length"},
		{name: "length huge", b: mutate(good, func(b []byte) { be.PutUint32(b[8:], 1<<31-1) }), want: record.ErrCorrupt},
		{name: "CRC", b: append(append([]byte{}, good[:len(good)-1]...), 0x55), want: record.ErrCorrupt, text: "CRC32C"},
		{name: "delta not count-1", b: mutate(good, func(b []byte) { be.PutUint32(b[23:], 5) }), want: record.ErrInvalid, text: "last offset delta 5"},
		{name: "delta negative", b: mutate(good, func(b []byte) { be.PutUint32(b[23:], 1<<31) }), want: record.ErrCorrupt},
		{name: "count too high", b: mutate(good, func(b []byte) { be.PutUint32(b[23:], 3); be.PutUint32(b[57:], 4) }), want: record.ErrCorrupt},
		{name: "count too low", b: mutate(good, func(b []byte) { be.PutUint32(b[23:], 1); be.PutUint32(b[57:], 2) }), want: record.ErrCorrupt, text: "after the last record"},
		{name: "count huge", b: mutate(good, func(b []byte) { be.PutUint32(b[23:], 1<<31-2); be.PutUint32(b[57:], 1<<31-1) }), want: record.ErrCorrupt},
		{name: "no records", b: record.EmptyHeader(good), want: record.ErrInvalid},
		{name: "codec 5", b: mutate(good, func(b []byte) { b[22] |= 5 }), want: record.ErrInvalid, text: "codec 5"},
		{name: "control", b: record.EndTxnMarker(1, 0, true, 0, 0), want: record.ErrInvalid, text: "control"},
		{name: "control allowed", b: record.EndTxnMarker(1, 0, true, 0, 0), o: record.ValidateOptions{AllowControl: true}},
		{name: "log append time", b: record.WithLogAppendTime(good, 5), want: record.ErrInvalid},
		{name: "delete horizon", b: mutate(good, func(b []byte) { b[22] |= 0x40 }), want: record.ErrInvalid},
		{name: "transactional without producer", b: mutate(good, func(b []byte) { b[22] |= 0x10 }), want: record.ErrInvalid},
		{name: "producer without epoch", b: mutate(producer, func(b []byte) { be.PutUint16(b[51:], 0xffff) }), want: record.ErrInvalid},
		{name: "producer without sequence", b: mutate(producer, func(b []byte) { be.PutUint32(b[53:], 0xffffffff) }), want: record.ErrInvalid},
		{name: "record length negative", b: mutate(good, func(b []byte) { b[61] = 1 }), want: record.ErrCorrupt, text: "length"},
		{name: "offset delta", b: mutate(good, func(b []byte) { b[64] = 8 }), want: record.ErrInvalid, text: "record 0: offset delta 4"},
		{name: "key length -2", b: mutate(good, func(b []byte) { b[65] = 3 }), want: record.ErrCorrupt},
		{name: "no key", b: noKey, o: record.ValidateOptions{RequireKeys: true}, want: record.ErrInvalid, text: "record 1: a compacted"},
		{name: "no key allowed", b: noKey, o: record.ValidateOptions{Deep: true}},
		{name: "compressed garbage passes when not deep", b: mutate(plain(3, record.CodecZstd), func(b []byte) { b[61]++ })},
		{name: "compressed garbage", b: mutate(plain(3, record.CodecZstd), func(b []byte) { b[61]++ }), o: record.ValidateOptions{Deep: true}, want: record.ErrCorrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := record.Validate(tc.b, tc.o)
			if !errors.Is(err, tc.want) || (err != nil && !strings.Contains(err.Error(), tc.text)) {
				t.Fatalf("got %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

func TestValidate_recordErrorNamesTheRecord(t *testing.T) {
	t.Parallel()
	b := build(record.NoProducer(record.CodecNone), row{key: []byte("k")}, row{})
	var re *record.RecordError
	if err := record.Validate(b, record.ValidateOptions{RequireKeys: true}); !errors.As(err, &re) || re.Index != 1 {
		t.Fatalf("got %v", err)
	}
}

func TestValidate_everyBitFlipIsFound(t *testing.T) {
	t.Parallel()
	good := plain(4, record.CodecSnappy)
	for bit := 16 * 8; bit < len(good)*8; bit++ { // what stands before is the broker's to stamp
		b := append([]byte(nil), good...)
		b[bit/8] ^= 1 << (bit % 8)
		if err := record.Validate(b, record.ValidateOptions{}); err == nil {
			t.Fatalf("bit %d flipped and not found", bit)
		}
	}
}

func TestValidate_allocatesNothing(t *testing.T) {
	b := plain(10, record.CodecNone)
	if n := testing.AllocsPerRun(100, func() {
		if err := record.Validate(b, record.ValidateOptions{RequireKeys: true}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestStamp16_keepsTheBatch(t *testing.T) {
	t.Parallel()
	b := plain(3, record.CodecNone)
	before := append([]byte(nil), b...)
	p := record.Stamp16(b, 1<<40, 9)
	stamped := append(append(record.Batch(nil), p[:]...), b[16:]...)
	if !bytes.Equal(b, before) {
		t.Fatal("the batch was changed")
	}
	if stamped.BaseOffset() != 1<<40 || stamped.LeaderEpoch() != 9 || stamped.LastOffset() != 1<<40+2 {
		t.Fatalf("offset %d, epoch %d, last %d", stamped.BaseOffset(), stamped.LeaderEpoch(), stamped.LastOffset())
	}
	if err := record.Validate(stamped, record.ValidateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	a, b := plain(1, record.CodecNone), plain(2, record.CodecGzip)
	both := append(append([]byte(nil), a...), b...)
	var got []int32
	for x, err := range record.Split(both) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, x.Count())
	}
	if len(got) != 2 || got[0] != 1 || got[1] != 2 {
		t.Fatalf("got %v", got)
	}
	n := 0
	for _, err := range record.Split(both[:len(both)-1]) {
		n++
		if (err != nil) != (n == 2) {
			t.Fatalf("batch %d: %v", n, err)
		}
	}
	if n != 2 {
		t.Fatalf("%d yields", n)
	}
}

func TestEndTxnMarker_isReadBack(t *testing.T) {
	t.Parallel()
	for _, commit := range []bool{true, false} {
		b := record.Batch(record.EndTxnMarker(1234, 5, commit, 42, 99))
		if !b.Control() || !b.Transactional() || b.ProducerID() != 1234 || b.ProducerEpoch() != 5 || b.MaxTimestamp() != 99 {
			t.Fatalf("header of %x", []byte(b))
		}
		got, epoch, err := record.ParseEndTxnMarker(b)
		if err != nil || got != commit || epoch != 42 {
			t.Fatalf("got %v, %d, %v", got, epoch, err)
		}
		// kmsg is the oracle for the key and value.
		if err := record.Records(b, func(r record.Record) error {
			var k kmsg.ControlRecordKey
			var v kmsg.EndTxnMarker
			if err := errors.Join(k.ReadFrom(r.Key), v.ReadFrom(r.Value)); err != nil {
				return err
			}
			if (k.Type == kmsg.ControlRecordKeyTypeCommit) != commit || v.CoordinatorEpoch != 42 {
				t.Fatalf("kmsg reads %v, %v", k, v)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := record.ParseEndTxnMarker(plain(1, record.CodecNone)); !errors.Is(err, record.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func genBytes(t *rapid.T, label string) []byte {
	if rapid.Bool().Draw(t, label+" nil") {
		return nil
	}
	b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, label)
	return bytes.Repeat(append(make([]byte, 0, 1), b...), rapid.IntRange(1, 20).Draw(t, label+" times"))
}

func genRows(t *rapid.T) []row {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) row {
		r := row{ts: rapid.Int64Range(-1, 1<<42).Draw(t, "ts"), key: genBytes(t, "key"), value: genBytes(t, "value")}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.headers = append(r.headers, outrelay.Header{Key: rapid.StringN(0, 5, 10).Draw(t, "header"), Value: genBytes(t, "header value")})
		}
		return r
	}), 1, 20).Draw(t, "rows")
}

// TestBuilder_agreesWithKmsg builds batches that kmsg and franz-go's decompressor read back, and the other way round.
func TestBuilder_agreesWithKmsg(t *testing.T) {
	t.Parallel()
	var shared record.Codecs
	dec := kgo.DefaultDecompressor()
	rapid.Check(t, func(t *rapid.T) {
		rows := genRows(t)
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		o := record.NoProducer(codec)
		o.Codecs = &shared
		b := build(o, rows...)
		if err := record.Validate(b, record.ValidateOptions{Deep: true, Codecs: &shared}); err != nil {
			t.Fatal(err)
		}
		var kb kmsg.RecordBatch
		if err := kb.ReadFrom(b); err != nil {
			t.Fatal(err)
		}
		if int(kb.NumRecords) != len(rows) || kb.ProducerID != -1 || kb.FirstSequence != -1 || kb.Attributes != int16(codec) {
			t.Fatalf("kmsg reads %+v", kb)
		}
		p, err := dec.Decompress(kb.Records, kgo.CompressionCodecType(codec))
		if err != nil {
			t.Fatal(err)
		}
		var theirs []row
		for i := range rows {
			n, used := binary.Varint(p)
			var kr kmsg.Record
			if err := kr.ReadFrom(p[:used+int(n)]); err != nil {
				t.Fatal(err)
			}
			p = p[used+int(n):]
			r := row{ts: kb.FirstTimestamp + kr.TimestampDelta64, key: kr.Key, value: kr.Value}
			for _, h := range kr.Headers {
				r.headers = append(r.headers, outrelay.Header{Key: h.Key, Value: h.Value})
			}
			if kr.OffsetDelta != int32(i) {
				t.Fatalf("offset delta %d of record %d", kr.OffsetDelta, i)
			}
			theirs = append(theirs, r)
		}
		if a, b := fmt.Sprint(theirs), fmt.Sprint(rows); a != b {
			t.Fatalf("kmsg reads %s, want %s", a, b)
		}
		if a, b := fmt.Sprint(rowsOf(t, b)), fmt.Sprint(rows); a != b {
			t.Fatalf("we read %s, want %s", a, b)
		}
	})
}

func TestCodecs_readFranzCompression(t *testing.T) {
	t.Parallel()
	kc := map[record.Codec]kgo.CompressionCodec{record.CodecGzip: kgo.GzipCompression(), record.CodecSnappy: kgo.SnappyCompression(),
		record.CodecLZ4: kgo.Lz4Compression(), record.CodecZstd: kgo.ZstdCompression()}
	var shared record.Codecs
	for codec, k := range kc {
		t.Run(codec.String(), func(t *testing.T) {
			t.Parallel()
			comp, err := kgo.DefaultCompressor(k)
			if err != nil {
				t.Fatal(err)
			}
			rapid.Check(t, func(t *rapid.T) {
				p := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "p"), rapid.IntRange(1, 3000).Draw(t, "times"))
				z, used := comp.Compress(new(bytes.Buffer), p)
				for _, c := range []*record.Codecs{nil, &shared} {
					got, err := c.Decompress(z, record.Codec(used))
					if err != nil || !bytes.Equal(got, p) {
						t.Fatalf("%d bytes of %d: %v", len(got), len(p), err)
					}
				}
			})
		})
	}
}

func TestCodecs_xerialFraming(t *testing.T) {
	t.Parallel()
	var c record.Codecs
	frame := append([]byte("\x82SNAPPY\x00"), 0, 0, 0, 1, 0, 0, 0, 1)
	for _, part := range []string{"hello ", strings.Repeat("world", 100)} {
		z, err := c.Compress(nil, []byte(part), record.CodecSnappy)
		if err != nil {
			t.Fatal(err)
		}
		frame = binary.BigEndian.AppendUint32(frame, uint32(len(z)))
		frame = append(frame, z...)
	}
	got, err := c.Decompress(frame, record.CodecSnappy)
	if err != nil || string(got) != "hello "+strings.Repeat("world", 100) {
		t.Fatalf("got %q, %v", got, err)
	}
	for n := 8; n < len(frame); n++ {
		if _, err := c.Decompress(frame[:n], record.CodecSnappy); err != nil && !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestCodecs_bombsMeetTheLimit(t *testing.T) {
	t.Parallel()
	var unlimited record.Codecs
	limited := record.Codecs{OutputMax: 1 << 20}
	for _, codec := range codecs[1:] {
		t.Run(codec.String(), func(t *testing.T) {
			t.Parallel()
			at, err := unlimited.Compress(nil, make([]byte, 1<<20), codec)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := limited.Decompress(at, codec); err != nil || len(out) != 1<<20 {
				t.Fatalf("at the limit: %d bytes, %v", len(out), err)
			}
			above, err := unlimited.Compress(nil, make([]byte, 1<<20+1), codec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := limited.Decompress(above, codec); !errors.Is(err, record.ErrTooLarge) {
				t.Fatalf("above the limit: %v", err)
			}
		})
	}
	t.Run("snappy claims 4 GiB", func(t *testing.T) {
		t.Parallel()
		if _, err := limited.Decompress([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}, record.CodecSnappy); !errors.Is(err, record.ErrCorrupt) {
			t.Fatal(err)
		}
	})
	t.Run("unknown codec", func(t *testing.T) {
		t.Parallel()
		if _, err := limited.Decompress(nil, 7); !errors.Is(err, record.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			t.Parallel()
			var c record.Codecs
			b := plain(5, codec)
			p := record.Stamp16(b, 100, 3)
			copy(b, p[:])
			got, err := c.Rewrite(b, []bool{false, true, false, true, false}, 5000)
			if err != nil {
				t.Fatal(err)
			}
			if err := record.CheckCRC(got); err != nil {
				t.Fatal(err)
			}
			if got.BaseOffset() != 100 || got.LastOffset() != 104 || got.Count() != 2 || got.LeaderEpoch() != 3 || got.Codec() != codec || got.MaxTimestamp() != 1003 {
				t.Fatalf("header of %x", []byte(got))
			}
			if ms, ok := got.DeleteHorizon(); !ok || ms != 5000 {
				t.Fatalf("horizon %d, %v", ms, ok)
			}
			var rows []string
			if err := record.Records(got, func(r record.Record) error {
				rows = append(rows, fmt.Sprintf("%d@%d:%s", got.Offset(r), got.Timestamp(r), r.Key))
				return nil
			}); err != nil || fmt.Sprint(rows) != "[101@1001:k1 103@1003:k3]" {
				t.Fatalf("got %v, %v", rows, err)
			}
			again, err := c.Rewrite(got, []bool{true, false}, -1)
			if err != nil || again.Count() != 1 || again.MaxTimestamp() != 1001 {
				t.Fatalf("again: %v", err)
			}
			if ms, ok := again.DeleteHorizon(); !ok || ms != 5000 {
				t.Fatalf("horizon after another rewrite %d, %v", ms, ok)
			}
		})
	}
}

func TestEmptyHeader_keepsOffsetsAndSequence(t *testing.T) {
	t.Parallel()
	b := build(record.BuilderOptions{ProducerID: 3, Epoch: 1, Sequence: 2147483646, Codec: record.CodecGzip}, row{ts: 9}, row{ts: 10}, row{ts: 8})
	e := record.EmptyHeader(b)
	if len(e) != record.HeaderBytes || e.LastSequence() != 0 || b.LastSequence() != 0 || e.LastOffsetDelta() != 2 || e.MaxTimestamp() != 10 || e.ProducerID() != 3 {
		t.Fatalf("%x", []byte(e))
	}
	if err := record.CheckCRC(e); err != nil {
		t.Fatal(err)
	}
	if rows := rowsOf(t, e); len(rows) != 0 {
		t.Fatalf("records %v", rows)
	}
}

func TestWithLogAppendTime(t *testing.T) {
	t.Parallel()
	b := plain(3, record.CodecSnappy)
	got := record.WithLogAppendTime(b, 77)
	if err := record.CheckCRC(got); err != nil {
		t.Fatal(err)
	}
	for _, r := range rowsOf(t, got) {
		if r.ts != 77 {
			t.Fatalf("timestamp %d", r.ts)
		}
	}
	if b.LogAppendTime() {
		t.Fatal("the batch was changed")
	}
}

// legacy encodes one message of v0 or v1 by kmsg, the oracle.
func legacy(magic int8, attributes int8, ts int64, key, value []byte) []byte {
	var b []byte
	if magic == 0 {
		m := kmsg.MessageV0{Magic: magic, Attributes: attributes, Key: key, Value: value}
		b = m.AppendTo(nil)
	} else {
		m := kmsg.MessageV1{Magic: magic, Attributes: attributes, Timestamp: ts, Key: key, Value: value}
		b = m.AppendTo(nil)
	}
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[12:], crc32.ChecksumIEEE(b[16:]))
	return b
}

func TestUpconvert(t *testing.T) {
	t.Parallel()
	var c record.Codecs
	for magic := int8(0); magic <= 1; magic++ {
		ts := func(v int64) int64 {
			if magic == 0 {
				return record.NoTimestamp
			}
			return v
		}
		set := append(legacy(magic, 0, 10, []byte("a"), nil), legacy(magic, 0, 20, nil, []byte("b"))...)
		want := fmt.Sprint([]row{{ts: ts(10), key: []byte("a")}, {ts: ts(20), value: []byte("b")}})
		for _, codec := range codecs {
			t.Run(fmt.Sprintf("v%d %s", magic, codec), func(t *testing.T) {
				t.Parallel()
				in := set
				if codec != record.CodecNone {
					z, err := c.Compress(nil, set, codec)
					if err != nil {
						t.Fatal(err)
					}
					if codec == record.CodecLZ4 && magic == 0 {
						z[6] ^= 0x5a // KAFKA-3160: clients of v0 wrote another checksum
					}
					in = legacy(magic, int8(codec), 30, nil, z)
				}
				out, err := record.Upconvert(in)
				if codec == record.CodecZstd {
					if !errors.Is(err, record.ErrInvalid) {
						t.Fatalf("zstd before v2: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := record.Validate(out, record.ValidateOptions{Deep: true}); err != nil {
					t.Fatal(err)
				}
				b := record.Batch(out)
				if got := fmt.Sprint(rowsOf(t, b)); got != want || b.Codec() != codec {
					t.Fatalf("got %s (%s), want %s", got, b.Codec(), want)
				}
			})
		}
	}
}

func TestUpconvert_refuses(t *testing.T) {
	t.Parallel()
	var c record.Codecs
	one := legacy(1, 0, 10, []byte("a"), []byte("b"))
	gz := func(b []byte) []byte {
		z, err := c.Compress(nil, b, record.CodecGzip)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	small := record.Codecs{OutputMax: 100}
	for _, tc := range []struct {
		name string
		b    []byte
		want error
	}{
		{"empty", nil, record.ErrInvalid},
		{"cut", one[:len(one)-1], record.ErrCorrupt},
		{"short", one[:20], record.ErrCorrupt},
		{"CRC", append(append([]byte{}, one[:len(one)-1]...), 'x'), record.ErrCorrupt},
		{"v2", plain(1, record.CodecNone), record.ErrUnsupportedMagic},
		{"nested", legacy(1, 1, 0, nil, gz(legacy(1, 1, 0, nil, gz(one)))), record.ErrInvalid},
		{"nothing compressed", legacy(1, 1, 0, nil, gz(nil)), record.ErrInvalid},
		{"compressed null", legacy(1, 1, 0, nil, nil), record.ErrCorrupt},
		{"log append time", legacy(1, 8, 0, nil, []byte("x")), record.ErrInvalid},
		{"bomb", legacy(1, 1, 0, nil, gz(make([]byte, 101))), record.ErrTooLarge},
		{"value length", func() []byte {
			b := append([]byte(nil), one...)
			b[len(b)-2] = 9
			binary.BigEndian.PutUint32(b[12:], crc32.ChecksumIEEE(b[16:]))
			return b
		}(), record.ErrCorrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, err := small.Upconvert(tc.b); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}
