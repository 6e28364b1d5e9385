// Package daemon wires a configuration into running parts: broker, relay, consumers, HTTP. It decides nothing about
// events: each part has its own Options and does not know the others.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/admin"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/run"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sources"
)

// drainMax is how long the parts may take to finish what they have begun when the process is told to stop.
const drainMax = 10 * time.Second

// Options says what runs. Config is needed.
type Options struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger
}

// Daemon is one process. Run may be called once; Status and Ready at any time.
type Daemon struct {
	o         Options
	c         *config.Config
	log       *slog.Logger
	registry  *prometheus.Registry
	startedAt time.Time

	mu       sync.Mutex // guards what follows, which Run fills in
	identity *identity
	server   *broker.Server
	logID    string
	external *kafka.Server // what log.kafka is, once it has said so
	manager  *relay.Manager
	from     map[string]sources.Source
	groups   map[string]*group
	starting string // what Run waits for; empty once all parts run
	addrs    Addrs
}

// Addrs are the addresses that are really listened on.
type Addrs struct {
	Kafka string `json:"kafka,omitempty"`
	HTTP  string `json:"http,omitempty"`
}

// group is a managed group, or why it could not go on.
type group struct {
	g   *consumer.Group
	err error // the data halt that ended it
}

// New returns a daemon that does nothing yet.
func New(o Options) *Daemon {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{o: o, c: o.Config, log: o.Logger, registry: prometheus.NewRegistry(), groups: map[string]*group{}, starting: "start"}
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(o.Version))
	return d
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "outrelay_build_info", Help: "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

// Run starts every configured part and blocks until ctx ends, then drains for up to 10 s, or until a part fails for good. The
// parts stop in the reverse order of their start: consumers and relay before the log they use.
func (d *Daemon) Run(ctx context.Context) (err error) {
	d.mu.Lock()
	d.startedAt = time.Now()
	d.mu.Unlock()
	id, err := openIdentity(d.c.Data, d.c.Instance)
	if err != nil {
		return err
	}
	defer id.close()
	g := run.New(ctx)
	defer func() {
		if late := g.Stop(drainMax); len(late) > 0 {
			d.log.Warn("did not stop in time", "parts", late, "after", drainMax)
		}
		if s := d.broker(); s != nil {
			if cerr := s.Close(); cerr != nil && err == nil {
				err = fmt.Errorf("broker: close: %w", cerr)
			}
		}
	}()
	d.set(func() { d.identity = id })
	if err := d.startHTTP(g); err != nil {
		return err
	}
	if err := d.startBroker(ctx, g); err != nil {
		return err
	}
	if d.c.Has(config.RoleRelay) || d.c.Has(config.RoleConsumers) {
		g.Start(run.Service{Name: "roles", Run: func(ctx context.Context) error { return d.runRoles(ctx, id.instance) }})
	} else {
		d.set(func() { d.starting = "" })
	}
	return g.Wait()
}

func (d *Daemon) set(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn()
}

func (d *Daemon) broker() *broker.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.server
}

// LogID returns the cluster id of the log that this process uses; empty until it is known. By it a source knows the connections of
// relays that publish into the same log, which a newer relay has fenced and may end.
func (d *Daemon) LogID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logID
}

// Addrs returns the addresses that are really listened on, as far as the parts have started.
func (d *Daemon) Addrs() Addrs {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addrs
}

func (d *Daemon) startHTTP(g *run.Group) error {
	if !d.c.Has(config.RoleAdmin) || d.c.HTTP.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", d.c.HTTP.Listen)
	if err != nil {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "http-listen", Place: d.c.Place("http.listen"), Cause: "HTTP listener", Err: err,
			Fix: "choose another address with http.listen or --http-listen"}
	}
	d.set(func() { d.addrs.HTTP = l.Addr().String() })
	s := admin.New(admin.Options{Ready: d.Ready, Gatherer: d.registry, Logger: d.log,
		Status: func(ctx context.Context) any { return d.Status(ctx) }})
	g.Start(run.Service{Name: "http", Run: func(ctx context.Context) error { return s.Run(ctx, l) }})
	return nil
}

func (d *Daemon) startBroker(ctx context.Context, g *run.Group) error {
	if !d.c.Has(config.RoleBroker) {
		return nil
	}
	b := d.c.Broker
	listeners, err := d.listeners()
	if err != nil {
		return err
	}
	access, err := d.access()
	if err != nil {
		return err
	}
	s := broker.New(broker.Options{
		DataDir: d.c.Data, Listeners: listeners, Access: access,
		MaxConnections: b.Limits.Connections, MaxConnectionsPerIP: b.Limits.ConnectionsPerIP, ConnectionsPerIPPerSecond: float64(b.Limits.ConnectionRatePerIP),
		DefaultPartitions: int32(b.Partitions), AutoCreateTopics: &b.AutoCreate, MemoryBytes: int64(b.Memory),
		ConsumerGroupSession: time.Duration(b.Groups.Session), ConsumerGroupHeartbeat: time.Duration(b.Groups.Heartbeat),
		ScrubBytes: int64(b.Scrub), ReserveBytes: int64(b.Reserve),
		Logger: d.log.With("part", "broker"), Registerer: d.registry,
	})
	if err := s.Open(ctx); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	d.set(func() { d.server, d.addrs.Kafka = s, s.Addr("kafka") })
	g.Start(run.Service{Name: "broker", Run: s.Run})
	d.log.Info("log is open", "kafka", s.Addr("kafka"), "data", d.c.Data, "log_id", s.ClusterID())
	return nil
}

// runRoles waits for the log, creates topics, and runs relay and consumers until ctx ends.
func (d *Daemon) runRoles(ctx context.Context, instance string) error {
	ko, err := d.kafkaOptions()
	if err != nil {
		return err
	}
	d.set(func() { d.starting = "the log" })
	logID, err := d.awaitLog(ctx, ko)
	if err != nil {
		return err
	}
	d.set(func() { d.logID, d.starting = logID, "" })
	g := run.New(ctx)
	defer g.Stop(drainMax)
	if d.c.Has(config.RoleRelay) && len(d.c.Sources) > 0 {
		m, from, err := d.newRelay(ko, instance)
		if err != nil {
			return err
		}
		d.set(func() { d.manager, d.from = m, from })
		g.Start(run.Service{Name: "relay", Run: m.Run})
	}
	if d.c.Has(config.RoleConsumers) {
		for name, gc := range d.c.Consumers {
			if err := d.startGroup(g, ko, instance, logID, name, gc); err != nil {
				return err
			}
		}
	}
	g.Start(run.Service{Name: "doctor", Run: func(ctx context.Context) error { return d.watchHealth(ctx, ko) }})
	return g.Wait()
}

// awaitLog asks for the log's id, and creates the configured topics, until the log answers.
func (d *Daemon) awaitLog(ctx context.Context, ko kafka.Options) (string, error) {
	cl, err := kafka.NewClient(ko)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	for attempt := 0; ; attempt++ {
		id, err := d.meetLog(ctx, cl)
		if err == nil {
			err = d.ensureTopics(ctx, ko, cl)
		}
		if err == nil {
			return id, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if errors.Is(err, outrelay.ErrConfig) {
			return "", err
		}
		d.set(func() { d.starting = "the log: " + err.Error() })
		if attempt == 0 || attempt%20 == 0 {
			d.log.Warn("the log does not answer yet", "seeds", ko.Seeds, "error", err)
		}
		if err := backoff.Sleep(ctx, clock.Real{}, backoff.Default().Delay(attempt, nil)); err != nil {
			return "", err
		}
	}
}

func (d *Daemon) ensureTopics(ctx context.Context, ko kafka.Options, cl *kgo.Client) error {
	for name, t := range d.c.Topics {
		st, err := ko.EnsureTopic(ctx, cl, name, int32(t.Partitions), topicConfigs(t))
		if err != nil {
			return err
		}
		for _, diff := range st.Differs {
			d.log.Warn("topic stands otherwise than configured; nothing was changed", "topic", name, "difference", diff, "fix", "outrelay topics alter "+name)
		}
	}
	return nil
}
