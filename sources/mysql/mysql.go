// Package mysql reads committed outbox rows from the binlog of MySQL and MariaDB, as a replica does. It writes to the database once, at Init: a row of the
// table outrelay_sources that says where the source began.
//
// One stream has three goroutines: the reader owns the connection, decodes and fills a bounded queue; the idler yields bare positions while only others
// write; the caller takes from the queue. Confirming tells the server nothing, since a server keeps its binlog by a clock of its own.
//
//	server ──events──▶ reader ──Txn──▶ queue (bounded bytes) ──▶ Next
package mysql

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/meter"
)

// Flavor tells the two families of servers apart.
type Flavor string

// The families.
const (
	MySQL   Flavor = "mysql"
	MariaDB Flavor = "mariadb"
)

// Options say which database and tables a source reads, and its limits. Name, Flavor, ConnString and Tables are needed; the zero value of all others is a
// default.
type Options struct {
	Name   outrelay.SourceID
	Flavor Flavor
	// ConnString returns the connection string (internal/mysqldsn), which names a database. It is asked again at every connect, so that a changed
	// password is found.
	ConnString func(ctx context.Context) (string, error)
	// Tables are the outbox tables as database.table; a name without a database is in that of the connection string. Names are taken as written; a part that
	// holds a dot is put in backticks. Schema.Table of the events is the string given here.
	Tables []string
	// ServerID is the number under which the source is a replica; it must be no other's. 0 makes one of Name and Owner, so that it stays the same.
	ServerID uint32
	// Owner names the log that the caller publishes into, by its cluster id; it is asked at every connect. A stream of the same source and owner is the
	// same replica to the server, which ends the older one: it belongs to a relay that the caller has fenced.
	Owner func() string

	MaxPartBytes      int           // a transaction's events beyond this are yielded in parts; 0 means 4 MiB
	MaxRowBytes       int           // an event of the binlog, which holds at least one row, beyond this halts; 0 means 128 MiB
	PrefetchBytes     int           // decoded and not yet taken by Next; 0 means 16 MiB. A row larger than this passes alone.
	HeartbeatInterval time.Duration // the server is asked to be heard of so often; 0 means 30 s
	SilenceTimeout    time.Duration // a server that sends nothing for so long is given up; 0 means 5 min
	IdleInterval      time.Duration // an idle source yields a bare position at most this often; 0 means 10 s
	ConnectTimeout    time.Duration // 0 means 10 s

	Logger     *slog.Logger          // nil discards
	Clock      clock.Clock           // nil is the machine's
	Registerer prometheus.Registerer // nil registers nothing
}

// Source is a MySQL or MariaDB server whose outbox tables are tailed. It keeps the contract of sources.Source. Its methods may be called
// concurrently; of the streams it opens, one at a time is served.
type Source struct {
	o       Options
	tables  []table
	log     *slog.Logger
	clock   clock.Clock
	metrics *meter.Meter

	nonceOnce sync.Once
	nonceText string
}

var _ sources.Source = (*Source)(nil)

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
	case o.Flavor != MySQL && o.Flavor != MariaDB:
		return fmt.Errorf("flavor %q is neither %s nor %s", o.Flavor, MySQL, MariaDB)
	case o.ConnString == nil:
		return fmt.Errorf("a source needs a connection string")
	case len(o.Tables) == 0:
		return fmt.Errorf("a source needs at least one outbox table")
	case o.MaxPartBytes < 0 || o.MaxRowBytes < 0 || o.PrefetchBytes < 0:
		return fmt.Errorf("a limit is negative")
	}
	seen := map[table]bool{}
	for _, name := range o.Tables {
		t, err := parseTable(name)
		if err != nil {
			return err
		}
		id := table{database: t.database, name: t.name}
		if seen[id] {
			return fmt.Errorf("table %s is named twice", name)
		}
		seen[id] = true
		s.tables = append(s.tables, t)
	}
	if o.Owner == nil {
		o.Owner = func() string { return "" }
	}
	setDefault(&o.MaxPartBytes, 4<<20)
	setDefault(&o.MaxRowBytes, 128<<20)
	setDefault(&o.PrefetchBytes, 16<<20)
	setDefault(&o.HeartbeatInterval, 30*time.Second)
	setDefault(&o.SilenceTimeout, 5*time.Minute)
	setDefault(&o.IdleInterval, 10*time.Second)
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
	given          string // as in Options.Tables
	database, name string // database is "" where the connection string's is meant
}

// sql returns the name quoted for SQL.
func (t table) sql() string { return quoteIdent(t.database) + "." + quoteIdent(t.name) }

// nameMax is how many bytes a name of the server may have: 64 characters.
const nameMax = 256

// parseTable splits database.table; either part may stand in backticks.
func parseTable(s string) (table, error) {
	var parts []string
	rest := s
	for {
		part, after, err := cutIdent(rest)
		if err != nil {
			return table{}, fmt.Errorf("table %q: %w", s, err)
		}
		parts = append(parts, part)
		if after == "" {
			break
		}
		if after[0] != '.' {
			return table{}, fmt.Errorf("table %q: write database.table", s)
		}
		rest = after[1:]
	}
	switch len(parts) {
	case 1:
		return table{given: s, name: parts[0]}, nil
	case 2:
		return table{given: s, database: parts[0], name: parts[1]}, nil
	}
	return table{}, fmt.Errorf("table %q: write database.table", s)
}

// cutIdent takes a name, in backticks or up to a dot, from the beginning of s.
func cutIdent(s string) (name, rest string, err error) {
	if !strings.HasPrefix(s, "`") {
		if i := strings.IndexByte(s, '.'); i >= 0 {
			name, rest = s[:i], s[i:]
		} else {
			name = s
		}
	} else {
		var b strings.Builder
		i := 1
		for ; i < len(s); i++ {
			if s[i] == '`' {
				if i+1 == len(s) || s[i+1] != '`' {
					break
				}
				i++
			}
			b.WriteByte(s[i])
		}
		if i >= len(s) {
			return "", "", fmt.Errorf("backtick not closed")
		}
		name, rest = b.String(), s[i+1:]
	}
	if name == "" || len(name) > nameMax || strings.ContainsRune(name, 0) {
		return "", "", fmt.Errorf("a name has 1 to 64 characters")
	}
	return name, rest, nil
}

func quoteIdent(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }
