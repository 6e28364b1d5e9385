package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/migrate"
	"github.com/outrelay/outrelay/internal/run"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sinks"
)

// MigrateOptions says into which log, and how.
type MigrateOptions struct {
	To     *config.Config // its log is the new one; nil where that is Lost
	Lost   string         // with Abandon: id of a new log that is no more
	From   *kafka.Options // how the old log is reached, where the file does not say it
	Topics []string       // beside those of the configuration
	All    bool           // every topic of the old log, also of an external one

	Ahead, DryRun, Abandon bool
	Wait                   time.Duration
	Progress               func(what string, done, total int64)
	Say                    func(text string)
}

// Migrate moves what this configuration has in its log into the log of another one. A log of outrelay's own that no process has open is opened here, for
// nobody else, so that it is a matter of one command.
func (d *Daemon) Migrate(ctx context.Context, o MigrateOptions) (_ *migrate.Report, err error) {
	choose, err := d.topicsToMigrate(o)
	if err != nil {
		return nil, err
	}
	mo := migrate.Options{Select: choose, Ahead: o.Ahead, DryRun: o.DryRun, Lost: o.Lost, Wait: o.Wait, Progress: o.Progress, Say: o.Say, Logger: d.log.With("part", "migrate"),
		Groups: d.groupsToMigrate()}
	ends := &logEnds{d: d, g: run.New(ctx), held: map[string]bool{}}
	defer func() { err = errors.Join(err, ends.close()) }()
	if mo.From, mo.To, err = ends.open(ctx, o); err != nil {
		return nil, err
	}
	mo.Seats = ends.seats
	do := migrate.Run
	if o.Abandon {
		do = migrate.Abandon
	}
	// A broker of ours that fails ends the migration.
	mctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(ends.g.Wait()) }()
	report, err := do(mctx, mo)
	if cause := context.Cause(mctx); err != nil && cause != nil && ctx.Err() == nil {
		err = cause
	}
	return report, err
}

// logEnds are the two logs of a migration, and what must be closed after it.
type logEnds struct {
	d       *Daemon
	g       *run.Group // brokers of this process
	closing []func() error
	held    map[string]bool // data directories that we have taken
	seats   []string        // instance ids of processes that do not run, since we hold their data directories
}

func (e *logEnds) open(ctx context.Context, o MigrateOptions) (from, to kafka.Options, err error) {
	free, err := e.own(e.d.c, true)
	switch {
	case err != nil:
		return from, to, err
	case o.From != nil:
		from = *o.From
	default:
		if from, err = e.log(ctx, e.d.c, free); err != nil {
			return from, to, err
		}
	}
	if o.To == nil {
		return CLI(from, "outrelay-migrate"), to, nil
	}
	if free, err = e.own(o.To, false); err != nil {
		return from, to, err
	}
	to, err = e.log(ctx, o.To, free)
	return CLI(from, "outrelay-migrate"), CLI(to, "outrelay-migrate"), err
}

// own takes the data directory of a configuration, so that no outrelay starts on it meanwhile; free tells that none runs.
func (e *logEnds) own(c *config.Config, old bool) (free bool, err error) {
	_, err = os.Stat(c.Data)
	switch {
	case e.held[abs(c.Data)]:
		return true, nil // both files name the same one
	case !errors.Is(err, fs.ErrNotExist):
	case c.Log.External():
		return false, nil // nothing is known of a process that runs elsewhere
	case old:
		return false, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "data-dir", Place: c.Data, Cause: "there is no such data directory", Fix: "name the old log's with data:, or run where its file's paths hold"}
	}
	id, err := openIdentity(c.Data, c.Instance)
	var taken *outrelay.Error
	if errors.As(err, &taken) && taken.Code == "data-dir-locked" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e.held[abs(c.Data)] = true
	e.seats = append(e.seats, id.instance)
	e.closing = append(e.closing, func() error { id.close(); return nil })
	return true, nil
}

func abs(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// log says how the log of a configuration is reached: an external one, and one that another process has open, over TCP. Else the broker is started in
// this process, without a listener.
func (e *logEnds) log(ctx context.Context, c *config.Config, free bool) (kafka.Options, error) {
	if c.Log.External() || !free {
		return LogOptions(c)
	}
	s := broker.New(broker.Options{DataDir: c.Data, DefaultPartitions: int32(c.Broker.Partitions), AutoCreateTopics: &c.Broker.AutoCreate,
		MemoryBytes: int64(c.Broker.Memory), ReserveBytes: int64(c.Broker.Reserve), Logger: e.d.log.With("part", "broker", "data", c.Data)})
	if err := s.Open(ctx); err != nil {
		return kafka.Options{}, fmt.Errorf("log in %s: %w", c.Data, err)
	}
	e.g.Start(run.Service{Name: "log in " + c.Data, Run: s.Run})
	e.closing = append(e.closing, s.Close)
	return kafka.Options{Seeds: []string{s.InternalAddr()}, Dialer: s.Dialer()}, nil
}

func (e *logEnds) close() (err error) {
	e.g.Stop(drainMax)
	for _, fn := range slices.Backward(e.closing) {
		err = errors.Join(err, fn())
	}
	return err
}

func (d *Daemon) groupsToMigrate() []migrate.Group {
	var out []migrate.Group
	for name := range d.c.Consumers {
		out = append(out, migrate.Group{Name: name, Open: func(ctx context.Context) (sinks.Relocator, error) {
			open, err := d.newSink(name, "outrelay log migrate", true)
			if err != nil {
				return nil, err
			}
			return open(ctx)
		}})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// topicsToMigrate returns which topics are copied: all of a log that is outrelay's own, those of the configuration from one that is shared with others.
func (d *Daemon) topicsToMigrate(o MigrateOptions) (func(topic string) bool, error) {
	if o.All || !d.c.Log.External() {
		return nil, nil
	}
	names := slices.Clone(o.Topics)
	for name := range d.c.Topics {
		names = append(names, name)
	}
	for _, g := range d.c.Consumers {
		names = append(names, g.Topics...)
	}
	var templates []*regexp.Regexp
	for name, s := range d.c.Sources {
		names = append(names, relay.DeadLetterTopic(outrelay.SourceID(name)))
		for _, t := range s.Outbox {
			re := templateOf(t)
			if re == nil && len(o.Topics) == 0 {
				return nil, &outrelay.Error{Class: outrelay.ErrConfig, Code: "topics-unknown", Place: d.c.Place("sources." + name + ".outbox"),
					Cause: "the rows of " + t.Table + " name their topics themselves, so the file does not tell which of the old log are its own", Fix: "name each with --topic, or take all of the log with --all-topics"}
			}
			if re != nil {
				templates = append(templates, re)
			}
		}
	}
	return func(topic string) bool {
		return slices.Contains(names, topic) || slices.ContainsFunc(templates, func(re *regexp.Regexp) bool { return re.MatchString(topic) })
	}, nil
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// templateOf returns what the names of a table's topics look like, nil where they may look like anything.
func templateOf(t config.Outbox) *regexp.Regexp {
	if t.Route != nil || strings.HasPrefix(t.Topic, "{") {
		return nil
	}
	parts := placeholder.Split(t.Topic, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".+") + "$")
}
