package binlog_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

// TestAppendJSON_malformed reads documents that are cut off, point outside of themselves, or are nested without end.
func TestAppendJSON_malformed(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string][]byte{
		"unknown type":             {0x33},
		"array cut off":            {0x02, 1, 0},
		"array larger than itself": {0x02, 1, 0, 200, 0},
		"entries beyond the size":  {0x02, 0xff, 0xff, 5, 0, 0, 0},
		"value outside":            {0x02, 1, 0, 7, 0, 0x0c, 200, 0},
		"key outside":              {0x00, 1, 0, 11, 0, 200, 0, 1, 0, 0x04, 0, 0},
		"literal that is none":     {0x04, 9},
		"string without its end":   {0x0c, 5, 'a'},
		"length without its end":   {0x0c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"opaque without its type":  {0x0f},
		"decimal cut off":          {0x0f, 246, 3, 10, 2, 0},
		"itself within":            append([]byte{0x02, 1, 0, 7, 0, 0x02, 0, 0}, make([]byte, 10)...),
	} {
		if out, err := binlog.AppendJSON(nil, doc); !errors.Is(err, binlog.ErrMalformed) {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
	if out, err := binlog.AppendJSON([]byte("x"), nil); err != nil || string(out) != "xnull" {
		t.Errorf("no document: %q %v", out, err)
	}
}

// FuzzAppendJSON reads any document: no panic, and no text without end.
func FuzzAppendJSON(f *testing.F) {
	f.Add([]byte{0x00, 1, 0, 12, 0, 11, 0, 1, 0, 0x04, 1, 0, 'a'})
	f.Add([]byte{0x02, 1, 0, 7, 0, 0x05, 1, 0})
	f.Add([]byte{0x0f, 246, 4, 3, 1, 0x80, 1})
	f.Fuzz(func(t *testing.T, doc []byte) {
		out, err := binlog.AppendJSON(nil, doc)
		if err == nil && len(out) == 0 {
			t.Error("nothing")
		}
		if err != nil && !errors.Is(err, binlog.ErrMalformed) {
			t.Error(err)
		}
	})
}

func TestParseHeader(t *testing.T) {
	t.Parallel()
	e := append(bytes.Repeat([]byte{1}, 9), 19, 0, 0, 0, 4, 0, 0, 0, 0x20, 0)
	h, err := binlog.ParseHeader(e)
	if err != nil || h.Type != 1 || h.Size != 19 || h.LogPos != 4 || h.Flags != 0x20 || h.ServerID != 0x01010101 {
		t.Errorf("%+v %v", h, err)
	}
	for _, bad := range [][]byte{nil, e[:18], append(e, 1)} {
		if _, err := binlog.ParseHeader(bad); !errors.Is(err, binlog.ErrMalformed) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}
