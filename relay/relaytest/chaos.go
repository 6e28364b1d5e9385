package relaytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Cutter makes connections that break after a random number of bytes, in either direction: answers are lost, so that nobody
// knows what the log has done.
type Cutter struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	cuts int // left
	next kafka.DialFunc
}

// NewCutter returns a cutter of so many connections; next is nil for TCP.
func NewCutter(seed uint64, cuts int, next kafka.DialFunc) *Cutter {
	if next == nil {
		next = (&net.Dialer{}).DialContext
	}
	return &Cutter{rnd: rand.New(rand.NewPCG(seed, 2)), cuts: cuts, next: next}
}

// Dial is a kafka.DialFunc.
func (c *Cutter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.next(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts <= 0 {
		return conn, nil
	}
	c.cuts--
	return &cutConn{Conn: conn, reads: 200 + c.rnd.IntN(6000), writes: 200 + c.rnd.IntN(20_000)}, nil
}

type cutConn struct {
	net.Conn
	mu            sync.Mutex
	reads, writes int
}

func (c *cutConn) spend(left *int, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *left -= n; *left < 0 {
		_ = c.Close()
		return errors.New("cut by the test")
	}
	return nil
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if cut := c.spend(&c.reads, n); cut != nil {
		return 0, cut
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if cut := c.spend(&c.writes, n); cut != nil {
		return n, cut // what was written may have arrived
	}
	return n, err
}

// Log is a log that a property test may break.
type Log struct {
	Kafka kafka.Options
	Break func() // nil: it stays whole. Called from the test's goroutine; the log works again when it returns.
	Close func()
}

// ExactlyOnce is the property: random transactions, large ones and split ones among them, while connections break, the source fails, the log
// breaks, relays are stopped and started, and newer relays start beside older ones. At read_committed every event is in the log once, in
// order by key, and the source was never confirmed what was not in.
func ExactlyOnce(t *testing.T, newLog func(testing.TB) Log) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rnd := rand.New(rand.NewPCG(seed, 1))
		log := newLog(t)
		defer log.Close()
		b := New(rt, log.Kafka)
		defer b.Client.Close()
		b.CheckConfirms()
		b.Options.Kafka.Dialer = NewCutter(seed, rapid.IntRange(0, 12).Draw(rt, "connections that break"), log.Kafka.Dialer).Dial
		b.Options.GatherBytesMax = rapid.SampledFrom([]int{500, 5000, 8 << 20}).Draw(rt, "gather")
		b.Options.LargeBytesMax = rapid.SampledFrom([]int64{3000, 1 << 30}).Draw(rt, "large")
		b.Options.IndexBytes, b.Options.IdleEvery = 1, 20*time.Millisecond
		b.DB.PartRows = rapid.SampledFrom([]int{0, 3, 20}).Draw(rt, "rows in a part")
		failures := rapid.IntRange(0, 5).Draw(rt, "source failures")
		b.DB.FailWith(func() error {
			if failures > 0 && rnd.IntN(20) == 0 {
				failures--
				return fmt.Errorf("connection to the database lost: %w", outrelay.ErrTransient)
			}
			return nil
		})
		b.disturb(rt, log)
	})
}

func (b *Bench) disturb(rt *rapid.T, log Log) {
	_, stop := b.Start()
	stops := []func() error{stop}
	another := func() {
		_, stop = b.Start()
		stops = append(stops, stop)
	}
	b.Wait("the source has a position", func() bool { _, ok := b.Position(); return ok })
	todo := []string{"go on", "go on", "restart", "start another", "drain"}
	if log.Break != nil {
		todo = append(todo, "break the log")
	}
	id := 0
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		for range rapid.IntRange(0, 6).Draw(rt, "transactions") {
			var rows []Row
			for range rapid.SampledFrom([]int{0, 1, 2, 5, 60}).Draw(rt, "rows") {
				id++
				rows = append(rows, Order(fmt.Sprint(id), fmt.Sprint("k", rapid.IntRange(0, 4).Draw(rt, "key"))))
			}
			b.DB.Commit(rows)
		}
		switch rapid.SampledFrom(todo).Draw(rt, "then") {
		case "restart":
			_ = stop()
			another()
		case "start another":
			another()
		case "drain":
			b.Wait("drained", b.Drained)
		case "break the log":
			log.Break()
		}
	}
	for _, s := range stops {
		_ = s()
	}
	// Whoever fenced whom: the next relay, as after a restart, brings the rest.
	b.DB.Commit([]Row{Order("last", "k0")})
	_, stop = b.Start()
	b.Wait("all is in", b.Drained)
	_ = stop()
	b.CheckExactlyOnce()
}
