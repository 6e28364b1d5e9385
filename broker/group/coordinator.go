package group

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Options are the coordinator's settings; the zero value means Kafka's defaults, apart from the initial rebalance delay, which is 0.
type Options struct {
	// InitialRebalanceDelay is how long an empty group waits for more members before its first generation
	// (group.initial.rebalance.delay.ms; Kafka: 3 s).
	InitialRebalanceDelay time.Duration
	SessionTimeoutMin     time.Duration // group.min.session.timeout.ms; 0 means 6 s
	SessionTimeoutMax     time.Duration // group.max.session.timeout.ms; 0 means 30 min
	NewMemberTimeout      time.Duration // how long a member may wait in its first join; 0 means 5 min
	OffsetRetention       time.Duration // offsets.retention.minutes; 0 means 7 days
	OffsetCheckEvery      time.Duration // offsets.retention.check.interval.ms; 0 means 10 min
	OffsetMetadataMax     int           // offset.metadata.max.bytes; 0 means 4096
	MembersMax            int           // group.max.size; 0 means 10,000
	GroupsMax             int           // groups of one coordinator partition; 0 means 100,000
	Consumer              ConsumerOptions
	// Metadata returns the topics that exist now; nil means that there are none. Only consumer groups need it.
	Metadata func() Metadata
	// NewMemberID returns a new member id that begins with prefix. It must never return the same twice.
	NewMemberID func(prefix string) string
}

// ConsumerOptions are the settings of consumer groups (KIP-848); the zero value means Kafka's defaults.
type ConsumerOptions struct {
	SessionTimeout    time.Duration // group.consumer.session.timeout.ms; 0 means 45 s
	HeartbeatInterval time.Duration // group.consumer.heartbeat.interval.ms; 0 means 5 s
	MembersMax        int           // group.consumer.max.size; 0 means 10,000
	// Times returns a group's own session timeout and heartbeat interval; nil means those above for all.
	Times func(group string) (session, heartbeat time.Duration)
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.SessionTimeoutMin, 6*time.Second)
	def(&o.SessionTimeoutMax, 30*time.Minute)
	def(&o.NewMemberTimeout, 5*time.Minute)
	def(&o.OffsetRetention, 7*24*time.Hour)
	def(&o.OffsetCheckEvery, 10*time.Minute)
	if o.OffsetMetadataMax == 0 {
		o.OffsetMetadataMax = 4096
	}
	if o.MembersMax == 0 {
		o.MembersMax = 10_000
	}
	if o.GroupsMax == 0 {
		o.GroupsMax = 100_000
	}
	def(&o.Consumer.SessionTimeout, 45*time.Second)
	def(&o.Consumer.HeartbeatInterval, 5*time.Second)
	if o.Consumer.MembersMax == 0 {
		o.Consumer.MembersMax = 10_000
	}
	if o.Consumer.Times == nil {
		session, heartbeat := o.Consumer.SessionTimeout, o.Consumer.HeartbeatInterval
		o.Consumer.Times = func(string) (time.Duration, time.Duration) { return session, heartbeat }
	}
	if o.Metadata == nil {
		o.Metadata = func() Metadata { return noTopics{} }
	}
	return o
}

// Coordinator decides for the groups of one partition of __consumer_offsets. It is not safe for concurrent use: one lock of the shell
// covers it, the feeding of its store included. Requests may be kept by reference only until the method returns.
type Coordinator struct {
	o         Options
	store     store
	groups    map[string]*group         // classic ones
	consumers map[string]*consumerGroup // a name is in one of both
	loaded    bool
	timers    timers
	expiry    timer // looks for expired offsets

	writing   map[uint64]func(now time.Time, err *kerr.Error)
	lastWrite uint64
	shrunk    []*group // have lost members since the last Take, or while that was written
	eff       Effects
}

// New returns a coordinator with an empty store, not loaded. Options.NewMemberID is required.
func New(o Options) *Coordinator {
	c := &Coordinator{
		o: o.withDefaults(), groups: map[string]*group{}, consumers: map[string]*consumerGroup{},
		writing: map[uint64]func(time.Time, *kerr.Error){},
	}
	c.store.reset()
	c.expiry.fire = c.expireOffsets
	return c
}

// Loaded reports whether this node coordinates: Load was called, and Unload not since.
func (c *Coordinator) Loaded() bool { return c.loaded }

// Load begins to coordinate from what the store holds. Members found there keep their seats, static and dynamic ones alike, and have
// one session timeout from now to be heard of (as after any change of coordinator in Kafka).
func (c *Coordinator) Load(now time.Time) {
	if c.loaded {
		return
	}
	c.loaded = true
	for _, name := range c.store.names() {
		if c.store.groups[name].consumer != nil {
			c.restoreConsumer(now, name)
			continue
		}
		c.groups[name] = c.restoreGroup(now, name, c.store.groups[name].meta)
	}
	c.timers.set(&c.expiry, now.Add(c.o.OffsetCheckEvery))
}

// Unload stops coordinating: whoever waits is told NOT_COORDINATOR. The store stays.
func (c *Coordinator) Unload(now time.Time) {
	if !c.loaded {
		return
	}
	c.loaded = false
	ids := make([]uint64, 0, len(c.writing))
	for id := range c.writing {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		then := c.writing[id]
		delete(c.writing, id)
		then(now, kerr.NotCoordinator)
	}
	for _, name := range c.groupNames() {
		g := c.groups[name]
		for _, m := range g.members {
			c.answerJoin(g, m, errJoin(kerr.NotCoordinator, m.id))
			c.answerSync(m, errSync(kerr.NotCoordinator))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.consumers)) {
		c.consumers[name].refuseTurns(kerr.NotCoordinator)
	}
	c.groups, c.consumers = map[string]*group{}, map[string]*consumerGroup{}
	c.timers = timers{}
	c.expiry.index = 0
}

// Tick does what is due at now: sessions, rebalances and offsets that ran out.
func (c *Coordinator) Tick(now time.Time) {
	if c.loaded {
		c.timers.run(now)
	}
}

// NextDeadline returns when Tick has something to do, and false when it never will.
func (c *Coordinator) NextDeadline() (time.Time, bool) { return c.timers.next() }

func (c *Coordinator) groupNames() []string {
	names := make([]string, 0, len(c.groups))
	for n := range c.groups {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}

// group returns the group, or nil when there is none.
func (c *Coordinator) group(name string) *group { return c.groups[name] }

// groupOrNew returns the group, made if there is none; nil when there are too many.
func (c *Coordinator) groupOrNew(name string) *group {
	if g := c.groups[name]; g != nil {
		return g
	}
	if len(c.groups)+len(c.consumers) >= c.o.GroupsMax {
		return nil
	}
	g := c.newGroup(name)
	c.groups[name] = g
	return g
}

// forget drops a group from memory with everything it waits for.
func (c *Coordinator) forget(g *group) {
	c.timers.stop(&g.rebalance)
	c.timers.stop(&g.syncing)
	for _, m := range g.members {
		c.timers.stop(&m.session)
	}
	for _, p := range g.pending {
		c.timers.stop(&p.session)
	}
	g.state = dead
	if c.groups[g.name] == g {
		delete(c.groups, g.name)
	}
}
