package daemon

import (
	"context"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/audit"
	"github.com/outrelay/outrelay/sources"
	sourcemy "github.com/outrelay/outrelay/sources/mysql"
	sourcepg "github.com/outrelay/outrelay/sources/postgres"
)

// NewSource returns the source of that name, which has not connected.
func (d *Daemon) NewSource(name string) (sources.Source, error) {
	s, ok := d.c.Sources[name]
	if !ok {
		return nil, fmt.Errorf("no source %q in %s: %w", name, d.c.File(), outrelay.ErrConfig)
	}
	tables := make([]string, len(s.Outbox))
	for i, o := range s.Outbox {
		tables[i] = o.Table
	}
	conn, log := d.sourceConnString(name, s), d.log.With("part", "source")
	if f := s.Database().Family; f.IsMySQL() {
		return newSource(sourcemy.New(sourcemy.Options{
			Name: outrelay.SourceID(name), Flavor: sourcemy.Flavor(f), ConnString: conn, Tables: tables, ServerID: uint32(s.ServerID), Owner: d.LogID,
			Logger: log, Registerer: d.registry,
		}))
	}
	return newSource(sourcepg.New(sourcepg.Options{
		Name: outrelay.SourceID(name), ConnString: conn, Slot: s.Slot, Publication: s.Publication, Tables: tables, Owner: d.LogID,
		Logger: log, Registerer: d.registry,
	}))
}

// newSource keeps a nil source from becoming an interface that is not nil.
func newSource[S sources.Source](s S, err error) (sources.Source, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Daemon) sourceConnString(name string, s *config.Source) func(context.Context) (string, error) {
	db := s.Database()
	return connString(db.ConnString, d.c.Place("sources."+name+"."+string(db.Family)))
}

// sourceTable yields the rows of a table of a source's database.
func (d *Daemon) sourceTable(name string, s *config.Source, table, id, key, seq string) audit.Scan {
	conn := d.sourceConnString(name, s)
	if s.Database().Family.IsMySQL() {
		return audit.MySQLTable{ConnString: conn, Name: parts(table), ID: id, Key: key, Seq: seq}.Scan()
	}
	return audit.Table{ConnString: conn, Name: identifier(table), ID: id, Key: key, Seq: seq}.Scan()
}
