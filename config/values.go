package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Pos is where a value stands in the file, from 1; the zero Pos is nowhere.
type Pos struct{ Line, Column int }

// Duration is a time.Duration that must be written with a unit: 500ms, 30s, 5m, 12h, 7d.
type Duration time.Duration

var durationPart = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)`)

// ParseDuration reads a positive duration with units, as "1d12h".
func ParseDuration(s string) (Duration, error) {
	if s == "" {
		return 0, fmt.Errorf("empty duration")
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil && s != "0" {
		return 0, fmt.Errorf("duration %q has no unit; write %sms, %ss, %sm, %sh or %sd", s, s, s, s, s, s)
	}
	rest, total := s, 0.0
	for rest != "" {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			if strings.HasPrefix(s, "-") {
				return 0, fmt.Errorf("duration %q is negative", s)
			}
			return 0, fmt.Errorf("%q is no duration; write a number and a unit, as 500ms, 30s, 5m, 12h or 7d", s)
		}
		f, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration: %w", s, err)
		}
		total += f * float64(map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute,
			"h": time.Hour, "d": 24 * time.Hour}[m[2]])
		rest = rest[len(m[0]):]
	}
	if total > math.MaxInt64/2 {
		return 0, fmt.Errorf("duration %q is too long", s)
	}
	if total <= 0 {
		return 0, fmt.Errorf("duration %q must be more than zero", s)
	}
	return Duration(total), nil
}

// String writes whole days as days, the rest as Go does.
func (d Duration) String() string {
	if day := Duration(24 * time.Hour); d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalYAML writes the duration as people write it.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

func (d *Duration) decodeNode(dec *decoder, n *yaml.Node, path string) {
	v, err := ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		dec.problem(n, path, "bad-duration", cause(n, err, "a duration"), "write a number and a unit, as 500ms, 30s, 5m, 12h or 7d")
		return
	}
	*d = v
}

// Size is a number of bytes: 1048576, 512KB, 64MB, 1GB (powers of 1024).
type Size int64

var sizeRE = regexp.MustCompile(`^([0-9]+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?$`)

// ParseSize reads a positive size.
func ParseSize(s string) (Size, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no size", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	unit := map[byte]int64{'B': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
	mul := int64(1)
	if m[2] != "" {
		mul = unit[m[2][0]]
	}
	if n == 0 || n > math.MaxInt64/mul/2 {
		return 0, fmt.Errorf("size %q is out of range", s)
	}
	return Size(n * mul), nil
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "KB"}} {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalYAML writes the size as people write it.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

func (s *Size) decodeNode(dec *decoder, n *yaml.Node, path string) {
	v, err := ParseSize(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		dec.problem(n, path, "bad-size", cause(n, err, "a size"), "write a number and a unit, as 512KB, 64MB or 1GB")
		return
	}
	*s = v
}

// Statements are the SQL statements of a handler, in order.
type Statements []Statement

// Statement is one SQL statement and where it stands.
type Statement struct {
	SQL string
	Pos Pos
}

// MarshalYAML writes one statement as a string, several as a list.
func (s Statements) MarshalYAML() (any, error) {
	if len(s) == 1 {
		return s[0].SQL, nil
	}
	var list []string
	for _, st := range s {
		list = append(list, st.SQL)
	}
	return list, nil
}

func (s *Statements) decodeNode(dec *decoder, n *yaml.Node, path string) {
	list := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	for _, m := range list {
		if m.Kind != yaml.ScalarNode || strings.TrimSpace(m.Value) == "" {
			dec.problem(m, path, "wrong-type", "a handler must be an SQL statement or a list of them, found "+kindOf(m), "write `OrderPlaced: insert into …`")
			return
		}
		p := Pos{m.Line, m.Column}
		if m.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			p = Pos{m.Line + 1, 0} // the text of a block begins on the line after its indicator
		}
		*s = append(*s, Statement{SQL: m.Value, Pos: p})
	}
	if len(list) == 0 {
		dec.problem(n, path, "empty-handler", "the handler has no statement", "write an SQL statement, or remove the key")
	}
}

// Replacement is a text in which ${name} stands for a group of a regex, and not for a reference to a secret.
type Replacement string

func (r *Replacement) decodeNode(dec *decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.ScalarNode {
		dec.problem(n, path, "wrong-type", "expected text, found "+kindOf(n), "write a single value, as outbox.event.$1")
		return
	}
	*r = Replacement(n.Value)
}

// Start is where a new group begins.
type Start struct {
	Latest bool
	At     time.Time // zero: earliest, or latest
}

// String writes the start as the file has it.
func (s Start) String() string {
	switch {
	case s.Latest:
		return "latest"
	case !s.At.IsZero():
		return s.At.Format(time.RFC3339)
	}
	return "earliest"
}

// MarshalYAML writes the start as the file has it.
func (s Start) MarshalYAML() (any, error) { return s.String(), nil }

func (s *Start) decodeNode(dec *decoder, n *yaml.Node, path string) {
	switch n.Value {
	case "earliest":
		return
	case "latest":
		s.Latest = true
		return
	}
	t, err := time.Parse(time.RFC3339, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		dec.problem(n, path, "bad-start", fmt.Sprintf("%q is no place to start", n.Value), "write earliest, latest, or a time as 2026-11-01T00:00:00Z")
		return
	}
	s.At = t
}

func cause(n *yaml.Node, err error, want string) string {
	if n.Kind != yaml.ScalarNode {
		return "expected " + want + ", found " + kindOf(n)
	}
	return err.Error()
}
