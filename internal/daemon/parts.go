package daemon

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/run"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sources"
)

// connString gives each connection its string anew, so that a rotated password is used. An unresolved reference may be
// resolved later (a file that is being replaced), so it is an environment error, not a bug.
func connString(resolve func() (string, error), place string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		dsn, err := resolve()
		if err != nil {
			return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "bad-dsn", Place: place, Cause: err.Error()}
		}
		return dsn, nil
	}
}

// newRelay builds the sources and the manager that runs those whose partition of the positions topic is assigned here.
func (d *Daemon) newRelay(ko kafka.Options, instance string) (*relay.Manager, map[string]sources.Source, error) {
	metrics := relay.NewMetrics(d.registry)
	from := map[string]sources.Source{}
	var list []relay.Options
	for name, s := range d.c.Sources {
		src, err := d.NewSource(name)
		if err != nil {
			return nil, nil, err
		}
		from[name] = src
		o := relayOptions(name, s, src)
		o.External = d.c.Log.External()
		list = append(list, o)
	}
	m, err := relay.NewManager(relay.ManagerOptions{Kafka: ko, InstanceID: instance, Sources: list, Metrics: metrics,
		Logger: d.log.With("part", "relay")})
	return m, from, err
}

func relayOptions(name string, s *config.Source, from sources.Source) relay.Options {
	o := relay.Options{Source: outrelay.SourceID(name), From: from, Dialect: relay.DialectOutrelay, OnUnroutable: relay.UnroutableHalt,
		RecordBytesMax: int(s.RecordBytes), Compression: s.Compression}
	if s.Dialect == "debezium-strict" {
		o.Dialect = relay.DialectDebeziumStrict
	}
	if s.OnUnroutable == "dead_letter" {
		o.OnUnroutable = relay.UnroutableDeadLetter
	}
	for _, t := range s.Outbox {
		o.Tables = append(o.Tables, relayTable(s, t))
	}
	return o
}

func relayTable(s *config.Source, t config.Outbox) relay.Table {
	r := relay.Table{
		Name: t.Table, Topic: t.Topic, Partitions: int32(t.Partitions), NoAutoCreate: !s.AutoCreate,
		// AggregateID stays the event router's: where the key column is NULL, it is the key.
		Columns:      relay.Columns{ID: t.Columns.ID, Key: t.Columns.Key, Type: t.Columns.Type, Payload: t.Columns.Payload},
		AdditionalOK: t.AdditionalOptional, ExpandJSON: t.ExpandJSON, TombstoneOnEmpty: t.TombstoneOnEmpty,
		Configs: map[string]string{"retention.ms": strconv.FormatInt(time.Duration(t.Retention).Milliseconds(), 10)},
	}
	if t.Topic == "outbox.event.{aggregatetype}" && t.Columns.AggregateType != "aggregatetype" {
		r.Topic = "outbox.event.{" + t.Columns.AggregateType + "}"
	}
	if t.Route != nil {
		r.RouteBy, r.TopicRegex, r.TopicReplacement = t.Route.By, t.Route.Regex, string(t.Route.Replacement)
	}
	for _, p := range t.Additional {
		r.Additional = append(r.Additional, relay.Placement{Column: p.Column, Where: p.Place, Alias: p.Alias})
	}
	if ts := t.Columns.Timestamp; ts != "" {
		r.Additional = append(r.Additional, relay.Placement{Column: ts, Where: relay.PlaceHeader, Alias: "eventTime"})
	}
	return r
}

func topicConfigs(t *config.Topic) map[string]string {
	m := map[string]string{"retention.ms": strconv.FormatInt(time.Duration(t.Retention).Milliseconds(), 10)}
	for k, v := range t.Configs {
		m[k] = v
	}
	return m
}

// startGroup runs a group. A data halt ends the group and stays to be read in status; the other parts go on. What is wrong with the
// configuration, a statement that the sink refuses among it, ends the process: it would be the same after every retry.
func (d *Daemon) startGroup(g *run.Group, ko kafka.Options, instance, logID, name string, gc *config.Consumer) error {
	open, err := d.newSink(name, instance, false)
	if err != nil {
		return err
	}
	cg, err := consumer.New(consumer.Options{
		Name: name, Topics: gc.Topics, Start: consumer.Start{Latest: gc.Start.Latest, Time: gc.Start.At},
		Sink:  func(ctx context.Context) (sinks.OffsetStore, error) { return open(ctx) },
		LogID: logID, Client: kafka.ClientOpts(ko), InstanceID: instance,
		BatchRecords: gc.Batch.Records, BatchBytes: int(gc.Batch.Bytes),
		Logger: d.log.With("part", "consumer", "group", name), Registerer: d.registry,
	})
	if err != nil {
		return err
	}
	gr := &group{g: cg}
	d.set(func() { d.groups[name] = gr })
	g.Start(run.Service{Name: "consumer " + name, Run: func(ctx context.Context) error {
		err := cg.Run(ctx)
		if errors.Is(err, outrelay.ErrDataHalt) {
			d.log.Error("group halted", "group", name, "error", err)
			d.set(func() { gr.err = err })
			<-ctx.Done()
			return nil
		}
		return err
	}})
	return nil
}
