package compat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/testenv"
)

// debeziumTxns is how many transactions the application commits while all is well, again while Connect is killed, and again while the broker is.
const debeziumTxns = 500

// Debezium's PostgreSQL connector with its outbox event router, on Kafka Connect, writes an outbox into the log; Connect is killed in the middle, and then
// the broker. Each event must be there, in its topic, with its key and id, the events of a key in the order of their commits; and once, where Connect says exactly once.
func TestDebezium(t *testing.T) {
	onlyFull(t)
	t.Parallel()
	for _, mode := range []struct {
		name, exactlyOnce string
		isolation         kgo.IsolationLevel
	}{
		{"at least once", "disabled", kgo.ReadUncommitted()},
		{"exactly once", "enabled", kgo.ReadCommitted()},
	} {
		s := bareClient(t, "Debezium on Kafka Connect, outbox router, "+mode.name)
		plugins := cache(t, "debezium", "plugins")
		s.row.version = debeziumVersion(t, plugins) + " (Connect " + testenv.KafkaVersion + ")"
		d := &debezium{subject: s, once: mode.exactlyOnce == "enabled", isolation: mode.isolation, events: map[string]outboxEvent{}, random: rand.New(rand.NewPCG(1, 2))}
		d.run(plugins, map[string]string{"exactly.once.source.support": mode.exactlyOnce})
	}
}

// debeziumVersion is that of the connector that scripts/install-clients has fetched.
func debeziumVersion(t *testing.T, plugins string) string {
	t.Helper()
	const name = "debezium-connector-postgres-"
	jars, _ := filepath.Glob(filepath.Join(plugins, "*", name+"*.jar")) // a pattern without a mistake
	if len(jars) != 1 {
		t.Fatalf("no Debezium in %s: run scripts/install-clients full", plugins)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jars[0]), name), ".jar")
}

// debezium is one run: what the application has committed, and where.
type debezium struct {
	*subject
	once      bool
	isolation kgo.IsolationLevel

	pg     *testenv.Postgres
	db     string
	events map[string]outboxEvent // by id; the writer's until it has ended
	next   int                    // place of the next event
	random *rand.Rand
}

// outboxEvent is a row that was committed. Places grow in the order of commits.
type outboxEvent struct {
	topic, key, payload string
	place               int
}

func (d *debezium) run(plugins string, worker map[string]string) {
	d.t.Helper()
	d.pg = testenv.StartPostgres(d.t, testenv.PostgresOptions{NoFsync: true})
	d.db = d.pg.NewDatabase(d.t)
	d.pg.Exec(d.t, d.db, `create table outbox (id uuid primary key, aggregatetype text not null, aggregateid text not null, type text not null, payload jsonb)`)
	w, err := newConnect(d.t, d.broker.Kafka, plugins, worker)
	if err != nil {
		d.failed("Connect starts", err)
		return
	}
	d.passed("Connect starts: its topics, its group of protocol type \"connect\"")
	if err := w.configure("shop", d.connector()); err != nil {
		d.failed("the connector runs", err)
		return
	}
	d.passed("the connector runs")
	for _, phase := range []struct {
		name string
		do   func() error
	}{
		{"", func() error { return nil }},
		{"Connect killed -9 while events flow, and started again", func() error { return errors.Join(w.kill(), w.start(), w.running("shop")) }},
		{"the broker killed -9 while events flow, and started again", func() error { return errors.Join(d.restart(), w.running("shop")) }},
	} {
		wrote := make(chan error, 1)
		go func() { wrote <- d.write() }()
		if phase.name != "" {
			d.check(phase.name, phase.do)
		}
		if err := <-wrote; err != nil {
			d.failed("the application", err)
			return
		}
	}
	d.arrived()
	d.check("Connect's own topics are compacted, and hold its state", d.connectState)
}

// connector is the connector's configuration.
func (d *debezium) connector() map[string]string {
	host, port, _ := net.SplitHostPort(d.pg.Addr())
	return map[string]string{
		"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": "1", "plugin.name": "pgoutput",
		"database.hostname": host, "database.port": port, "database.user": "postgres", "database.password": "none", "database.dbname": d.db,
		"topic.prefix": "shop", "slot.name": "debezium_" + d.db, "publication.name": "debezium_" + d.db, "publication.autocreate.mode": "filtered", "table.include.list": "public.outbox",
		"snapshot.mode": "no_data", "tombstones.on.delete": "false", "poll.interval.ms": "50", "max.batch.size": "256", "max.queue.size": "1024",
		"transforms": "outbox", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
		"transforms.outbox.table.fields.additional.placement": "type:header:eventType",
	}
}

// write is the application: transactions of a few events each, some of which are rolled back.
func (d *debezium) write() error {
	ctx := d.t.Context()
	conn, err := pgx.Connect(ctx, d.pg.DSN(d.db))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for i := range debeziumTxns {
		if err := d.transaction(ctx, conn, i%10 != 7); err != nil {
			return err
		}
	}
	return nil
}

func (d *debezium) transaction(ctx context.Context, conn *pgx.Conn, commit bool) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing once it is committed
	fresh := map[string]outboxEvent{}
	for range 1 + d.random.IntN(4) {
		kind := []string{"order", "customer"}[d.random.IntN(2)]
		e := outboxEvent{topic: "outbox.event." + kind, key: fmt.Sprintf("%s-%d", kind, d.random.IntN(20)), place: d.next}
		e.payload = fmt.Sprintf(`{"place": %d, "note": "für %s"}`, e.place, e.key)
		d.next++
		var id string
		if err := tx.QueryRow(ctx, `insert into outbox values (gen_random_uuid(), $1, $2, 'Happened', $3) returning id::text`, kind, e.key, e.payload).Scan(&id); err != nil {
			return err
		}
		fresh[id] = e
	}
	if !commit {
		return tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	maps.Copy(d.events, fresh)
	return nil
}

// arrived reads the topics until each event has come, and to their ends, and checks what came.
func (d *debezium) arrived() {
	d.t.Helper()
	got, err := d.read()
	if err != nil {
		d.failed("every event in the log", err)
		return
	}
	seen, last, twice := map[string]bool{}, map[string]int{}, 0
	var wrong, disorder []error
	for _, r := range got {
		id := header(r, "id")
		e, ok := d.events[id]
		if seen[id] {
			twice++
			continue
		}
		seen[id] = true
		switch {
		case !ok:
			wrong = append(wrong, fmt.Errorf("%s/%d offset %d: id %q was never committed", r.Topic, r.Partition, r.Offset, id))
			continue
		case r.Topic != e.topic || string(r.Key) != e.key || header(r, "eventType") != "Happened" || !sameJSON(string(r.Value), e.payload):
			wrong = append(wrong, fmt.Errorf("%s offset %d: key %q value %q headers %v, want %+v", r.Topic, r.Offset, r.Key, r.Value, r.Headers, e))
		case last[e.key] > e.place:
			disorder = append(disorder, fmt.Errorf("%s: place %d after %d", e.key, e.place, last[e.key]))
		}
		last[e.key] = e.place
	}
	d.t.Logf("%d events committed, %d distinct in the log, %d came again", len(d.events), len(seen), twice)
	d.check(fmt.Sprintf("each of %d events in the log, none that was rolled back", len(d.events)), func() error {
		if missing := len(d.events) - len(seen); missing != 0 {
			wrong = append(wrong, fmt.Errorf("%d of %d are missing", missing, len(d.events)))
		}
		return errors.Join(wrong[:min(5, len(wrong))]...)
	})
	d.check("the events of a key in the order of their commits", func() error { return errors.Join(disorder[:min(5, len(disorder))]...) })
	if d.once {
		d.check("no event twice at read_committed", func() error {
			if twice > 0 {
				return fmt.Errorf("%d came again", twice)
			}
			return nil
		})
	}
}

// read returns the records of the event topics, up to their ends as of when each event was seen.
func (d *debezium) read() ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), connectMax)
	defer cancel()
	topics := map[string]bool{}
	for _, e := range d.events {
		topics[e.topic] = true
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(d.broker.Kafka), kgo.ConsumeTopics(slices.Collect(maps.Keys(topics))...), kgo.FetchIsolationLevel(d.isolation))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var got []*kgo.Record
	missing := maps.Clone(d.events)
	quiet := 0
	for len(missing) > 0 || quiet < 3 { // and what comes after the last one
		poll, stop := context.WithTimeout(ctx, 2*time.Second)
		fs := cl.PollFetches(poll)
		stop()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%d of %d events did not come", len(missing), len(d.events))
		}
		quiet++
		for r := range fs.RecordsAll() {
			got, quiet = append(got, r), 0
			delete(missing, header(r, "id"))
		}
	}
	return got, nil
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// connectState checks the topics in which Connect keeps its state, and that the connector's is there.
func (d *debezium) connectState() error {
	ctx, cancel := d.within()
	defer cancel()
	names := slices.Sorted(maps.Keys(connectTopics))
	topics, err := d.admin.ListTopics(ctx, names...)
	if err != nil {
		return err
	}
	configs, err := d.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		if got := len(topics[name].Partitions); got != connectTopics[name] {
			return fmt.Errorf("%s has %d partitions, want %d", name, got, connectTopics[name])
		}
		c, err := configs.On(name, nil)
		if err != nil || !slices.ContainsFunc(c.Configs, func(c kadm.Config) bool { return c.Key == "cleanup.policy" && c.MaybeValue() == "compact" }) {
			return fmt.Errorf("%s is not compacted: %+v %w", name, c, err)
		}
	}
	ends, err := d.admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		n := int64(0)
		for _, o := range ends[name] {
			n += o.Offset
		}
		if n == 0 {
			return fmt.Errorf("%s is empty", name)
		}
	}
	return nil
}
