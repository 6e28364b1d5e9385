package binlog

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/go-mysql-org/go-mysql/mysql"
)

// MySQL's binary JSON. A document is a type and a value; objects and arrays hold a count, their size, an entry for each key and value, then what
// the entries point to, by places that count from the count. MySQL source documentation, "json_binary.h".
const (
	jsonSmallObject = 0x00
	jsonLargeObject = 0x01
	jsonSmallArray  = 0x02
	jsonLargeArray  = 0x03
	jsonLiteral     = 0x04
	jsonInt16       = 0x05
	jsonUint16      = 0x06
	jsonInt32       = 0x07
	jsonUint32      = 0x08
	jsonInt64       = 0x09
	jsonUint64      = 0x0a
	jsonDouble      = 0x0b
	jsonString      = 0x0c
	jsonOpaque      = 0x0f
)

// jsonDepthMax is the server's own limit, and one more.
const jsonDepthMax = 101

// AppendJSON appends a document as the server writes it. No document at all, which an INSERT IGNORE can leave, is null.
func AppendJSON(dst, doc []byte) ([]byte, error) {
	if len(doc) == 0 {
		return append(dst, "null"...), nil
	}
	values := len(doc) // each has an entry of three bytes at least: more of them are the same ones again
	return appendJSON(dst, doc[0], doc[1:], 0, &values)
}

func badJSON(what string) error { return fmt.Errorf("JSON: %s: %w", what, ErrMalformed) }

// appendJSON appends one value. left is how many more a document of this size can have.
func appendJSON(dst []byte, typ byte, b []byte, depth int, left *int) ([]byte, error) {
	if *left--; depth > jsonDepthMax || *left < 0 {
		return dst, badJSON("nested too deeply")
	}
	size := map[byte]int{jsonLiteral: 1, jsonInt16: 2, jsonUint16: 2, jsonInt32: 4, jsonUint32: 4, jsonInt64: 8, jsonUint64: 8, jsonDouble: 8}[typ]
	if len(b) < size {
		return dst, badJSON("value cut off")
	}
	switch typ {
	case jsonSmallObject, jsonLargeObject, jsonSmallArray, jsonLargeArray:
		return appendContainer(dst, typ, b, depth, left)
	case jsonLiteral:
		return appendLiteral(dst, b[0])
	case jsonInt16:
		return strconv.AppendInt(dst, int64(int16(binary.LittleEndian.Uint16(b))), 10), nil
	case jsonInt32:
		return strconv.AppendInt(dst, int64(int32(binary.LittleEndian.Uint32(b))), 10), nil
	case jsonInt64:
		return strconv.AppendInt(dst, int64(binary.LittleEndian.Uint64(b)), 10), nil
	case jsonUint16, jsonUint32, jsonUint64:
		return strconv.AppendUint(dst, littleEndian(b[:size]), 10), nil
	case jsonDouble:
		return appendJSONDouble(dst, math.Float64frombits(binary.LittleEndian.Uint64(b))), nil
	case jsonString:
		s, err := jsonBytes(b)
		return appendQuoted(dst, s), err
	case jsonOpaque:
		if len(b) == 0 {
			return dst, badJSON("value cut off")
		}
		s, err := jsonBytes(b[1:])
		if err != nil {
			return dst, err
		}
		return appendOpaque(dst, b[0], s)
	}
	return dst, badJSON(fmt.Sprintf("type %d", typ))
}

func appendLiteral(dst []byte, v byte) ([]byte, error) {
	switch v {
	case 0:
		return append(dst, "null"...), nil
	case 1:
		return append(dst, "true"...), nil
	case 2:
		return append(dst, "false"...), nil
	}
	return dst, badJSON(fmt.Sprintf("literal %d", v))
}

// appendJSONDouble keeps a double apart from an integer, as the server does.
func appendJSONDouble(dst []byte, v float64) []byte {
	at := len(dst)
	dst = appendFloat(dst, v, 64)
	if bytes.IndexByte(dst[at:], '.') < 0 && bytes.IndexByte(dst[at:], 'e') < 0 {
		dst = append(dst, ".0"...)
	}
	return dst
}

// jsonBytes reads a length of up to five bytes, seven bits in each, and as many bytes.
func jsonBytes(b []byte) ([]byte, error) {
	length := uint64(0)
	for i := 0; i < len(b) && i < 5; i++ {
		length |= uint64(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			if length > uint64(len(b)-i-1) {
				return nil, badJSON("string cut off")
			}
			return b[i+1 : i+1+int(length)], nil
		}
	}
	return nil, badJSON("length of a string")
}

// jsonContainer is an object or an array.
type jsonContainer struct {
	b       []byte // from the count on, as long as it says
	width   int    // of a place or a count: 2 or 4 bytes
	count   int
	keys    int // where the entries of the keys begin
	entries int // where the entries of the values begin
}

func newContainer(typ byte, b []byte) (jsonContainer, error) {
	c := jsonContainer{width: 2}
	if typ == jsonLargeObject || typ == jsonLargeArray {
		c.width = 4
	}
	if len(b) < 2*c.width {
		return c, badJSON("container cut off")
	}
	count, size := littleEndian(b[:c.width]), littleEndian(b[c.width:2*c.width])
	c.keys = 2 * c.width
	need := uint64(c.keys)
	if typ == jsonSmallObject || typ == jsonLargeObject {
		need += count * uint64(c.width+2)
	}
	c.entries = int(need)
	need += count * uint64(c.width+1)
	if size > uint64(len(b)) || need > size {
		return c, badJSON("container cut off")
	}
	c.b, c.count = b[:size], int(count)
	return c, nil
}

// key returns the name of member i.
func (c *jsonContainer) key(i int) ([]byte, error) {
	at := c.keys + i*(c.width+2)
	from, length := littleEndian(c.b[at:at+c.width]), littleEndian(c.b[at+c.width:at+c.width+2])
	if from+length > uint64(len(c.b)) {
		return nil, badJSON("key cut off")
	}
	return c.b[from : from+length], nil
}

// value returns type and bytes of member i; small ones stand in the entry itself.
func (c *jsonContainer) value(i int) (typ byte, b []byte, err error) {
	at := c.entries + i*(c.width+1)
	typ, entry := c.b[at], c.b[at+1:at+1+c.width]
	switch typ {
	case jsonLiteral, jsonInt16, jsonUint16:
		return typ, entry, nil
	case jsonInt32, jsonUint32:
		if c.width == 4 {
			return typ, entry, nil
		}
	}
	from := littleEndian(entry)
	if from > uint64(len(c.b)) {
		return typ, nil, badJSON("value cut off")
	}
	return typ, c.b[from:], nil
}

func appendContainer(dst []byte, typ byte, b []byte, depth int, left *int) ([]byte, error) {
	c, err := newContainer(typ, b)
	if err != nil {
		return dst, err
	}
	isObject := typ == jsonSmallObject || typ == jsonLargeObject
	open, end := byte('['), byte(']')
	if isObject {
		open, end = '{', '}'
	}
	dst = append(dst, open)
	for i := range c.count {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		if isObject {
			k, err := c.key(i)
			if err != nil {
				return dst, err
			}
			dst = append(appendQuoted(dst, k), ": "...)
		}
		typ, v, err := c.value(i)
		if err != nil {
			return dst, err
		}
		if dst, err = appendJSON(dst, typ, v, depth+1, left); err != nil {
			return dst, err
		}
	}
	return append(dst, end), nil
}

// appendQuoted appends s as a JSON string. Bytes that need no escape are as they are.
func appendQuoted(dst, s []byte) []byte {
	dst = append(dst, '"')
	for _, x := range s {
		switch {
		case x == '"' || x == '\\':
			dst = append(dst, '\\', x)
		case x >= 0x20:
			dst = append(dst, x)
		default:
			dst = appendControl(dst, x)
		}
	}
	return append(dst, '"')
}

func appendControl(dst []byte, x byte) []byte {
	switch x {
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(append(dst, `\u00`...), hexDigits[x>>4], hexDigits[x&15])
}

// appendOpaque appends a value of SQL that is kept inside a document: a decimal as a number, times as strings, all else as its bytes in base64.
func appendOpaque(dst []byte, typ byte, b []byte) ([]byte, error) {
	switch typ {
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		if len(b) < 2 || int(b[1]) > int(b[0]) || len(b) != 2+decimalSize(int(b[0]), int(b[1])) {
			return dst, badJSON("decimal cut off")
		}
		return appendDecimal(dst, b[2:], int(b[0]), int(b[1])), nil
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_TIME:
		if len(b) != 8 {
			return dst, badJSON("time cut off")
		}
		dst = append(dst, '"')
		return append(appendPackedTime(dst, typ, int64(binary.LittleEndian.Uint64(b))), '"'), nil
	}
	dst = append(strconv.AppendUint(append(dst, `"base64:type`...), uint64(typ), 10), ':')
	return append(base64.StdEncoding.AppendEncode(dst, b), '"'), nil
}

// appendPackedTime appends a time of the form that the server packs into one number: its fields, and microseconds in the lowest 24 bits.
func appendPackedTime(dst []byte, typ byte, v int64) []byte {
	if v < 0 {
		dst, v = append(dst, '-'), -v
	}
	whole, micros := v>>24, uint64(v&(1<<24-1))
	clock := func(hour int64) []byte {
		return appendFraction(appendClock(dst, int(hour), int(whole>>6&63), int(whole&63)), micros, 6)
	}
	if typ == mysql.MYSQL_TYPE_TIME {
		return clock(whole >> 12 & 1023)
	}
	ym := int(whole >> 22)
	dst = appendDate(dst, ym/13, ym%13, int(whole>>17&31))
	if typ == mysql.MYSQL_TYPE_DATE {
		return dst
	}
	dst = append(dst, ' ')
	return clock(whole >> 12 & 31)
}
