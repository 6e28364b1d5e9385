package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
)

const (
	logTopic       = "bench.log"
	logPartitions  = 16
	logClients     = 64
	logRecordBytes = 1024
	logTxnsWarm    = 200
	logPacedRate   = 10_000
	logFillRecords = 512 << 10 // 512 MiB: larger than any processor's cache, smaller than any page cache

	txnP50TargetMS   = 2
	produceTargetSec = 13_000
)

// The brokers of a run.
const (
	sideOurs      = "outrelay"
	sideKafka     = "Apache Kafka"        // acknowledges from the page cache
	sideKafkaSync = "Apache Kafka, fsync" // topic config flush.messages=1
	sideControl   = "Apache Kafka, again" // what a ratio of a thing to itself is here
	sideKfake     = "kfake"               // in memory: the client's own ceiling
)

// logCase is one thing that is measured, against several brokers by turns.
type logCase struct {
	name       string // for --only
	title      string
	unit       string // of perSec
	partitions int32
	sides      []string
	run        func(ctx context.Context, e *env, seed, topic string) (logSample, error)
	prepare    func(ctx context.Context, seed, topic string) error // before the first round; the topic then stays
}

func logCases() []logCase {
	flat := func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
		return flatOut(ctx, seed, topic, e.o.For)
	}
	return []logCase{
		{name: "produce", title: "produce, as fast as it goes, 16 partitions", unit: "records/s", partitions: logPartitions, run: flat,
			sides: []string{sideOurs, sideKafka, sideKafkaSync, sideControl}},
		{name: "produce-1", title: "produce, as fast as it goes, 1 partition", unit: "records/s", partitions: 1, run: flat,
			sides: []string{sideOurs, sideKafka, sideKafkaSync}},
		{name: "produce-256", title: "produce, as fast as it goes, 256 partitions", unit: "records/s", partitions: 256, run: flat,
			sides: []string{sideOurs, sideKafka, sideKafkaSync}},
		{name: "paced", title: "10,000 records/s, 16 partitions", unit: "records/s", partitions: logPartitions,
			sides: []string{sideOurs, sideKafka, sideKafkaSync, sideControl},
			run: func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
				return paced(ctx, seed, topic, logPacedRate, e.o.For)
			}},
		{name: "clients", title: "64 clients, one record in flight each, 16 partitions", unit: "records/s", partitions: logPartitions,
			sides: []string{sideOurs, sideKafka, sideKafkaSync, sideControl, sideKfake},
			run: func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
				return manyClients(ctx, seed, topic, e.o.For)
			}},
		{name: "bare", title: "64 bare connections, one record in flight each, 16 partitions", unit: "records/s", partitions: logPartitions,
			sides: []string{sideOurs, sideKafka, sideKafkaSync, sideControl, sideKfake},
			run: func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
				return bareClients(ctx, seed, topic, logPartitions, e.o.For)
			}},
		{name: "txn", title: "transactions of one record, one after the other", unit: "transactions/s", partitions: logPartitions,
			sides: []string{sideOurs, sideKafka, sideControl, sideKfake},
			run: func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
				return oneRecordTxns(ctx, seed, topic, e.o.Rows, e.o.For)
			}},
		{name: "fetch", title: "fetch from the page cache, records not decoded, 16 partitions", unit: "records/s", partitions: logPartitions,
			sides: []string{sideOurs, sideKafka, sideControl},
			prepare: func(ctx context.Context, seed, topic string) error {
				return fill(ctx, seed, topic, logFillRecords)
			},
			run: func(ctx context.Context, e *env, seed, topic string) (logSample, error) {
				return fetchAll(ctx, seed, topic, logPartitions, e.o.For)
			}},
	}
}

// LogCases names what Log can measure.
func LogCases() []string {
	var names []string
	for _, c := range logCases() {
		names = append(names, c.name)
	}
	return names
}

// logServer is a broker that is measured, in a process of its own.
type logServer struct {
	seed string
	pid  int
}

// logRun is one run of Log: its servers, and what was found by case, side and round.
type logRun struct {
	e       *env
	cases   []logCase
	servers map[string]logServer
	found   map[string]map[string][]logSample
	disks   []Disk
	missing string // why there is no Apache Kafka
}

// Log measures the log alone beside Apache Kafka and kfake, by turns: see docs/benchmarks/log.md.
func Log(ctx context.Context, o Options) (_ *Report, err error) {
	began := time.Now()
	if o.For <= 0 {
		o.For = 8 * time.Second
	}
	if o.Rows <= 0 {
		o.Rows = 2000
	}
	e, err := open(o)
	if err != nil {
		return nil, err
	}
	defer e.close()
	l := &logRun{e: e, servers: map[string]logServer{}, found: map[string]map[string][]logSample{}}
	for _, c := range logCases() {
		if len(o.Only) == 0 || slices.Contains(o.Only, c.name) {
			l.cases = append(l.cases, c)
		}
	}
	stop, err := l.start(ctx)
	defer func() {
		if serr := stop(); err == nil {
			err = serr
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, c := range l.cases {
		if err := l.measure(ctx, c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.title, err)
		}
	}
	return e.finish(l.report(), began, "")
}

// start starts the servers that the cases need; stop ends them, also after an error.
func (l *logRun) start(ctx context.Context) (stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var first error
		for _, s := range slices.Backward(stops) {
			if err := s(); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	ours, err := l.e.start(ctx, childOptions{name: "log-outrelay", data: l.e.path("log-outrelay"), profile: true})
	if err != nil {
		return stop, err
	}
	stops = append(stops, ours.stop)
	l.servers[sideOurs] = logServer{ours.kafka, ours.cmd.Process.Pid}
	if l.needs(sideKfake) {
		fake, err := l.e.startKfake(ctx, "log-kfake", logTopic, logPartitions)
		if err != nil {
			return stop, err
		}
		stops = append(stops, func() error { fake.kill(); return nil })
		l.servers[sideKfake] = logServer{fake.kafka, fake.cmd.Process.Pid}
	}
	if _, err := testenv.KafkaLibs(); err != nil {
		l.missing = err.Error()
		l.e.say("without Apache Kafka: %v", err)
		return stop, nil
	}
	k, err := testenv.OpenKafka(ctx, testenv.KafkaOptions{Dir: l.e.dir, FullSpeed: true, Config: map[string]string{"log.segment.delete.delay.ms": "1000"}})
	if err != nil {
		return stop, err
	}
	stops = append(stops, func() error { k.Close(); return nil })
	for _, side := range []string{sideKafka, sideKafkaSync, sideControl} {
		l.servers[side] = logServer{k.Addr(), k.Pid()}
	}
	return stop, nil
}

func (l *logRun) needs(side string) bool {
	return slices.ContainsFunc(l.cases, func(c logCase) bool { return slices.Contains(c.sides, side) })
}

// measure runs one case, round by round, all sides in each.
func (l *logRun) measure(ctx context.Context, c logCase) error {
	l.found[c.name] = map[string][]logSample{}
	if err := l.warm(ctx, c); err != nil {
		return err
	}
	for round := range l.e.o.Rounds {
		d, err := measureDisk(l.e.dir, 500)
		if err != nil {
			return err
		}
		l.disks = append(l.disks, d)
		for i := range c.sides {
			side := c.sides[(i+round)%len(c.sides)] // each side is first once
			server, ok := l.servers[side]
			if !ok {
				continue
			}
			s, err := l.once(ctx, l.e, c, side, server)
			if err != nil {
				return fmt.Errorf("against %s: %w", side, err)
			}
			l.found[c.name][side] = append(l.found[c.name][side], s)
			l.e.say("%s, round %d: %-20s %s %s  p50 %s ms  p99 %s ms  %s µs CPU/record", c.name, round+1, side, num(s.perSec), c.unit, num(s.p50), num(s.p99), num(s.cpuMicros))
		}
	}
	return nil
}

// warmMax bounds the run that each server gets before a case's first round: a JVM compiles what it runs often.
const warmMax = 5 * time.Second

// warm lets each server do what the case does, and counts nothing.
func (l *logRun) warm(ctx context.Context, c logCase) error {
	e := *l.e
	e.o.For = min(e.o.For, warmMax)
	done := map[logServer]bool{}
	for _, side := range c.sides {
		server, ok := l.servers[side]
		if !ok || done[server] {
			continue
		}
		done[server] = true
		if _, err := l.once(ctx, &e, c, side, server); err != nil {
			return fmt.Errorf("warm up %s: %w", side, err)
		}
	}
	return nil
}

// once measures one side once, on a topic of its own, after what was written before has reached the disk.
func (l *logRun) once(ctx context.Context, e *env, c logCase, side string, server logServer) (s logSample, err error) {
	topic := logTopic + "." + c.name + "." + strings.Map(onlyLetters, side)
	configs := map[string]string{}
	if side == sideKafkaSync {
		configs["flush.messages"] = "1"
	}
	made, err := ensureBenchTopic(ctx, server.seed, topic, c.partitions, configs)
	if err != nil {
		return s, err
	}
	if c.prepare == nil {
		defer func() {
			if derr := deleteBenchTopic(ctx, server.seed, topic); err == nil {
				err = derr
			}
		}()
	} else if made {
		if err := c.prepare(ctx, server.seed, topic); err != nil {
			return s, err
		}
	}
	syscall.Sync()
	before := cpuOf(server.pid)
	if s, err = c.run(ctx, e, server.seed, topic); err != nil {
		return s, err
	}
	s.cpuMicros = float64((cpuOf(server.pid) - before).Microseconds()) / float64(max(s.n, 1))
	return s, nil
}

func onlyLetters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return r
	}
	return -1
}

func createTopic(ctx context.Context, seed, topic string, partitions int32) error {
	_, err := ensureBenchTopic(ctx, seed, topic, partitions, nil)
	return err
}

func ensureBenchTopic(ctx context.Context, seed, topic string, partitions int32, configs map[string]string) (created bool, err error) {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{seed}})
	if err != nil {
		return false, err
	}
	defer cl.Close()
	st, err := kafka.EnsureTopic(ctx, cl, topic, partitions, configs)
	return st.Created, err
}
