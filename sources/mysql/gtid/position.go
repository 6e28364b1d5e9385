package gtid

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Maria is one transaction of MariaDB: domain-server-sequence.
type Maria struct {
	Domain, Server uint32
	Seq            uint64 // from 1
}

// IsZero reports whether m names nothing.
func (m Maria) IsZero() bool { return m.Seq == 0 }

// Append appends the text form.
func (m Maria) Append(b []byte) []byte {
	b = append(strconv.AppendUint(b, uint64(m.Domain), 10), '-')
	b = append(strconv.AppendUint(b, uint64(m.Server), 10), '-')
	return strconv.AppendUint(b, m.Seq, 10)
}

func (m Maria) String() string { return string(m.Append(nil)) }

// ParseMaria reads the text form of one transaction's id.
func ParseMaria(s string) (Maria, error) {
	f := strings.Split(s, "-")
	if len(f) != 3 {
		return Maria{}, fmt.Errorf("%.60q is no GTID: %w", s, ErrMalformed)
	}
	domain, errD := strconv.ParseUint(f[0], 10, 32)
	server, errS := strconv.ParseUint(f[1], 10, 32)
	seq, errN := strconv.ParseUint(f[2], 10, 64)
	if errD != nil || errS != nil || errN != nil || seq == 0 {
		return Maria{}, fmt.Errorf("%.60q is no GTID: %w", s, ErrMalformed)
	}
	return Maria{uint32(domain), uint32(server), seq}, nil
}

// Position is MariaDB's place in all its domains: the last transaction of each, ordered by domain. The zero value is before everything.
type Position []Maria

// ParsePosition reads the text form: ids, one for a domain, with commas between them.
func ParsePosition(s string) (Position, error) {
	var p Position
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		m, err := ParseMaria(part)
		if err != nil {
			return nil, err
		}
		if !p.Of(m.Domain).IsZero() {
			return nil, fmt.Errorf("domain %d stands twice: %w", m.Domain, ErrMalformed)
		}
		p.Advance(m)
	}
	return p, nil
}

// Of returns the last transaction of a domain; zero when there is none.
func (p Position) Of(domain uint32) Maria {
	for _, m := range p {
		if m.Domain == domain {
			return m
		}
	}
	return Maria{}
}

// Advance makes m the last transaction of its domain.
func (p *Position) Advance(m Maria) {
	for i := range *p {
		if (*p)[i].Domain == m.Domain {
			(*p)[i] = m
			return
		}
	}
	*p = append(*p, m)
	slices.SortFunc(*p, func(a, b Maria) int { return int(int64(a.Domain) - int64(b.Domain)) })
}

// Clone returns a copy.
func (p Position) Clone() Position { return slices.Clone(p) }

// Append appends the text form.
func (p Position) Append(b []byte) []byte {
	for i, m := range p {
		if i > 0 {
			b = append(b, ',')
		}
		b = m.Append(b)
	}
	return b
}

func (p Position) String() string { return string(p.Append(nil)) }
