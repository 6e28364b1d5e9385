package mysql

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/outrelay/outrelay/sinks/handler"
)

// The digits of a number that are sent as a number. What has more is sent as text: a server keeps less of a literal.
const (
	digitsMax   = 65
	fractionMax = 30
)

// appendValue appends a value as a literal.
//
//	kind            literal
//	NULL            null
//	JSON number     the number, so that arithmetic is exact: 'x' + '1.10' is a sum of doubles
//	JSON boolean    true, false
//	JSON string     its characters
//	JSON, the rest  its text
//	bytes           text where they are UTF-8, else binary
//	time            '2026-01-02 03:04:05.678901', UTC as the session is
func appendValue(dst []byte, v handler.Value) ([]byte, error) {
	if v.Data == nil {
		return append(dst, "null"...), nil
	}
	switch v.Kind {
	case handler.JSON:
		return appendJSON(dst, v.Data)
	case handler.Number:
		return append(dst, v.Data...), nil
	case handler.Time:
		if t, err := time.Parse(time.RFC3339Nano, string(v.Data)); err == nil {
			return t.UTC().AppendFormat(dst, "'2006-01-02 15:04:05.000000'"), nil
		}
	}
	return appendText(dst, v.Data), nil
}

func appendJSON(dst, raw []byte) ([]byte, error) {
	switch c := raw[0]; {
	case c == 'n':
		return append(dst, "null"...), nil
	case c == 't' || c == 'f':
		return append(dst, raw...), nil
	case isPlainNumber(raw):
		if c == '-' {
			dst = append(dst, ' ') // behind another minus it would begin a comment
		}
		return append(dst, raw...), nil
	}
	text, err := handler.Text(raw)
	if err != nil {
		return dst, err
	}
	return appendText(dst, text), nil
}

// isPlainNumber reports whether raw is a number without an exponent of no more digits than the servers keep.
func isPlainNumber(raw []byte) bool {
	digits := bytes.TrimPrefix(raw, []byte("-"))
	whole, fraction, _ := bytes.Cut(digits, []byte("."))
	for _, part := range [][]byte{whole, fraction} {
		for _, c := range part {
			if c < '0' || c > '9' {
				return false
			}
		}
	}
	return len(whole) > 0 && len(whole)+len(fraction) <= digitsMax && len(fraction) <= fractionMax
}

// appendText appends bytes as a string constant that means the same in every sql_mode and in every character set of a session: quotes are
// doubled, and what holds a backslash goes as hexadecimal digits.
func appendText(dst, b []byte) []byte {
	switch {
	case !utf8.Valid(b):
		dst = append(dst, "_binary x'"...)
	case bytes.IndexByte(b, '\\') >= 0:
		dst = append(dst, "_utf8mb4 x'"...)
	default:
		dst = append(dst, '\'')
		for {
			i := bytes.IndexByte(b, '\'')
			if i < 0 {
				break
			}
			dst = append(append(dst, b[:i]...), "''"...)
			b = b[i+1:]
		}
		return append(append(dst, b...), '\'')
	}
	return append(hex.AppendEncode(dst, b), '\'')
}

// quote returns text as a string constant.
func quote(s string) string { return string(appendText(nil, []byte(s))) }

// identifier returns a quoted name.
func identifier(name string) string {
	return "`" + string(bytes.ReplaceAll([]byte(name), []byte("`"), []byte("``"))) + "`"
}

func num(n int64) string { return strconv.FormatInt(n, 10) }
