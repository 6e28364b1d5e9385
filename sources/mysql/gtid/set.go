// Package gtid is the arithmetic of global transaction ids: MySQL's sets, with tags, and MariaDB's positions. It knows no server and no
// network. Nothing here may be called concurrently with a change.
package gtid

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrMalformed: the text is no set, no id, or no position.
var ErrMalformed = errors.New("malformed GTID")

// UUID names the server that a transaction was first committed on.
type UUID [16]byte

// Append appends the text form, lower case with hyphens.
func (u UUID) Append(b []byte) []byte {
	for i, x := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[x>>4], hexDigits[x&15])
	}
	return b
}

const hexDigits = "0123456789abcdef"

// ParseUUID reads the text form, with or without hyphens, as the server does.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("%.40q is no UUID: %w", s, ErrMalformed)
	}
	copy(u[:], b)
	return u, nil
}

// ID is one transaction of MySQL: uuid:n, or uuid:tag:n (MySQL 8.3 and newer).
type ID struct {
	Server UUID
	Tag    string // "" is none
	N      uint64 // from 1
}

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id.N == 0 }

// Append appends the text form.
func (id ID) Append(b []byte) []byte {
	b = id.Server.Append(b)
	if id.Tag != "" {
		b = append(append(b, ':'), id.Tag...)
	}
	return strconv.AppendUint(append(b, ':'), id.N, 10)
}

func (id ID) String() string { return string(id.Append(nil)) }

// ParseID reads the text form of one id.
func ParseID(s string) (ID, error) {
	set, err := ParseSet(s)
	if err != nil {
		return ID{}, err
	}
	if len(set.lists) != 1 || len(set.lists[0].runs) != 1 || set.lists[0].runs[0].limit != set.lists[0].runs[0].from+1 {
		return ID{}, fmt.Errorf("%.80q is not one GTID: %w", s, ErrMalformed)
	}
	l := set.lists[0]
	return ID{Server: l.server, Tag: l.tag, N: l.runs[0].from}, nil
}

// Set is a set of ids. The zero value is empty.
type Set struct {
	lists []list // ordered by server, then tag
}

// list holds the transactions of one server and tag.
type list struct {
	server UUID
	tag    string
	runs   []run // ascending, neither overlapping nor touching
}

// run is [from, limit).
type run struct{ from, limit uint64 }

// idMax bounds what a server counts up to: 2^63 - 2.
const idMax = 1<<63 - 2

// ParseSet reads the text form: uuid:1-5:7:tag:1-3,uuid:… with white space allowed around the parts.
func ParseSet(s string) (*Set, error) {
	set := &Set{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		fields := strings.Split(part, ":")
		server, err := ParseUUID(strings.TrimSpace(fields[0]))
		if err != nil {
			return nil, err
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("%.80q has no interval: %w", part, ErrMalformed)
		}
		tag, open := "", false
		for _, f := range fields[1:] {
			f = strings.TrimSpace(f)
			if t := strings.ToLower(f); isTag(t) {
				if open {
					return nil, fmt.Errorf("tag %q without an interval: %w", tag, ErrMalformed)
				}
				tag, open = t, true
				continue
			}
			r, err := parseRun(f)
			if err != nil {
				return nil, err
			}
			set.at(server, tag).add(r)
			open = false
		}
		if open {
			return nil, fmt.Errorf("tag %q without an interval: %w", tag, ErrMalformed)
		}
	}
	return set, nil
}

func isTag(s string) bool {
	if s == "" || len(s) > 32 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func parseRun(s string) (run, error) {
	first, last, isRange := strings.Cut(s, "-")
	from, err := strconv.ParseUint(first, 10, 64)
	limit := from
	if err == nil && isRange {
		limit, err = strconv.ParseUint(last, 10, 64)
	}
	if err != nil || from == 0 || limit < from || limit > idMax {
		return run{}, fmt.Errorf("%.60q is no interval: %w", s, ErrMalformed)
	}
	return run{from, limit + 1}, nil
}

// at returns the list of a server and tag, which it makes where it is missing.
func (s *Set) at(server UUID, tag string) *list {
	i, ok := s.find(server, tag)
	if !ok {
		s.lists = slices.Insert(s.lists, i, list{server: server, tag: tag})
	}
	return &s.lists[i]
}

func (s *Set) find(server UUID, tag string) (int, bool) {
	return slices.BinarySearchFunc(s.lists, list{server: server, tag: tag}, func(a, b list) int {
		if c := bytes.Compare(a.server[:], b.server[:]); c != 0 {
			return c
		}
		return strings.Compare(a.tag, b.tag)
	})
}

// add adds r and joins what then overlaps or touches. The usual case, the number after the last, moves one end.
func (l *list) add(r run) {
	if n := len(l.runs); n > 0 && l.runs[n-1].limit == r.from {
		l.runs[n-1].limit = r.limit
		return
	}
	i, _ := slices.BinarySearchFunc(l.runs, r.from, func(a run, from uint64) int {
		if a.limit < from {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(l.runs) && l.runs[j].from <= r.limit; j++ {
		r.from, r.limit = min(r.from, l.runs[j].from), max(r.limit, l.runs[j].limit)
	}
	l.runs = slices.Replace(l.runs, i, j, r)
}

// Add adds id.
func (s *Set) Add(id ID) { s.at(id.Server, id.Tag).add(run{id.N, id.N + 1}) }

// Contains reports whether id is in s.
func (s *Set) Contains(id ID) bool {
	i, ok := s.find(id.Server, id.Tag)
	if !ok {
		return false
	}
	for _, r := range s.lists[i].runs {
		if id.N < r.limit {
			return id.N >= r.from
		}
	}
	return false
}

// Without returns a copy of s that lacks id.
func (s *Set) Without(id ID) *Set {
	c := &Set{}
	for _, l := range s.lists {
		same := l.server == id.Server && l.tag == id.Tag
		runs := make([]run, 0, len(l.runs)+1)
		for _, r := range l.runs {
			if !same || id.N < r.from || id.N >= r.limit {
				runs = append(runs, r)
				continue
			}
			if r.from < id.N {
				runs = append(runs, run{r.from, id.N})
			}
			if id.N+1 < r.limit {
				runs = append(runs, run{id.N + 1, r.limit})
			}
		}
		if len(runs) > 0 {
			c.lists = append(c.lists, list{l.server, l.tag, runs})
		}
	}
	return c
}

// Append appends the text form, as the server writes it but without line breaks.
func (s *Set) Append(b []byte) []byte {
	for i, l := range s.lists {
		if i == 0 || l.server != s.lists[i-1].server {
			if i > 0 {
				b = append(b, ',')
			}
			b = l.server.Append(b)
		}
		if l.tag != "" {
			b = append(append(b, ':'), l.tag...)
		}
		for _, r := range l.runs {
			b = strconv.AppendUint(append(b, ':'), r.from, 10)
			if r.limit > r.from+1 {
				b = strconv.AppendUint(append(b, '-'), r.limit-1, 10)
			}
		}
	}
	return b
}

func (s *Set) String() string { return string(s.Append(nil)) }

// Encode returns the form of COM_BINLOG_DUMP_GTID. Sets with tags have a form of their own, which servers without tags do not read.
func (s *Set) Encode() []byte {
	tagged := false
	for _, l := range s.lists {
		tagged = tagged || l.tag != ""
	}
	head := uint64(len(s.lists))
	if tagged {
		head = 1<<56 | head<<8 | 1
	}
	b := binary.LittleEndian.AppendUint64(nil, head)
	for _, l := range s.lists {
		b = append(b, l.server[:]...)
		if tagged {
			b = append(append(b, byte(len(l.tag)<<1)), l.tag...)
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(len(l.runs)))
		for _, r := range l.runs {
			b = binary.LittleEndian.AppendUint64(b, r.from)
			b = binary.LittleEndian.AppendUint64(b, r.limit)
		}
	}
	return b
}
