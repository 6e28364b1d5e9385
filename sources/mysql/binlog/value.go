package binlog

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
)

// size returns how many bytes at the beginning of b are the column's value.
func (c *Column) size(b []byte) (int, error) {
	n := 0
	switch c.typ {
	case mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_YEAR:
		n = 1
	case mysql.MYSQL_TYPE_SHORT:
		n = 2
	case mysql.MYSQL_TYPE_INT24, mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_TIME:
		n = 3
	case mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_FLOAT, mysql.MYSQL_TYPE_TIMESTAMP:
		n = 4
	case mysql.MYSQL_TYPE_LONGLONG, mysql.MYSQL_TYPE_DOUBLE, mysql.MYSQL_TYPE_DATETIME:
		n = 8
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		n = decimalSize(c.meta>>8, c.meta&0xff)
	case mysql.MYSQL_TYPE_BIT:
		n = ((c.meta>>8)*8 + c.meta&0xff + 7) / 8
	case mysql.MYSQL_TYPE_TIMESTAMP2:
		n = 4 + (c.meta+1)/2
	case mysql.MYSQL_TYPE_DATETIME2:
		n = 5 + (c.meta+1)/2
	case mysql.MYSQL_TYPE_TIME2:
		n = 3 + (c.meta+1)/2
	case mysql.MYSQL_TYPE_ENUM, mysql.MYSQL_TYPE_SET:
		n = c.meta
	default:
		prefix := c.prefix()
		if len(b) < prefix {
			return 0, fmt.Errorf("%d bytes where a length of %d bytes begins: %w", len(b), prefix, ErrMalformed)
		}
		length := littleEndian(b[:prefix])
		if length > uint64(len(b)-prefix) {
			return 0, fmt.Errorf("value of %d bytes, there are %d: %w", length, len(b)-prefix, ErrMalformed)
		}
		return prefix + int(length), nil
	}
	if n > len(b) {
		return 0, fmt.Errorf("value of %d bytes, there are %d: %w", n, len(b), ErrMalformed)
	}
	return n, nil
}

// prefix returns how many bytes the length before a string or blob has.
func (c *Column) prefix() int {
	switch c.typ {
	case mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING:
		if c.bytesMax > 255 {
			return 2
		}
		return 1
	}
	return c.meta
}

// append appends the text of the value that b is. It is what SELECT shows, but for two: a bit field is the number it holds, not its bytes; a float has all the
// digits that tell it from others, where the server shows six.
func (c *Column) append(dst, b []byte) ([]byte, error) {
	switch c.typ {
	case mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_SHORT, mysql.MYSQL_TYPE_INT24, mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_LONGLONG:
		v := littleEndian(b)
		if c.unsigned {
			return strconv.AppendUint(dst, v, 10), nil
		}
		shift := 64 - 8*len(b)
		return strconv.AppendInt(dst, int64(v<<shift)>>shift, 10), nil
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		return appendDecimal(dst, b, c.meta>>8, c.meta&0xff), nil
	case mysql.MYSQL_TYPE_FLOAT:
		return appendFloat(dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 32), nil
	case mysql.MYSQL_TYPE_DOUBLE:
		return appendFloat(dst, math.Float64frombits(binary.LittleEndian.Uint64(b)), 64), nil
	case mysql.MYSQL_TYPE_BIT:
		return strconv.AppendUint(dst, bigEndian(b), 10), nil
	case mysql.MYSQL_TYPE_YEAR:
		if b[0] == 0 {
			return append(dst, "0000"...), nil
		}
		return strconv.AppendInt(dst, int64(b[0])+1900, 10), nil
	case mysql.MYSQL_TYPE_ENUM:
		return c.appendEnum(dst, littleEndian(b))
	case mysql.MYSQL_TYPE_SET:
		return c.appendSet(dst, littleEndian(b))
	case mysql.MYSQL_TYPE_JSON:
		return AppendJSON(dst, b[c.meta:])
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_TIME, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_TIMESTAMP2, mysql.MYSQL_TYPE_DATETIME2,
		mysql.MYSQL_TYPE_TIME2:
		return c.appendTime(dst, b), nil
	}
	b = b[c.prefix():]
	switch {
	case c.format != nil:
		return c.format(dst, b), nil
	case c.decode != nil:
		text, err := c.decode.NewDecoder().Bytes(b)
		if err != nil {
			return dst, fmt.Errorf("text: %w: %w", ErrMalformed, err)
		}
		return append(dst, text...), nil
	}
	return append(dst, b...), nil
}

// appendEnum appends the name of a value; number 0 is what the server keeps for a value that was none, and shows as nothing.
func (c *Column) appendEnum(dst []byte, v uint64) ([]byte, error) {
	if v > uint64(len(c.values)) {
		return dst, fmt.Errorf("enum value %d of %d: %w", v, len(c.values), ErrMalformed)
	}
	if v == 0 {
		return dst, nil
	}
	return append(dst, c.values[v-1]...), nil
}

func (c *Column) appendSet(dst []byte, v uint64) ([]byte, error) {
	if len(c.values) < 64 && v>>len(c.values) != 0 {
		return dst, fmt.Errorf("set value %#x of %d members: %w", v, len(c.values), ErrMalformed)
	}
	first := true
	for i, name := range c.values {
		if v>>i&1 == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		dst, first = append(dst, name...), false
	}
	return dst, nil
}

// appendTime appends dates and times. A timestamp is shown in UTC.
func (c *Column) appendTime(dst, b []byte) []byte {
	switch c.typ {
	case mysql.MYSQL_TYPE_DATE:
		v := int(littleEndian(b))
		return appendDate(dst, v>>9, v>>5&15, v&31)
	case mysql.MYSQL_TYPE_TIME: // of tables older than MySQL 5.6
		v := int(int32(littleEndian(b)<<8)) >> 8
		if v < 0 {
			dst, v = append(dst, '-'), -v
		}
		return appendClock(dst, v/10000, v/100%100, v%100)
	case mysql.MYSQL_TYPE_DATETIME: // the same
		v := littleEndian(b)
		d, t := int(v/1_000_000), int(v%1_000_000)
		dst = append(appendDate(dst, d/10000, d/100%100, d%100), ' ')
		return appendClock(dst, t/10000, t/100%100, t%100)
	case mysql.MYSQL_TYPE_TIMESTAMP:
		return appendUnix(dst, int64(littleEndian(b)))
	case mysql.MYSQL_TYPE_TIMESTAMP2:
		return appendFraction(appendUnix(dst, int64(bigEndian(b[:4]))), bigEndian(b[4:]), c.meta)
	case mysql.MYSQL_TYPE_DATETIME2:
		v := int64(bigEndian(b[:5])) - 1<<39
		ym, day := int(v>>22), int(v>>17&31)
		dst = append(appendDate(dst, ym/13, ym%13, day), ' ')
		return appendFraction(appendClock(dst, int(v>>12&31), int(v>>6&63), int(v&63)), bigEndian(b[5:]), c.meta)
	}
	// TIME2: one number that grows with time, also below zero, whose lowest bytes are the fraction.
	low := 8 * (len(b) - 3)
	v := int64(bigEndian(b)) - 1<<(23+low)
	if v < 0 {
		dst, v = append(dst, '-'), -v
	}
	whole := v >> low
	return appendFraction(appendClock(dst, int(whole>>12&1023), int(whole>>6&63), int(whole&63)), uint64(v&(1<<low-1)), c.meta)
}

func appendDate(dst []byte, year, month, day int) []byte {
	dst = append(appendDigits(dst, uint64(year), 4), '-')
	dst = append(appendDigits(dst, uint64(month), 2), '-')
	return appendDigits(dst, uint64(day), 2)
}

func appendClock(dst []byte, hour, minute, second int) []byte {
	dst = append(appendDigits(dst, uint64(hour), 2), ':')
	dst = append(appendDigits(dst, uint64(minute), 2), ':')
	return appendDigits(dst, uint64(second), 2)
}

// appendUnix appends a time of UTC; 0 is the server's zero date.
func appendUnix(dst []byte, seconds int64) []byte {
	if seconds == 0 {
		return append(dst, "0000-00-00 00:00:00"...)
	}
	return time.Unix(seconds, 0).UTC().AppendFormat(dst, time.DateTime)
}

// appendFraction appends the fraction of a second: v counts hundredths, ten-thousandths or millionths, as digits has up to two, four or six.
func appendFraction(dst []byte, v uint64, digits int) []byte {
	if digits == 0 {
		return dst
	}
	if digits%2 != 0 {
		v /= 10
	}
	return appendDigits(append(dst, '.'), v, digits)
}

// appendDigits appends v with at least n digits.
func appendDigits(dst []byte, v uint64, n int) []byte {
	limit := uint64(1)
	for range n - 1 {
		limit *= 10
	}
	for v < limit && limit > 1 {
		dst = append(dst, '0')
		limit /= 10
	}
	return strconv.AppendUint(dst, v, 10)
}

// pad returns the format of BINARY(width): the binlog leaves zeros at the end away, which are part of the value.
func pad(width int) func(dst, b []byte) []byte {
	return func(dst, b []byte) []byte {
		dst = append(dst, b...)
		for range width - len(b) {
			dst = append(dst, 0)
		}
		return dst
	}
}

// nativeFormats are MariaDB's own types, which its binlog holds as BINARY.
var nativeFormats = map[string]func(dst, b []byte) []byte{"uuid": appendUUID, "inet6": appendInet(16), "inet4": appendInet(4)}

// uuidTurned is the order in which MariaDB keeps the bytes of a UUID whose beginning is not its time's most significant part (versions 1 to 5): node first,
// then clock sequence, then the time's parts, so that those of one node stand together.
var uuidTurned = [16]int{12, 13, 14, 15, 10, 11, 8, 9, 6, 7, 0, 1, 2, 3, 4, 5}

// appendUUID appends a UUID of MariaDB 10.11.5, 10.10.6 and newer; older servers turn all versions.
func appendUUID(dst, b []byte) []byte {
	var kept, u [16]byte
	copy(kept[:], b)
	u = kept
	if kept[6]&0x80 != 0 && kept[8] > 0 && kept[8] < 0x60 {
		for i, from := range uuidTurned {
			u[i] = kept[from]
		}
	}
	for i, x := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, hexDigits[x>>4], hexDigits[x&15])
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendInet returns the format of an address of width bytes.
func appendInet(width int) func(dst, b []byte) []byte {
	return func(dst, b []byte) []byte {
		a, _ := netip.AddrFromSlice(pad(width)(make([]byte, 0, width), b))
		return a.AppendTo(dst)
	}
}
