// Package postgres reads committed outbox rows from PostgreSQL's logical replication stream. It never writes to the database after Init, and
// never confirms a position that it was not told to.
//
// One stream has three goroutines: the reader owns the connection's read side, decodes and fills a bounded queue; the
// writer owns the write side and sends standby status from its own timer, also while nobody calls Next; the caller takes from the queue.
//
//	server ──CopyData──▶ reader ──Txn──▶ queue (bounded bytes) ──▶ Next
//	server ◀──status─── writer ◀──flush position──────────────── Confirm
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/meter"
)

// Options say which database, slot, publication and tables a source reads, and its limits. Name, ConnString, Slot, Publication and Tables
// are needed; the zero value of all others is a default.
type Options struct {
	Name outrelay.SourceID
	// ConnString returns the connection string. It is asked again at every connect, so that a changed password is found.
	ConnString  func(ctx context.Context) (string, error)
	Slot        string
	Publication string
	// Tables are the outbox tables as schema.table; a name without a schema is in public. Names are taken exactly as written, without
	// folding case; a part that holds a dot is put in double quotes. Schema.Table of the events is the string given here.
	Tables []string
	// Owner names the log that the caller publishes into, by its cluster id; it is asked at every connect. An older connection of the
	// same source and owner that still holds the slot belongs to a relay that the caller has fenced, so Open ends it. nil or "" leaves
	// every other connection alone.
	Owner func() string

	MaxPartBytes      int           // a transaction's events beyond this are yielded in parts; 0 means 4 MiB
	MaxRowBytes       int           // a row beyond this halts; 0 means 128 MiB
	PrefetchBytes     int           // decoded and not yet taken by Next; 0 means 16 MiB. A row larger than this passes alone.
	KeepaliveInterval time.Duration // standby status at least this often; 0 means 10 s. Must be below a third of wal_sender_timeout.
	IdleInterval      time.Duration // an idle source yields a bare position at most this often; 0 means 10 s
	SilenceTimeout    time.Duration // a server that sends nothing for so long, though asked, is given up; 0 means 5 min
	ConnectTimeout    time.Duration // 0 means 10 s

	Logger     *slog.Logger          // nil discards
	Clock      clock.Clock           // nil is the machine's
	Registerer prometheus.Registerer // nil registers nothing
}

// Source is a PostgreSQL database whose outbox tables are tailed. It keeps the contract of sources.Source. Its
// methods may be called concurrently; of the streams it opens, one at a time can hold the slot.
type Source struct {
	o       Options
	tables  []table
	log     *slog.Logger
	clock   clock.Clock
	metrics *meter.Meter
}

var (
	_ sources.Source   = (*Source)(nil)
	_ sources.Examiner = (*Source)(nil)
)

// slotName is what PostgreSQL takes as the name of a replication slot.
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// New returns a source. It connects to nothing. Options that contradict themselves are outrelay.ErrConfig.
func New(o Options) (*Source, error) {
	s := &Source{o: o, log: o.Logger, clock: o.Clock}
	if err := s.defaults(); err != nil {
		return nil, &outrelay.Error{Class: outrelay.ErrConfig, Code: "source-options", Place: "source " + string(o.Name), Cause: err.Error()}
	}
	m, err := meter.New(o.Name, o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("source %s: metrics: %w", o.Name, err)
	}
	s.metrics = m
	return s, nil
}

func (s *Source) defaults() error {
	o := &s.o
	switch {
	case o.Name == "":
		return fmt.Errorf("a source needs a name")
	case o.ConnString == nil:
		return fmt.Errorf("a source needs a connection string")
	case !slotName.MatchString(o.Slot):
		return fmt.Errorf("slot name %q: PostgreSQL takes 1 to 63 of a-z, 0-9 and _", o.Slot)
	case o.Publication == "" || len(o.Publication) > 63 || strings.ContainsRune(o.Publication, 0):
		return fmt.Errorf("publication name %q: PostgreSQL takes 1 to 63 bytes", o.Publication)
	case len(o.Tables) == 0:
		return fmt.Errorf("a source needs at least one outbox table")
	case o.MaxPartBytes < 0 || o.MaxRowBytes < 0 || o.PrefetchBytes < 0:
		return fmt.Errorf("a limit is negative")
	}
	seen := map[string]bool{}
	for _, name := range o.Tables {
		t, err := parseTable(name)
		if err != nil {
			return err
		}
		if seen[t.key()] {
			return fmt.Errorf("table %s is named twice", name)
		}
		seen[t.key()] = true
		s.tables = append(s.tables, t)
	}
	if o.Owner == nil {
		o.Owner = func() string { return "" }
	}
	setDefault(&o.MaxPartBytes, 4<<20)
	setDefault(&o.MaxRowBytes, 128<<20)
	setDefault(&o.PrefetchBytes, 16<<20)
	setDefault(&o.KeepaliveInterval, 10*time.Second)
	setDefault(&o.IdleInterval, 10*time.Second)
	setDefault(&o.SilenceTimeout, 5*time.Minute)
	setDefault(&o.ConnectTimeout, 10*time.Second)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("source", string(o.Name))
	if s.clock == nil {
		s.clock = clock.Real{}
	}
	return nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (s *Source) place() string { return "source " + string(s.o.Name) }

// table is the name of an outbox table.
type table struct {
	given        string // as in Options.Tables
	schema, name string
}

func (t table) key() string { return t.schema + "\x00" + t.name }

// sql returns the name quoted for SQL.
func (t table) sql() string { return quoteIdent(t.schema) + "." + quoteIdent(t.name) }

// parseTable splits schema.table; either part may stand in double quotes.
func parseTable(s string) (table, error) {
	var parts []string
	rest := s
	for {
		var part string
		if strings.HasPrefix(rest, `"`) {
			i := 1
			var b strings.Builder
			for ; i < len(rest); i++ {
				if rest[i] == '"' {
					if i+1 < len(rest) && rest[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(rest[i])
			}
			if i >= len(rest) {
				return table{}, fmt.Errorf("table %q: quote not closed", s)
			}
			part, rest = b.String(), rest[i+1:]
		} else {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				i = len(rest)
			}
			part, rest = rest[:i], rest[i:]
		}
		if part == "" || len(part) > 63 || strings.ContainsRune(part, 0) {
			return table{}, fmt.Errorf("table %q: a name has 1 to 63 bytes", s)
		}
		parts = append(parts, part)
		if rest == "" {
			break
		}
		if rest[0] != '.' {
			return table{}, fmt.Errorf("table %q: write schema.table", s)
		}
		rest = rest[1:]
	}
	switch len(parts) {
	case 1:
		return table{given: s, schema: "public", name: parts[0]}, nil
	case 2:
		return table{given: s, schema: parts[0], name: parts[1]}, nil
	}
	return table{}, fmt.Errorf("table %q: write schema.table", s)
}

func quoteIdent(s string) string   { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteLiteral(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
