package broker

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// A schema is the shape of a request, as text, so that every frame is checked before it is decoded: lengths within the frame, arrays
// no longer than the frame can hold (the decoder allocates them at once), tagged fields in order and once, nothing left over.
// The decoder itself trusts what it reads too far for bytes that strangers send.
//
// Letters: b int8 or bool, h int16, i int32, l int64, u uuid, s string, n nullable string, B bytes, and [ … ] for an array of structs
// or, with a single letter, of that primitive written [=x ]; ( … ) is a struct that may be null. A suffix :a-b, :a+ or :a says the versions that have the field.
// The number is the first flexible version, with -1 for none.
var schemaTexts = map[int16]struct {
	flexible int16
	text     string
}{
	1:  {12, "i:0-14 i i i:3+ b:4+ i:7+ i:7+ [ s:0-12 u:13+ [ i i:9+ l i:12+ l:5+ i ] ] [ s:0-12 u:13+ [=i ] ]:7+ s:11+"},
	2:  {6, "i b:2+ [ s [ i i:4+ l i:0 ] ] i:10+"},
	3:  {9, "[ u:10+ n ] b:4+ b:8-10 b:8+"},
	8:  {8, "s i:1+ s:1+ n:7+ l:2-4 [ s:0-9 u:10+ [ i l l:1 i:6+ n ] ]"},
	9:  {6, "s:0-7 [ s [=i ] ]:0-7 [ s n:9+ i:9+ [ s:0-9 u:10+ [=i ] ] ]:8+ b:7+"},
	10: {3, "s:0-3 b:1+ [=s ]:4+"},
	11: {6, "s i i:1+ s n:5+ s [ s B ] n:8+"},
	12: {4, "s i s n:3+"},
	13: {4, "s s:0-2 [ s n n:5+ ]:3+"},
	14: {4, "s i s n:3+ n:5+ n:5+ [ s B ]"},
	15: {5, "[=s ] b:3+"},
	16: {3, "[=s ]:4+ [=s ]:5+"},
	17: {-1, "s"},
	18: {3, "s:3+ s:3+"},
	19: {5, "[ s i h [ i [=i ] ] [ s n ] ] i b:1+"},
	20: {4, "[=s ]:0-5 [ n u ]:6+ i"},
	21: {2, "[ s [ i l ] ] i"},
	22: {2, "n i l:3+ h:3+"},
	23: {4, "i:3+ [ s [ i i:2+ i ] ]"},
	24: {3, "s:0-3 l:0-3 h:0-3 [ s [=i ] ]:0-3 [ s l h b [ s [=i ] ] ]:4+"},
	25: {3, "s l h s"},
	26: {3, "s l h b"},
	27: {1, "[ l h b [ s [=i ] ] i b:2+ ]"},
	28: {3, "s s l h i:3+ s:3+ n:3+ [ s [ i l i:2+ n ] ]"},
	29: {2, "b n b:1+ n n b b"},
	30: {2, "[ b s b:1+ s s b b ]"},
	31: {2, "[ b n b:1+ n n b b ]"},
	32: {4, "[ b s [=s ] ] b:1+ b:3+"},
	33: {2, "[ b s [ s n ] ] b"},
	34: {2, "[ s [ s [=i ] ] ]"},
	35: {2, "[ s [=i ] ]"},
	36: {2, "B"},
	37: {2, "[ s i [ [=i ] ] ] i b:0+"},
	42: {2, "[=s ]"},
	43: {2, "b:1+ [ s [=i ] ] i"},
	44: {1, "[ b s [ s b n ] ] b"},
	45: {0, "i b:1+ [ s [ i [=i ] ] ]"},
	46: {0, "i [ s [=i ] ]"},
	47: {-1, "s [ s [=i ] ]"},
	55: {0, "[ s [ i ] ]"},
	57: {0, "i [ s h b ] b:1+"},
	48: {1, "[ s b n ] b"},
	49: {1, "[ [ s n ] [ s l b ] ] b"},
	50: {0, "[ s ]"},
	51: {0, "[ s b ] [ s b i B B ]"},
	60: {0, "b b:1+ b:2+"},
	61: {0, "[ s [=i ] ]"},
	65: {0, "[=s ]"},
	66: {0, "[=s ] [=l ] l:1+ n:2+"},
	68: {0, "s s i n n i [=s ] n:1+ n [ u [=i ] ]"},
	69: {0, "[=s ] b"},
	74: {0, "[=b ]:1+"},
	75: {0, "[ s ] i ( s i )"},
}

// shape is a parsed schema.
type shape struct {
	flexible int16
	fields   []shapeField
}

type shapeField struct {
	kind     byte // a letter, '[' for an array of structs, '=' for an array of primitives of kind elem, '(' for a nullable struct
	elem     byte
	from, to int16
	fields   []shapeField
}

// schemas parses the texts once, when the first request needs them.
var schemas = sync.OnceValue(func() map[int16]*shape {
	m := make(map[int16]*shape, len(schemaTexts))
	for key, t := range schemaTexts {
		fields, rest := parseShape(strings.Fields(t.text))
		if len(rest) != 0 {
			panic(fmt.Sprintf("BUG: schema of api %d: unexpected %q", key, rest))
		}
		m[key] = &shape{flexible: t.flexible, fields: fields}
	}
	return m
})

func parseShape(tokens []string) (fields []shapeField, rest []string) {
	for len(tokens) > 0 {
		tok := tokens[0]
		tokens = tokens[1:]
		if tok[0] == ']' || tok[0] == ')' {
			return fields, append([]string{tok}, tokens...)
		}
		f := shapeField{kind: tok[0]}
		suffix := tok[1:]
		switch {
		case tok == "[", tok == "(":
			f.fields, tokens = parseShape(tokens)
			suffix, tokens = tokens[0][1:], tokens[1:]
		case strings.HasPrefix(tok, "[="):
			f.kind, f.elem = '=', tok[2]
			suffix, tokens = tokens[0][1:], tokens[1:]
		}
		f.from, f.to = parseVersions(suffix)
		fields = append(fields, f)
	}
	return fields, nil
}

func parseVersions(s string) (from, to int16) {
	const top = 1 << 14
	s = strings.TrimPrefix(s, ":")
	if s == "" {
		return 0, top
	}
	a, b, ranged := strings.Cut(s, "-")
	open := strings.HasSuffix(a, "+")
	n, err := strconv.Atoi(strings.TrimSuffix(a, "+"))
	if err != nil {
		panic("BUG: schema versions " + s)
	}
	from, to = int16(n), int16(n)
	if open {
		to = top
	}
	if ranged {
		m, err := strconv.Atoi(b)
		if err != nil {
			panic("BUG: schema versions " + s)
		}
		to = int16(m)
	}
	return from, to
}

// checkSchema returns errFrame unless body has the shape of a request of this key and version, to its last byte.
// A key without a schema (Produce, whose own decoder checks) passes.
func checkSchema(key, version int16, body []byte) error {
	sh := schemas()[key]
	if sh == nil {
		return nil
	}
	flexible := sh.flexible >= 0 && version >= sh.flexible
	r := reader{b: body}
	checkFields(&r, sh.fields, version, flexible)
	if key == 3 && flexible && !r.bad && len(r.b) == librdkafkaRest && body[0] == 0 {
		r.b = nil
	}
	return r.end()
}

// librdkafkaRest is how many bytes too long librdkafka 2.16 makes a flexible Metadata request for all topics: it encodes the null list in one byte and keeps the
// four that it had reserved. Kafka reads no further than the request goes, so nobody has noticed; every confluent-kafka that lists topics needs it.
const librdkafkaRest = 3

func checkFields(r *reader, fields []shapeField, version int16, flexible bool) {
	for i := range fields {
		f := &fields[i]
		if r.bad {
			return
		}
		if version < f.from || version > f.to {
			continue
		}
		switch f.kind {
		case '[':
			for range r.arrayLen(flexible, max(1, minBytes(f.fields, version, flexible))) {
				if r.bad {
					return
				}
				checkFields(r, f.fields, version, flexible)
			}
		case '(':
			if r.int8() >= 0 {
				checkFields(r, f.fields, version, flexible)
			}
		case '=':
			for range r.arrayLen(flexible, minKind(f.elem, flexible)) {
				if r.bad {
					return
				}
				checkKind(r, f.elem, flexible)
			}
		default:
			checkKind(r, f.kind, flexible)
		}
	}
	r.tags(flexible, nil)
}

func checkKind(r *reader, kind byte, flexible bool) {
	switch kind {
	case 's', 'n':
		r.stringBytes(flexible)
	case 'B':
		r.bytes(flexible)
	default:
		r.span(minKind(kind, flexible))
	}
}

// minKind returns the fewest bytes that a primitive takes.
func minKind(kind byte, flexible bool) int {
	switch kind {
	case 'b', '(':
		return 1
	case 'h':
		return 2
	case 'i':
		return 4
	case 'l':
		return 8
	case 'u':
		return 16
	case 's', 'n':
		if flexible {
			return 1
		}
		return 2
	}
	if flexible { // bytes and arrays
		return 1
	}
	return 4
}

// minBytes returns the fewest bytes that a struct of these fields takes.
func minBytes(fields []shapeField, version int16, flexible bool) int {
	n := 0
	for i := range fields {
		if f := &fields[i]; version >= f.from && version <= f.to {
			n += minKind(f.kind, flexible)
		}
	}
	if flexible {
		n++
	}
	return n
}
