package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sources"
)

// row is one outbox row of the fake database.
type row struct{ id, topic, key, typ, payload string }

// database is a scripted source: committed transactions in order, yielded from any position, with errors where a test wants them.
type database struct {
	schema *outrelay.Schema

	mu        sync.Mutex
	txns      [][]row
	more      chan struct{} // closed and replaced when txns grows
	inited    bool
	confirmed []outrelay.Position
	partRows  int          // rows in a part; 0: whole transactions
	fail      func() error // asked before each Next returns
	opens     int
	onConfirm func(outrelay.Position)
	bare      bool // an idle source moves on: a bare position after each transaction
}

type place struct {
	N    int `json:"n"`              // transactions that are in
	Rows int `json:"rows,omitempty"` // rows of the next one that are in
}

func position(p place) outrelay.Position {
	b, _ := json.Marshal(p)
	return outrelay.Position{Source: "shop", Token: string(b)}
}

func placeOf(t testing.TB, p outrelay.Position) place {
	var out place
	if err := json.Unmarshal([]byte(p.Token), &out); err != nil {
		t.Errorf("token %q: %v", p.Token, err)
	}
	return out
}

func newDatabase() *database {
	return &database{more: make(chan struct{}), schema: outrelay.NewSchema("public.outbox",
		[]string{"id", "aggregatetype", "aggregateid", "type", "payload"}, []string{"uuid", "text", "text", "text", "jsonb"})}
}

func (d *database) commit(txns ...[]row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.txns = append(d.txns, txns...)
	close(d.more)
	d.more = make(chan struct{})
}

func (d *database) Init(context.Context) (outrelay.Position, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inited {
		return outrelay.Position{}, &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "slot-without-position", Cause: "initialised already"}
	}
	d.inited = true
	return position(place{}), nil
}

func (d *database) Open(_ context.Context, after outrelay.Position) (sources.Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opens++
	var p place
	if err := json.Unmarshal([]byte(after.Token), &p); err != nil {
		return nil, err
	}
	return &stream{d: d, at: p, done: make(chan struct{})}, nil
}

func (d *database) Status(context.Context, outrelay.Position) (sources.Status, error) {
	return sources.Status{}, nil
}

func (d *database) lastConfirmed() (outrelay.Position, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.confirmed) == 0 {
		return outrelay.Position{}, 0
	}
	return d.confirmed[len(d.confirmed)-1], len(d.confirmed)
}

type stream struct {
	d    *database
	at   place
	part int
	said int // bare positions
	done chan struct{}
	once sync.Once
}

func (s *stream) Close() error { s.once.Do(func() { close(s.done) }); return nil }

func (s *stream) Confirm(_ context.Context, p outrelay.Position) error {
	s.d.mu.Lock()
	s.d.confirmed = append(s.d.confirmed, p)
	hook := s.d.onConfirm
	s.d.mu.Unlock()
	if hook != nil {
		hook(p)
	}
	return nil
}

func (s *stream) Next(ctx context.Context) (outrelay.Txn, error) {
	for {
		s.d.mu.Lock()
		if s.d.fail != nil {
			if err := s.d.fail(); err != nil {
				s.d.mu.Unlock()
				return outrelay.Txn{}, err
			}
		}
		if s.at.N < len(s.d.txns) {
			t := s.next(s.d.txns[s.at.N])
			s.d.mu.Unlock()
			return t, nil
		}
		if s.d.bare && s.said != s.at.N {
			s.said = s.at.N
			s.d.mu.Unlock()
			return outrelay.Txn{Position: position(s.at), Place: fmt.Sprint(s.at.N), Last: true}, nil
		}
		more := s.d.more
		s.d.mu.Unlock()
		select {
		case <-more:
		case <-s.done:
			return outrelay.Txn{}, errors.New("stream closed")
		case <-ctx.Done():
			return outrelay.Txn{}, ctx.Err()
		}
	}
}

func (s *stream) next(rows []row) outrelay.Txn {
	from, limit := s.at.Rows, len(rows)
	if s.d.partRows > 0 && limit-from > s.d.partRows {
		limit = from + s.d.partRows
	}
	t := outrelay.Txn{Place: fmt.Sprintf("0/%X", s.at.N+1), CommittedAt: time.UnixMilli(1_700_000_000_000).Add(time.Duration(s.at.N) * time.Second), Part: s.part, Last: limit == len(rows)}
	for i, r := range rows[from:limit] {
		t.Events = append(t.Events, outrelay.Event{Schema: s.d.schema, Ordinal: from + i,
			Values: [][]byte{null(r.id), null(r.topic), null(r.key), null(r.typ), null(r.payload)}})
	}
	if t.Last {
		s.at, s.part = place{N: s.at.N + 1}, 0
	} else {
		s.at.Rows = limit
		s.part++
	}
	t.Position = position(s.at)
	return t
}

// null makes "NULL" a NULL.
func null(s string) []byte {
	if s == "NULL" {
		return nil
	}
	return []byte(s)
}

// bench is a log and a database with a relay between them.
type bench struct {
	t   *testing.T
	log *kfake.Cluster
	db  *database
	o   relay.Options
	cl  *kgo.Client

	relays []*relay.Relay
}

func newBench(t *testing.T) *bench {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := &bench{t: t, log: c, db: newDatabase()}
	b.o = relay.Options{Source: "shop", From: b.db, Kafka: kafka.Options{Seeds: c.ListenAddrs()}, Partitions: 4,
		Backoff: backoff.Policy{Initial: time.Millisecond, Max: 5 * time.Millisecond}}
	if os.Getenv("RELAY_TEST_LOG") != "" {
		b.o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	if b.cl, err = kafka.NewClient(b.o.Kafka); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.cl.Close)
	return b
}

// start runs a relay; stop ends it and returns what Run returned.
func (b *bench) start() (r *relay.Relay, stop func() error) {
	b.t.Helper()
	r, err := relay.New(b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.relays = append(b.relays, r)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	var out error
	stop = func() error {
		once.Do(func() {
			cancel()
			out = <-done
		})
		return out
	}
	b.t.Cleanup(func() { _ = stop() })
	return r, stop
}

// wait polls until ok, or fails the test.
func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			for i, r := range b.relays {
				b.t.Logf("relay %d: %+v", i, r.Status())
			}
			b.t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}

// drained reports whether the log's position is the database's end.
func (b *bench) drained() bool {
	p, ok, err := relay.ReadPosition(context.Background(), b.cl, "shop")
	b.db.mu.Lock()
	n := len(b.db.txns)
	b.db.mu.Unlock()
	return err == nil && ok && placeOf(b.t, p.Position) == place{N: n}
}

// read returns the committed records of a topic, partition after partition.
func (b *bench) read(topic string) []*kgo.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hws, err := kafka.StableOffsets(ctx, b.cl, topic)
	if errors.Is(err, kafka.ErrNoTopic) {
		return nil
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var out []*kgo.Record
	for p := int32(0); int(p) < len(hws); p++ {
		err := kafka.ReadCommitted(ctx, b.cl, topic, p, 0, hws[p], func(r *kgo.Record) error {
			out = append(out, r)
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return out
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// checkExactlyOnce compares the log with the database: every row once, in commit order per key.
func (b *bench) checkExactlyOnce() {
	b.t.Helper()
	b.db.mu.Lock()
	txns := b.db.txns
	b.db.mu.Unlock()
	want := map[string][]string{} // topic/key -> ids
	topics := map[string]bool{}
	for _, t := range txns {
		for _, r := range t {
			topics["outbox.event."+r.topic] = true
			want["outbox.event."+r.topic+"/"+r.key] = append(want["outbox.event."+r.topic+"/"+r.key], r.id)
		}
	}
	got := map[string][]string{}
	for topic := range topics {
		for _, r := range b.read(topic) {
			k := topic + "/" + string(r.Key)
			got[k] = append(got[k], header(r, "id"))
		}
	}
	for k := range want {
		if fmt.Sprint(got[k]) != fmt.Sprint(want[k]) {
			b.t.Errorf("%s: log has %v, the database committed %v", k, got[k], want[k])
		}
		delete(got, k)
	}
	for k, ids := range got {
		b.t.Errorf("%s: log has %v, which was never committed", k, ids)
	}
}

func order(id, key string) row {
	return row{id: id, topic: "order", key: key, typ: "OrderPlaced", payload: `{"n": ` + "1" + `}`}
}
