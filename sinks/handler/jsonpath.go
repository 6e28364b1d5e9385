package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// fields is a tree of the payload fields that a handler asks for, so that a payload is walked once whatever their number.
type fields struct {
	children map[string]*fields
	slots    []int // where the value of this very field goes
}

func (f *fields) add(path []string, slot int) {
	for _, name := range path {
		if f.children == nil {
			f.children = map[string]*fields{}
		}
		c := f.children[name]
		if c == nil {
			c = &fields{}
			f.children[name] = c
		}
		f = c
	}
	f.slots = append(f.slots, slot)
}

// extract puts the raw JSON of each asked field of doc into out, leaving nil what is missing. Of a name that repeats the last
// counts, as in jsonb. The values are slices of doc.
func (f *fields) extract(doc []byte, out [][]byte) error {
	if !json.Valid(doc) {
		return notJSON(doc)
	}
	w := walker{doc: doc, out: out}
	w.value(f)
	return nil
}

func notJSON(doc []byte) error {
	if len(doc) == 0 {
		return errors.New("the payload is empty, but the handler asks for a field of it")
	}
	var v any
	err := json.Unmarshal(doc, &v)
	return fmt.Errorf("the payload is not JSON, but the handler asks for a field of it: %w", err)
}

// walker walks a document that is known to be valid JSON no deeper than encoding/json allows (10,000 levels).
type walker struct {
	doc []byte
	at  int
	out [][]byte
}

func (w *walker) blanks() {
	for w.at < len(w.doc) {
		switch w.doc[w.at] {
		case ' ', '\t', '\n', '\r':
			w.at++
		default:
			return
		}
	}
}

// value passes one value; want is nil when nothing of it was asked for.
func (w *walker) value(want *fields) {
	w.blanks()
	from := w.at
	switch w.doc[w.at] {
	case '{':
		w.object(want)
	case '[':
		w.array(want)
	case '"':
		w.str()
	default:
		for w.at < len(w.doc) {
			if c := w.doc[w.at]; c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r' {
				break
			}
			w.at++
		}
	}
	if want != nil {
		for _, slot := range want.slots {
			w.out[slot] = w.doc[from:w.at]
		}
	}
}

func (w *walker) object(want *fields) {
	w.at++
	for {
		w.blanks()
		if w.doc[w.at] == '}' {
			w.at++
			return
		}
		if w.doc[w.at] == ',' {
			w.at++
			w.blanks()
		}
		from := w.at
		escaped := w.str()
		var child *fields
		if want != nil && want.children != nil {
			child = want.child(w.doc[from:w.at], escaped)
		}
		w.blanks()
		w.at++ // the colon
		if child != nil {
			child.clear(w.out) // of a repeated name the last one counts, as a whole
		}
		w.value(child)
	}
}

// child finds the field a quoted name stands for.
func (f *fields) child(quoted []byte, escaped bool) *fields {
	if !escaped {
		return f.children[string(quoted[1:len(quoted)-1])]
	}
	name, err := unquote(quoted)
	if err != nil {
		return nil
	}
	return f.children[string(name)]
}

func (f *fields) clear(out [][]byte) {
	for _, slot := range f.slots {
		out[slot] = nil
	}
	for _, c := range f.children {
		c.clear(out)
	}
}

func (w *walker) array(want *fields) {
	w.at++
	for i := 0; ; i++ {
		w.blanks()
		if w.doc[w.at] == ']' {
			w.at++
			return
		}
		if w.doc[w.at] == ',' {
			w.at++
		}
		var child *fields
		if want != nil && want.children != nil {
			child = want.children[strconv.Itoa(i)]
		}
		w.value(child)
	}
}

// str passes a string and reports whether it holds escapes.
func (w *walker) str() (escaped bool) {
	for w.at++; ; w.at++ {
		switch w.doc[w.at] {
		case '\\':
			escaped = true
			w.at++
		case '"':
			w.at++
			return escaped
		}
	}
}

// Text returns what a JSON value is as a parameter: a string's characters, a number's own digits, true, false, and the raw
// text of an object or array; nil for null. It may share memory with raw.
func Text(raw []byte) ([]byte, error) {
	if len(raw) == 0 || raw[0] == 'n' {
		return nil, nil
	}
	if raw[0] != '"' {
		return raw, nil
	}
	for _, c := range raw {
		if c == '\\' {
			return unquote(raw)
		}
	}
	return raw[1 : len(raw)-1], nil
}

// unquote undoes the escapes of a valid JSON string. A lone surrogate is an error: no text can hold it, and to put another character
// in its place would change the event.
func unquote(raw []byte) ([]byte, error) {
	s := raw[1 : len(raw)-1]
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				var low rune
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					low = hex4(s[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return nil, errors.New("a string holds half of a surrogate pair, which is no text")
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // " \ /
			out = append(out, s[i])
		}
	}
	return out, nil
}

func hex4(s []byte) rune {
	var r rune
	for _, c := range s[:4] {
		r <<= 4
		switch {
		case c >= 'a':
			r |= rune(c - 'a' + 10)
		case c >= 'A':
			r |= rune(c - 'A' + 10)
		default:
			r |= rune(c - '0')
		}
	}
	return r
}
