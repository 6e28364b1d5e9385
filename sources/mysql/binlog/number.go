package binlog

import (
	"bytes"
	"strconv"
)

// digitsPerGroup is how many decimal digits the server keeps in four bytes; bytesOf says how many bytes fewer digits take.
const digitsPerGroup = 9

var bytesOf = [digitsPerGroup + 1]int{0, 1, 1, 2, 2, 3, 3, 4, 4, 4}

// decimalSize returns how many bytes a DECIMAL(precision, scale) has.
func decimalSize(precision, scale int) int {
	whole := max(precision-scale, 0)
	return whole/digitsPerGroup*4 + bytesOf[whole%digitsPerGroup] + scale/digitsPerGroup*4 + bytesOf[scale%digitsPerGroup]
}

// appendDecimal appends a DECIMAL, with as many digits behind the point as its column has. Its groups of digits are big-endian, all bits inverted where it
// is negative, and the first bit inverted so that values compare as bytes.
func appendDecimal(dst, b []byte, precision, scale int) []byte {
	if len(b) == 0 {
		return append(dst, '0')
	}
	negative := b[0]&0x80 == 0
	group := func(n int, first bool) uint64 {
		v := uint64(0)
		for i, x := range b[:n] {
			if first && i == 0 {
				x ^= 0x80
			}
			if negative {
				x = ^x
			}
			v = v<<8 | uint64(x)
		}
		b = b[n:]
		return v
	}
	if negative {
		dst = append(dst, '-')
	}
	whole, first, empty := precision-scale, true, true
	put := func(v uint64, digits int) {
		if !empty {
			dst = appendDigits(dst, v, digits)
		} else if v != 0 {
			dst, empty = strconv.AppendUint(dst, v, 10), false
		}
		first = false
	}
	if n := whole % digitsPerGroup; n > 0 {
		put(group(bytesOf[n], first), n)
	}
	for range whole / digitsPerGroup {
		put(group(4, first), digitsPerGroup)
	}
	if empty {
		dst = append(dst, '0')
	}
	if scale == 0 {
		return dst
	}
	dst = append(dst, '.')
	for range scale / digitsPerGroup {
		dst = appendDigits(dst, group(4, first), digitsPerGroup)
		first = false
	}
	if n := scale % digitsPerGroup; n > 0 {
		dst = appendDigits(dst, group(bytesOf[n], first), n)
	}
	return dst
}

// The server writes a float without an exponent while the point stands within or near its digits.
const (
	pointMin = -14
	pointMax = 15
)

// appendFloat appends the shortest text that reads as v again, in the server's layout: 0.001, 1e16, 1.5e-20.
func appendFloat(dst []byte, v float64, bitSize int) []byte {
	var buf [32]byte
	text := strconv.AppendFloat(buf[:0], v, 'e', -1, bitSize)
	mantissa, exponent, ok := bytes.Cut(text, []byte("e"))
	if !ok {
		return append(dst, text...) // no number: the server stores none
	}
	exp, _ := strconv.Atoi(string(exponent))
	if point := exp + 1; point >= pointMin && point <= pointMax {
		return strconv.AppendFloat(dst, v, 'f', -1, bitSize)
	}
	return strconv.AppendInt(append(append(dst, mantissa...), 'e'), int64(exp), 10)
}
