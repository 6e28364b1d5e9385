package migrate_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/migrate"
	"github.com/outrelay/outrelay/relay"
)

const orders = "outbox.event.order"

// small is a world with little in it.
func small(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, ownLog(t), ownLog(t))
	w.relay(w.from, 10)
	return w
}

func (w *world) deleteBelow(cl *kgo.Client, topic string, p int32, offset int64) {
	w.t.Helper()
	var os kadm.Offsets = kadm.Offsets{}
	os.AddOffset(topic, p, offset, -1)
	rs, err := kadm.NewClient(cl).DeleteRecords(w.t.Context(), os)
	w.must(err)
	w.must(rs.Error())
}

// longest returns the partition of the orders with most offsets in the old log, and its end.
func (w *world) longest() (p int32, end int64) {
	w.t.Helper()
	ends, err := kafka.HighWatermarks(w.t.Context(), w.old, orders)
	w.must(err)
	for n, e := range ends {
		if e > end {
			p, end = n, e
		}
	}
	return p, end
}

func (w *world) ahead() {
	w.t.Helper()
	o := w.options
	o.Ahead = true
	_, err := migrate.Run(w.t.Context(), o)
	w.must(err)
}

// TestRun_refuses: what would lose, repeat or mix something ends it with a name, before anything has moved; a dry run says the same and changes nothing.
func TestRun_refuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*world)
		code    string
		class   error
		late    bool // only the run itself can tell
	}{
		"the same log": {func(w *world) { w.options.To = w.from }, "same-log", outrelay.ErrEnvironment, true},
		"an empty log": {func(w *world) { w.options.From, w.options.To = w.to, w.from }, "nothing-there", outrelay.ErrEnvironment, false},
		"a member of a group": {func(w *world) {
			cl := client(w.t, w.from, kgo.ConsumerGroup("totals"), kgo.ConsumeTopics(orders))
			cl.PollFetches(w.t.Context())
		}, "members", outrelay.ErrEnvironment, false},
		"records of somebody else": {func(w *world) {
			_, err := kafka.EnsureTopic(w.t.Context(), w.new, orders, 4, nil)
			w.must(err)
			w.must(w.new.ProduceSync(w.t.Context(), &kgo.Record{Topic: orders, Partition: 2, Value: []byte("x")}).FirstErr())
		}, "not-ours", outrelay.ErrEnvironment, false},
		"another number of partitions": {func(w *world) {
			_, err := kafka.EnsureTopic(w.t.Context(), w.new, orders, 5, nil)
			w.must(err)
		}, "partitions-differ", outrelay.ErrEnvironment, false},
		"the new log knows the source": {func(w *world) {
			w.must(relay.EnsureInternalTopics(w.t.Context(), w.to, w.new, nil))
			w.must(relay.Arrive(w.t.Context(), w.to, relay.PositionRecord{Position: outrelay.Position{Source: "shop", Token: `{"n":1}`}, Place: "1"}))
		}, "position-there", outrelay.ErrDataHalt, false},
		"the source has moved elsewhere": {func(w *world) {
			_, _, err := relay.Depart(w.t.Context(), w.from, "shop", "log-3", time.Now())
			w.must(err)
		}, "log-migrated", outrelay.ErrDataHalt, false},
		"a group below the log's start": {func(w *world) {
			p, end := w.longest()
			w.row(orders, p, end-2)
			w.deleteBelow(w.old, orders, p, end-1)
		}, "offset-below-log", outrelay.ErrDataHalt, false},
		"a group beyond the log's end": {func(w *world) {
			p, end := w.longest()
			w.row(orders, p, end+1)
		}, "offset-beyond-log", outrelay.ErrDataHalt, false},
		"a group of another log": {func(w *world) {
			w.row(orders, 0, 0)
			w.sink.rows[0].Partition.LogID = "log-3"
		}, "offset-of-another-log", outrelay.ErrDataHalt, false},
		"an open transaction": {func(w *world) {
			cl := client(w.t, w.from, kgo.TransactionalID("somebody"))
			w.must(cl.BeginTransaction())
			w.must(cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: orders, Partition: 1}).FirstErr())
		}, "open-transaction", outrelay.ErrEnvironment, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := small(t)
			c.prepare(w)
			rows := w.sink.rows
			if !c.late {
				dry := w.options
				dry.DryRun = true
				if r, err := migrate.Run(t.Context(), dry); err != nil || len(r.Problems) != 1 {
					t.Errorf("a dry run says %+v, %v", r, err)
				}
			}
			r, err := migrate.Run(t.Context(), w.options)
			if code(err) != c.code || !errors.Is(err, c.class) || r.State != migrate.StateUnfinished {
				t.Errorf("%v (%s), want %s; the report says %s", err, code(err), c.code, r.State)
			}
			if len(rows) > 0 && w.sink.rows[0] != rows[0] {
				t.Errorf("a row has moved: %+v", w.sink.rows)
			}
		})
	}
}

// TestRun_topicThatStands: a topic that somebody has made in the new log gets back the configs that he gave it.
func TestRun_topicThatStands(t *testing.T) {
	t.Parallel()
	w := small(t)
	want := map[string]string{"retention.ms": "86400000", "cleanup.policy": "delete"}
	_, err := kafka.EnsureTopic(t.Context(), w.new, orders, 4, want)
	w.must(err)
	w.ahead()
	if got := w.configs(w.new, orders)["retention.ms"]; got != "-1" {
		t.Errorf("while it is filled retention.ms is %s", got)
	}
	if r, err := migrate.Run(t.Context(), w.options); err != nil || r.State != migrate.StateDone {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := w.configs(w.new, orders); !maps.Equal(got, want) {
		t.Errorf("it has the configs %v, and had %v", got, want)
	}
}

// TestRun_comparesFirst: a copy that is not what was copied ends it before a group or a source has moved.
func TestRun_comparesFirst(t *testing.T) {
	t.Parallel()
	w := small(t)
	p, end := w.longest()
	w.row(orders, p, end-1)
	w.ahead()
	w.deleteBelow(w.new, orders, p, 1)
	_, err := migrate.Run(t.Context(), w.options)
	if code(err) != "copy-differs" || !errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("%v", err)
	}
	id, err := kafka.ClusterID(t.Context(), w.old)
	w.must(err)
	if w.sink.rows[0].Partition.LogID != id {
		t.Errorf("a row has moved: %+v", w.sink.rows)
	}
	if there, err := relay.ReadPositions(t.Context(), w.new, w.to.PositionsTopic()); err != nil || len(there) != 0 {
		t.Errorf("a source has arrived: %+v, %v", there, err)
	}
	// The way out that the error names.
	_, err = kadm.NewClient(w.new).DeleteTopic(t.Context(), orders)
	w.must(err)
	if r, err := migrate.Run(t.Context(), w.options); err != nil || r.State != migrate.StateDone {
		t.Errorf("%+v, %v", r, err)
	}
	w.same(orders, 4)
}

// TestRun_retentionAhead: what the old log has deleted since it was copied is in the new one, and is compared no more.
func TestRun_retentionAhead(t *testing.T) {
	t.Parallel()
	w := small(t)
	p, end := w.longest()
	w.ahead()
	was := len(w.at(w.new, orders, p))
	w.row(orders, p, 1)
	w.deleteBelow(w.old, orders, p, end-1)
	if r, err := migrate.Run(t.Context(), w.options); err != nil || r.State != migrate.StateDone {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := len(w.at(w.new, orders, p)); n != was || n < 3 {
		t.Errorf("%d records, %d before the old log lost them", n, was)
	}
	if next := w.sink.rows[0].Next; next < 0 || next > 1 {
		t.Errorf("the group goes on at %d", next)
	}
}

// TestRun_lostBeforeItWasCopied: a group that has not read what no log holds any more does not go on without a word.
func TestRun_lostBeforeItWasCopied(t *testing.T) {
	t.Parallel()
	w := small(t)
	const topic = "plain"
	_, err := kafka.EnsureTopic(t.Context(), w.old, topic, 1, nil)
	w.must(err)
	ten := func() {
		for range 10 {
			w.must(w.old.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr())
		}
	}
	ten()
	w.ahead()
	ten()
	w.row(topic, 0, 12)
	w.deleteBelow(w.old, topic, 0, 13)
	_, err = migrate.Run(t.Context(), w.options)
	if code(err) != "offset-below-log" {
		t.Errorf("%v", err)
	}
}

// TestRun_ownerAtWork: a row that moves under the migration is read again.
func TestRun_ownerAtWork(t *testing.T) {
	t.Parallel()
	w := small(t)
	p, end := w.longest()
	w.row(orders, p, 0)
	w.sink.before = func() { w.sink.rows[0].Next = end }
	if r, err := migrate.Run(t.Context(), w.options); err != nil || r.State != migrate.StateDone {
		t.Fatalf("%+v, %v", r, err)
	}
	w.goesOn("the group", orders, p, end, w.sink.rows[0].Next)
}

// TestRun_twoAtOnce: the later one fences the earlier, and nothing is copied twice.
func TestRun_twoAtOnce(t *testing.T) {
	t.Parallel()
	w := small(t)
	w.options.ChunkRecords = 1
	once := false
	early := w.options
	early.Progress = func(string, int64, int64) {
		if once {
			return
		}
		once = true
		if r, err := migrate.Run(t.Context(), w.options); err != nil || r.State != migrate.StateDone {
			t.Errorf("the later one: %+v, %v", r, err)
		}
	}
	if _, err := migrate.Run(t.Context(), early); code(err) != "migration-taken-over" || !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the earlier one: %v", err)
	}
	w.same(orders, 4)
}

func TestAbandon(t *testing.T) {
	t.Parallel()
	w := small(t)
	w.row(orders, 0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	o := w.options
	o.Progress = func(string, int64, int64) { cancel() }
	if _, err := migrate.Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, _, err := relay.ReadPosition(t.Context(), w.old, w.from.PositionsTopic(), "shop"); code(err) != "log-migrated" {
		t.Errorf("the source has not left: %v", err)
	}
	if r, err := migrate.Abandon(t.Context(), w.options); err != nil || r.State != migrate.StateAbandoned || len(r.Sources) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	w.relay(w.from, 5) // it goes on
	w.bench.CheckExactlyOnce()
	r, err := migrate.Run(t.Context(), w.options)
	if err != nil || r.State != migrate.StateDone {
		t.Fatalf("%+v, %v", r, err)
	}
	w.same(orders, 4)
	lost := w.options
	lost.Lost, lost.To = r.To, kafka.Options{}
	if _, err := migrate.Abandon(t.Context(), lost); code(err) != "offsets-moved" {
		t.Errorf("given up when a row had moved, without the new log: %v", err)
	}
	if _, err := migrate.Abandon(t.Context(), w.options); code(err) != "migrated" {
		t.Errorf("given up when it was done: %v", err)
	}
}

// TestAbandon_lostLog: a new log that is gone for good must not keep the old one from going on.
func TestAbandon_lostLog(t *testing.T) {
	t.Parallel()
	w := small(t)
	_, _, err := relay.Depart(t.Context(), w.from, "shop", "log-3", time.Now())
	w.must(err)
	w.options.Lost, w.options.To = "log-3", kafka.Options{}
	if r, err := migrate.Abandon(t.Context(), w.options); err != nil || r.State != migrate.StateAbandoned || len(r.Sources) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	w.relay(w.from, 5)
	w.bench.CheckExactlyOnce()
}
