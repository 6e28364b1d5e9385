package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/migrate"
	"github.com/outrelay/outrelay/relay/relaytest"
	"github.com/outrelay/outrelay/sinks"
)

// store is a sink in memory that holds offsets.
type store struct {
	sinks.OffsetStore // nil: what the migration does not call
	mu                sync.Mutex
	rows              []sinks.OffsetRow
	before            func() // called once, before rows are moved
}

func (s *store) Close() error { return nil }

func (s *store) Offsets(_ context.Context, group string) ([]sinks.OffsetRow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []sinks.OffsetRow
	for _, r := range s.rows {
		if r.Group == group {
			out = append(out, r)
		}
	}
	return out, nil
}

func (s *store) Relocate(_ context.Context, group string, rs []sinks.Relocation) error {
	if fn := s.before; fn != nil {
		s.before = nil
		fn()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := slices.Clone(s.rows)
	for _, r := range rs {
		i := slices.IndexFunc(rows, func(row sinks.OffsetRow) bool {
			return row.Group == group && row.Partition == r.From && row.Next == r.Next
		})
		if i < 0 {
			return fmt.Errorf("%w: %w", sinks.ErrConflict, outrelay.ErrTransient)
		}
		rows[i].Partition, rows[i].Next, rows[i].Epoch = r.To, r.NextThen, rows[i].Epoch+1
	}
	s.rows = rows
	return nil
}

// world is two logs. The old one holds what a relay has written, what others have, and offsets of groups.
type world struct {
	t        *testing.T
	from, to kafka.Options
	old, new *kgo.Client
	bench    *relaytest.Bench
	sink     *store
	options  migrate.Options
	read     map[place][]*kgo.Record
}

// place is a partition of one of the logs.
type place struct {
	cl    *kgo.Client
	topic string
	p     int32
}

func client(t *testing.T, o kafka.Options, extra ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kafka.NewClient(o, append([]kgo.Opt{kgo.RecordPartitioner(kafka.Partitioner())}, extra...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// ownLog starts outrelay's own broker.
func ownLog(t *testing.T) kafka.Options {
	t.Helper()
	return kafka.Options{Seeds: []string{brokertest.New(t).TCPAddr()}}
}

func newWorld(t *testing.T, from, to kafka.Options) *world {
	t.Helper()
	w := &world{t: t, from: from, to: to, old: client(t, from), new: client(t, to), sink: &store{}, read: map[place][]*kgo.Record{}}
	w.bench = relaytest.New(t, from)
	w.bench.Options.IndexEvery = time.Nanosecond
	w.options = migrate.Options{From: from, To: to, ChunkRecords: 7,
		Groups: []migrate.Group{{Name: "totals", Open: func(context.Context) (sinks.Relocator, error) { return w.sink, nil }}}}
	if os.Getenv("MIGRATE_TEST_LOG") != "" {
		w.options.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// relay lets a relay write n transactions into a log, and stops it.
func (w *world) relay(log kafka.Options, n int) {
	w.t.Helper()
	w.bench.Options.Kafka = log
	w.bench.Client = w.old
	if log.Seeds[0] == w.to.Seeds[0] {
		w.bench.Client = w.new
	}
	_, stop := w.bench.Start()
	for i := range n {
		if i%5 == 0 {
			w.bench.Wait("what came before is relayed", func() bool { return i == 0 || w.bench.Drained() }) // in several Kafka transactions
		}
		var txn []relaytest.Row
		for range 1 + rand.IntN(3) {
			k := len(w.bench.DB.Txns())*10 + len(txn)
			txn = append(txn, relaytest.Order(strconv.Itoa(k), fmt.Sprint("k", rand.IntN(9))))
		}
		w.bench.DB.Commit(txn)
	}
	w.bench.Wait("all is relayed", w.bench.Drained)
	w.must(stop())
}

// others writes what no relay would: records of all shapes, ages and codecs, in transactions that are committed or aborted, and without one.
func (w *world) others(topic string, partitions int32, configs map[string]string) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := kafka.EnsureTopic(ctx, w.old, topic, partitions, configs)
	w.must(err)
	now := time.Now()
	ages := []time.Duration{0, time.Hour, 400 * 24 * time.Hour}
	blobs := [][]byte{nil, {}, []byte("x"), bytes.Repeat([]byte("yz"), 500)}
	n := 0
	record := func() *kgo.Record {
		n++
		r := &kgo.Record{Topic: topic, Partition: rand.Int32N(partitions), Timestamp: now.Add(-ages[n%3]).Truncate(time.Millisecond), Key: []byte(fmt.Sprint(rand.IntN(20))), Value: blobs[n/2%4]}
		if configs["cleanup.policy"] != "compact" {
			r.Key = blobs[n%4]
		}
		if n%3 == 0 {
			r.Headers = []kgo.RecordHeader{{Key: "a", Value: nil}, {Key: "", Value: []byte{}}, {Key: "a", Value: []byte{0, 255}}}
		}
		return r
	}
	for i, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl := client(w.t, w.from, kgo.ProducerBatchCompression(codec), kgo.TransactionalID(fmt.Sprint(topic, "-", i)))
		for j := range 4 {
			w.must(cl.BeginTransaction())
			var recs []*kgo.Record
			for range 1 + rand.IntN(12) {
				recs = append(recs, record())
			}
			w.must(cl.ProduceSync(ctx, recs...).FirstErr())
			w.must(cl.EndTransaction(ctx, kgo.TransactionEndTry(j != 2)))
		}
	}
	for range 20 {
		w.must(w.old.ProduceSync(ctx, record()).FirstErr())
	}
}

// at returns the committed records of a partition, by offset.
func (w *world) at(cl *kgo.Client, topic string, p int32) []*kgo.Record {
	w.t.Helper()
	ends, err := kafka.StableOffsets(w.t.Context(), cl, topic)
	w.must(err)
	var out []*kgo.Record
	w.must(kafka.ReadCommitted(w.t.Context(), cl, topic, p, 0, ends[p], func(r *kgo.Record) error {
		out = append(out, r)
		return nil
	}))
	return out
}

// text is all of a record that must go over.
func text(r *kgo.Record) string {
	s := fmt.Sprintf("%d %t %q %t %q", r.Timestamp.UnixMilli(), r.Key == nil, r.Key, r.Value == nil, r.Value)
	for _, h := range r.Headers {
		s += fmt.Sprintf(" %q=%t %q", h.Key, h.Value == nil, h.Value)
	}
	return s
}

// same fails unless both logs hold the same records of a topic, and returns how many.
func (w *world) same(topic string, partitions int32) (n int) {
	w.t.Helper()
	for p := range partitions {
		old, then := w.at(w.old, topic, p), w.at(w.new, topic, p)
		if len(old) != len(then) {
			w.t.Errorf("%s/%d: %d records, then %d", topic, p, len(old), len(then))
			continue
		}
		for i := range old {
			if text(old[i]) != text(then[i]) {
				w.t.Errorf("%s/%d: offset %d is %s, then at %d %s", topic, p, old[i].Offset, text(old[i]), then[i].Offset, text(then[i]))
			}
		}
		n += len(old)
	}
	return n
}

// goesOn fails unless who has read all below next in the old log reads the same, and all of it, from then in the new one.
func (w *world) goesOn(what, topic string, p int32, next, then int64) {
	w.t.Helper()
	left := func(cl *kgo.Client, from int64) (n int) {
		k := place{cl, topic, p}
		if w.read[k] == nil { // both logs rest by now
			w.read[k] = w.at(cl, topic, p)
		}
		for _, r := range w.read[k] {
			if r.Offset >= from {
				n++
			}
		}
		return n
	}
	if a, b := left(w.old, next), left(w.new, then); a != b {
		w.t.Errorf("%s: %d records of %s/%d are left from %d, %d from %d in the new log", what, a, topic, p, next, b, then)
	}
}

// configs returns the configs that a topic itself has.
func (w *world) configs(cl *kgo.Client, topic string) map[string]string {
	w.t.Helper()
	rcs, err := kadm.NewClient(cl).DescribeTopicConfigs(w.t.Context(), topic)
	w.must(err)
	out := map[string]string{}
	for _, c := range rcs[0].Configs {
		if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
			out[c.Key] = c.MaybeValue()
		}
	}
	return out
}

// row adds a row to the sink.
func (w *world) row(topic string, p int32, next int64) {
	w.t.Helper()
	id, err := kafka.ClusterID(w.t.Context(), w.old)
	w.must(err)
	st, err := kafka.Topic(w.t.Context(), w.old, topic)
	w.must(err)
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	w.sink.rows = append(w.sink.rows, sinks.OffsetRow{Group: "totals", Epoch: 5, Next: next, Partition: sinks.Partition{LogID: id, TopicID: st.ID, Topic: topic, Partition: p}})
}

// kafkaGroup commits offsets of a group that is not outrelay's.
func (w *world) kafkaGroup(name, topic string, offsets map[int32]int64) {
	w.t.Helper()
	os := kadm.Offsets{}
	for p, o := range offsets {
		os.AddOffset(topic, p, o, -1)
	}
	w.must(kadm.NewClient(w.old).CommitAllOffsets(w.t.Context(), name, os))
}

func (w *world) offsetsOf(cl *kgo.Client, group, topic string) map[int32]int64 {
	w.t.Helper()
	rs, err := kadm.NewClient(cl).FetchOffsets(w.t.Context(), group)
	w.must(err)
	out := map[int32]int64{}
	for p, o := range rs[topic] {
		out[p] = o.At
	}
	return out
}

// code returns the code of an error, "" where it has none.
func code(err error) string {
	var e *outrelay.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
