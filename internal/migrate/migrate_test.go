package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/migrate"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/relay"
)

func TestRun_betweenOwnLogs(t *testing.T) {
	t.Parallel()
	from, to := ownLog(t), ownLog(t)
	to.Prefix = "shop." // outrelay's own topics have other names there
	testMoves(t, from, to)
}

func TestRun_toKafkaAndBack(t *testing.T) {
	t.Parallel()
	k := testenv.StartKafka(t, testenv.KafkaOptions{Config: map[string]string{"log.message.timestamp.before.max.ms": "3600000", "log.retention.hours": "1", "log.retention.check.interval.ms": "500"}})
	ext := kafka.Options{Seeds: []string{k.Addr()}}
	own, back := ownLog(t), ownLog(t)
	testMoves(t, own, ext)
	// What came from one log goes on to the next.
	w := newWorld(t, ext, back)
	r, err := migrate.Run(t.Context(), w.options)
	if err != nil || r.State != migrate.StateDone {
		t.Fatalf("back: %+v, %v", r, err)
	}
	w.old = client(t, own) // Kafka's retention has taken the old records of some topics by now
	w.same("plain", 3)
}

// testMoves fills the old log, breaks the migration off again and again, and looks at what came of it.
func testMoves(t *testing.T, from, to kafka.Options) {
	w := newWorld(t, from, to)
	w.relay(from, 60)
	configs := map[string]map[string]string{
		"plain": {"retention.ms": "-1", "max.message.bytes": "2000000"}, "state": {"cleanup.policy": "compact"},
		"stamped": {"message.timestamp.type": "LogAppendTime", "flush.messages": "7"}, // the time of a record is the old log's
	}
	w.others("plain", 3, configs["plain"])
	w.others("state", 2, configs["state"])
	w.others("stamped", 1, configs["stamped"])
	large := &kgo.Record{Topic: "plain", Partition: 1, Value: make([]byte, 1_500_000)}
	w.must(client(t, from, kgo.ProducerBatchMaxBytes(2_000_000)).ProduceSync(t.Context(), large).FirstErr())
	ends, err := kafka.HighWatermarks(t.Context(), w.old, orders)
	w.must(err)
	for p, end := range ends {
		w.row(orders, p, end*int64(p)/3)
	}
	w.row("plain", 0, -1)
	rows := w.sink.rows
	plain, err := kafka.HighWatermarks(t.Context(), w.old, "plain")
	w.must(err)
	for i := range 12 {
		w.kafkaGroup(fmt.Sprint("group-", i), "plain", map[int32]int64{0: plain[0] * int64(i) / 11, 1: plain[1] * int64(i) / 11, 2: plain[2] * int64(i) / 11})
	}

	// Ahead: the relay goes on, nothing is stopped, nothing moves.
	ahead := w.options
	ahead.Ahead = true
	if r, err := migrate.Run(t.Context(), ahead); err != nil || r.State != migrate.StateAhead {
		t.Fatalf("ahead: %+v, %v", r, err)
	}
	w.relay(from, 40)

	w.breakOff(from, to)
	r, err := migrate.Run(t.Context(), w.options)
	if err != nil || r.State != migrate.StateDone {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := w.same(orders, 4) + w.same("plain", 3) + w.same("state", 2) + w.same("stamped", 1); n < 200 {
		t.Errorf("only %d records were moved", n)
	}
	for topic, want := range configs {
		if got := w.configs(w.new, topic); !maps.Equal(got, want) {
			t.Errorf("%s has the configs %v, and had %v", topic, got, want)
		}
	}
	for i, row := range w.sink.rows {
		was := rows[i]
		if row.Partition.LogID == was.Partition.LogID || row.Epoch != was.Epoch+1 || was.Next < 0 && row.Next != was.Next {
			t.Errorf("row %+v, then %+v", was, row)
		}
		if was.Next >= 0 {
			w.goesOn("the managed group", row.Partition.Topic, row.Partition.Partition, was.Next, row.Next)
			if got := w.offsetsOf(w.new, "totals", row.Partition.Topic)[row.Partition.Partition]; got != row.Next {
				t.Errorf("Kafka's offset of the managed group is %d, not %d", got, row.Next)
			}
		}
	}
	for i := range 12 {
		name := fmt.Sprint("group-", i)
		then := w.offsetsOf(w.new, name, "plain")
		for p, next := range w.offsetsOf(w.old, name, "plain") {
			w.goesOn(name, "plain", p, next, then[p])
		}
	}
	w.checkIndex()
	if again, err := migrate.Run(t.Context(), w.options); err != nil || again.State != migrate.StateAlready {
		t.Errorf("run again: %+v, %v", again, err)
	}
	// The old log is left, and the new one goes on.
	if _, _, err := relay.ReadPosition(t.Context(), w.old, from.PositionsTopic(), "shop"); code(err) != "log-migrated" {
		t.Errorf("the old log: %v", err)
	}
	w.relay(to, 30)
	w.bench.CheckExactlyOnce()
}

// breakOff ends the migration after every few transactions, wherever it is then.
func (w *world) breakOff(from, to kafka.Options) {
	w.t.Helper()
	for i := 0; ; i++ {
		ctx, cancel := context.WithCancel(w.t.Context())
		n := 0
		o := w.options
		o.Progress = func(string, int64, int64) {
			if n++; n > 2+i%5 {
				cancel()
			}
		}
		_, err := migrate.Run(ctx, o)
		cancel()
		if err == nil || i >= 12 {
			return
		}
		if !errors.Is(err, context.Canceled) {
			w.t.Fatalf("broken off: %v", err)
		}
	}
}

// checkIndex looks at each pair of the new index: what it says is never above the place of the same record, and exact where the copy was whole.
func (w *world) checkIndex() {
	w.t.Helper()
	ids, err := kafka.TopicIDs(w.t.Context(), w.new, orders)
	w.must(err)
	n := 0
	for p := range int32(kafka.IndexPartitions) {
		old, then := w.at(w.old, w.from.IndexTopic(), p), w.at(w.new, w.to.IndexTopic(), p)
		if len(old) != len(then) {
			w.t.Errorf("index %d: %d records, then %d", p, len(old), len(then))
			continue
		}
		for i := range old {
			a, err := relay.ParseIndex(old[i].Value)
			w.must(err)
			b, err := relay.ParseIndex(then[i].Value)
			w.must(err)
			if a.Position != b.Position || a.Full != b.Full || len(a.Next) != len(b.Next) {
				w.t.Errorf("index: %+v, then %+v", a, b)
			}
			for tp, next := range a.Next {
				w.goesOn("the index", tp.Topic, tp.Partition, next, b.Next[tp])
				if b.IDs[tp.Topic] != ids[tp.Topic] {
					w.t.Errorf("index: topic id %x, not %x", b.IDs[tp.Topic], ids[tp.Topic])
				}
				n++
			}
		}
	}
	if n == 0 {
		w.t.Error("the index is empty: nothing was looked at")
	}
}
