package record_test

import (
	"testing"

	"github.com/outrelay/outrelay/broker/record"
)

func seeds(f *testing.F) {
	for _, c := range codecs {
		b := plain(3, c)
		f.Add([]byte(b))
		f.Add([]byte(b[:len(b)-3]))
	}
	f.Add(record.EndTxnMarker(5, 1, false, 2, 3))
	f.Add([]byte(record.EmptyHeader(plain(2, record.CodecNone))))
	f.Add(legacy(0, 0, 0, []byte("k"), []byte("v")))
	f.Add(legacy(1, 0, 5, nil, nil))
}

// FuzzValidate: whatever a client sends, Validate neither panics nor accepts what Records or Split cannot read.
func FuzzValidate(f *testing.F) {
	seeds(f)
	c := &record.Codecs{OutputMax: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range []record.ValidateOptions{{}, {Deep: true, Codecs: c}, {RequireKeys: true, AllowControl: true, BytesMax: 1000, Codecs: c}} {
			if err := record.Validate(b, o); err != nil || !o.Deep {
				continue
			}
			n := int32(0)
			if err := c.Records(b, func(r record.Record) error { n++; return nil }); err != nil || n != record.Batch(b).Count() {
				t.Fatalf("valid, but %d records of %d: %v", n, record.Batch(b).Count(), err)
			}
			for _, err := range record.Split(b) {
				if err != nil {
					t.Fatalf("valid, but Split: %v", err)
				}
			}
		}
	})
}

// FuzzRecords feeds records, compressed and not, past the checks of the header; what can be walked can be rewritten.
func FuzzRecords(f *testing.F) {
	for _, c := range codecs {
		f.Add([]byte(plain(3, c)[record.HeaderBytes:]), int32(3), uint8(c))
	}
	c := &record.Codecs{OutputMax: 1 << 20}
	head := plain(1, record.CodecNone)[:record.HeaderBytes]
	f.Fuzz(func(t *testing.T, payload []byte, count int32, codec uint8) {
		if count < 0 {
			return
		}
		b := mutate(append(append(record.Batch(nil), head...), payload...), func(b []byte) {
			b[22] = codec & 7
			for i := range 4 {
				b[57+i] = byte(count >> (24 - 8*i))
			}
		})
		var keep []bool
		if err := c.Records(b, func(r record.Record) error { keep = append(keep, true); return nil }); err != nil {
			return
		}
		if len(keep) != int(count) {
			t.Fatalf("%d records of %d", len(keep), count)
		}
		if count == 0 {
			return
		}
		out, err := c.Rewrite(b, keep, 7)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := rowsOf(t, out), rowsOf(t, b); len(got) != len(want) {
			t.Fatalf("rewritten to %d records of %d", len(got), len(want))
		}
	})
}

// FuzzUpconvert: what comes out is a valid batch.
func FuzzUpconvert(f *testing.F) {
	seeds(f)
	var z record.Codecs
	for _, c := range codecs[:4] {
		p, err := z.Compress(nil, legacy(1, 0, 1, []byte("k"), []byte("v")), c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(legacy(1, int8(c), 1, nil, p))
		f.Add(legacy(0, int8(c), 1, nil, p))
	}
	c := &record.Codecs{OutputMax: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := c.Upconvert(b)
		if err != nil {
			return
		}
		if err := record.Validate(out, record.ValidateOptions{Deep: true, Codecs: c}); err != nil {
			t.Fatalf("upconverted to %v", err)
		}
	})
}
