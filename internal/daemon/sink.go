package daemon

import (
	"context"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/audit"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	sinkmy "github.com/outrelay/outrelay/sinks/mysql"
	sinkpg "github.com/outrelay/outrelay/sinks/postgres"
)

// openSink opens a group's sink. It may be called again.
type openSink func(context.Context) (sinks.Relocator, error)

// sink is what can be done with the sink of a group.
type sink struct {
	open    openSink
	examine func(ctx context.Context, place string) []doctor.Finding
}

// newSink returns how the sink of a group is opened. bare: for its offsets alone; no statement is checked, no metric kept.
func (d *Daemon) newSink(name, owner string, bare bool) (openSink, error) {
	s, err := d.sink(name, owner, bare)
	return s.open, err
}

func (d *Daemon) sink(name, owner string, bare bool) (sink, error) {
	g, ok := d.c.Consumers[name]
	if !ok {
		return sink{}, fmt.Errorf("no consumer %q in %s: %w", name, d.c.File(), outrelay.ErrConfig)
	}
	conn := d.sinkConnString(name, g)
	handlers := map[string][]handler.Statement{}
	for typ, list := range g.Handle {
		for _, st := range list {
			handlers[typ] = append(handlers[typ], handler.Statement{SQL: st.SQL, Place: fmt.Sprintf("%s:%d", d.c.File(), st.Pos.Line)})
		}
	}
	log := d.log.With("part", "sink", "group", name)
	if g.Into.Database().Family.IsMySQL() {
		o := sinkmy.Options{ConnString: conn, Owner: owner, Handlers: handlers, Schema: g.Into.Schema, Logger: log, Registerer: d.registry}
		if bare {
			o.Handlers, o.Registerer = nil, nil
		}
		return sink{func(ctx context.Context) (sinks.Relocator, error) { return opened(sinkmy.Open(ctx, o)) },
			func(ctx context.Context, place string) []doctor.Finding { return sinkmy.Examine(ctx, place, o) }}, nil
	}
	o := sinkpg.Options{ConnString: conn, Owner: owner, Handlers: handlers, Schema: g.Into.Schema, Logger: log, Registerer: d.registry}
	if bare {
		o.Handlers, o.Registerer = nil, nil
	}
	return sink{func(ctx context.Context) (sinks.Relocator, error) { return opened(sinkpg.Open(ctx, o)) },
		func(ctx context.Context, place string) []doctor.Finding { return sinkpg.Examine(ctx, place, o) }}, nil
}

// opened keeps a nil sink from becoming an interface that is not nil.
func opened[S sinks.Relocator](s S, err error) (sinks.Relocator, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Daemon) sinkConnString(name string, g *config.Consumer) func(context.Context) (string, error) {
	db := g.Into.Database()
	return connString(db.ConnString, d.c.Place("consumers."+name+".into."+string(db.Family)))
}

// sinkTable yields the rows of a table of a group's sink, in the order of column n.
func (d *Daemon) sinkTable(name string, g *config.Consumer, table string) audit.Scan {
	conn := d.sinkConnString(name, g)
	if g.Into.Database().Family.IsMySQL() {
		return audit.MySQLTable{ConnString: conn, Name: parts(table), ID: "id", Key: "key", OrderBy: "n", From: "n"}.Scan()
	}
	return audit.Table{ConnString: conn, Name: identifier(table), ID: "id", Key: "key", OrderBy: "n", From: "n"}.Scan()
}

// dialect is what the handlers of a sink are written in.
func dialect(i *config.Into) handler.Dialect {
	if i.Database().Family.IsMySQL() {
		return handler.MySQL
	}
	return handler.PostgreSQL
}
