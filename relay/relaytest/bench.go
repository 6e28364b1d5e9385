package relaytest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// TB is what a bench needs of a *testing.T, a *testing.B or a *rapid.T.
type TB interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Bench is a scripted database and a log with relays between them.
type Bench struct {
	T       TB
	DB      *Database
	Options relay.Options // of the relays that Start starts
	Client  *kgo.Client   // of the log, for the test's own questions

	relays []*relay.Relay

	mu   sync.Mutex
	lies []string // confirms of what the log did not hold
}

// New returns a bench on a log. With RELAY_TEST_LOG in the environment the relays log to standard error.
func New(t TB, log kafka.Options) *Bench {
	t.Helper()
	b := &Bench{T: t, DB: NewDatabase()}
	b.Options = relay.Options{Source: "shop", From: b.DB, Kafka: log, Partitions: 4, Backoff: backoff.Policy{Initial: time.Millisecond, Max: 5 * time.Millisecond}}
	if os.Getenv("RELAY_TEST_LOG") != "" {
		b.Options.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	if b.Client, err = kafka.NewClient(log); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(b.Client.Close)
	return b
}

// Start runs a relay. stop ends it and returns what Run returned; it may be called twice.
func (b *Bench) Start() (r *relay.Relay, stop func() error) {
	b.T.Helper()
	r, err := relay.New(b.Options)
	if err != nil {
		b.T.Fatalf("%v", err)
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
	b.T.Cleanup(func() { _ = stop() })
	return r, stop
}

// Wait asks again and again until ok, or fails the test.
func (b *Bench) Wait(what string, ok func() bool) {
	b.T.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			for i, r := range b.relays {
				b.T.Logf("relay %d: %+v", i, r.Status())
			}
			b.T.Fatalf("waited in vain: %s", what)
		}
	}
}

// Position returns the source's position in the log; ok is false while it has none.
func (b *Bench) Position() (p relay.PositionRecord, ok bool) {
	p, ok, err := relay.ReadPosition(context.Background(), b.Client, b.Options.Kafka.PositionsTopic(), "shop")
	return p, ok && err == nil
}

// Drained reports whether the position in the log is the database's end.
func (b *Bench) Drained() bool {
	p, ok := b.Position()
	return ok && PlaceOf(b.T, p.Position) == Place{N: len(b.DB.Txns())}
}

// Read returns the committed records of a topic, partition after partition.
func (b *Bench) Read(topic string) []*kgo.Record {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ends, err := kafka.StableOffsets(ctx, b.Client, topic)
	if errors.Is(err, kafka.ErrNoTopic) {
		return nil
	}
	if err != nil {
		b.T.Fatalf("%v", err)
	}
	var out []*kgo.Record
	for p := int32(0); int(p) < len(ends); p++ {
		err := kafka.ReadCommitted(ctx, b.Client, topic, p, 0, ends[p], func(r *kgo.Record) error {
			out = append(out, r)
			return nil
		})
		if err != nil {
			b.T.Fatalf("%v", err)
		}
	}
	return out
}

// Header returns the first header of that key as a string.
func Header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// CheckExactlyOnce compares the log with the database: at read_committed every row is there once, in commit order by key.
func (b *Bench) CheckExactlyOnce() {
	b.T.Helper()
	want, got := map[string][]string{}, map[string][]string{}
	topics := map[string]bool{}
	for _, t := range b.DB.Txns() {
		for _, r := range t {
			topic := "outbox.event." + r.Topic
			topics[topic] = true
			want[topic+"/"+r.Key] = append(want[topic+"/"+r.Key], r.ID)
		}
	}
	for topic := range topics {
		for _, r := range b.Read(topic) {
			k := topic + "/" + string(r.Key)
			got[k] = append(got[k], Header(r, kafka.HeaderID))
		}
	}
	b.mu.Lock()
	for _, lie := range b.lies {
		b.T.Errorf("%s", lie)
	}
	b.mu.Unlock()
	for k := range want {
		if fmt.Sprint(got[k]) != fmt.Sprint(want[k]) {
			b.T.Errorf("%s: the log has %v, the database committed %v", k, got[k], want[k])
		}
		delete(got, k)
	}
	for k, ids := range got {
		b.T.Errorf("%s: the log has %v, which was never committed", k, ids)
	}
}

// CheckConfirms makes CheckExactlyOnce fail when the source was confirmed something that the log did not hold yet.
func (b *Bench) CheckConfirms() {
	b.DB.OnConfirm = func(p outrelay.Position) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for {
			in, ok, err := relay.ReadPosition(ctx, b.Client, b.Options.Kafka.PositionsTopic(), "shop")
			if errors.Is(err, kgo.ErrClientClosed) {
				return // the test has ended
			}
			if err != nil && ctx.Err() == nil {
				continue // the log is down for the moment: what was committed will be there when it is back
			}
			var l Place
			if ok {
				l = PlaceOf(b.T, in.Position)
			}
			if c := PlaceOf(b.T, p); !ok || c.N > l.N || c.N == l.N && c.Rows > l.Rows {
				b.mu.Lock()
				b.lies = append(b.lies, fmt.Sprintf("confirmed %s, but the log says %s (%v)", p.Token, in.Position.Token, err))
				b.mu.Unlock()
			}
			return
		}
	}
}
