package relay_test

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
	"github.com/outrelay/outrelay/relay"
)

// cutter makes connections that break after a random number of bytes, in either direction: answers are lost, so that nobody knows
// what the log has done.
type cutter struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	cuts int // left
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
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

// TestRelay_ExactlyOnceWhateverBreaks: random transactions, large ones and split ones among them, while connections break, the source
// fails, relays are stopped and started, and newer relays start beside older ones. At read_committed every event is in the log once, in order by key.
func TestRelay_ExactlyOnceWhateverBreaks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := newBench(t)
		cut := &cutter{rnd: rand.New(rand.NewPCG(seed, 2)), cuts: rapid.IntRange(0, 12).Draw(rt, "connections that break")}
		b.o.Kafka.Dialer = cut.dial
		b.o.GatherBytesMax = rapid.SampledFrom([]int{500, 5000, 8 << 20}).Draw(rt, "gather")
		b.o.LargeBytesMax = rapid.SampledFrom([]int64{3000, 1 << 30}).Draw(rt, "large")
		b.o.IndexBytes, b.o.IdleEvery = 1, 20*time.Millisecond
		b.db.partRows = rapid.SampledFrom([]int{0, 3, 20}).Draw(rt, "rows in a part")
		failures := rapid.IntRange(0, 5).Draw(rt, "source failures")
		b.db.fail = func() error {
			if failures > 0 && rnd.IntN(20) == 0 {
				failures--
				return fmt.Errorf("connection to the database lost: %w", outrelay.ErrTransient)
			}
			return nil
		}
		b.db.onConfirm = func(p outrelay.Position) {
			in, ok, err := relay.ReadPosition(context.Background(), b.cl, "shop")
			if err != nil || !ok {
				t.Errorf("seed %d: confirmed %s, log: %v %v", seed, p.Token, ok, err)
				return
			}
			c, l := placeOf(t, p), placeOf(t, in.Position)
			if c.N > l.N || c.N == l.N && c.Rows > l.Rows {
				t.Errorf("seed %d: confirmed %s, but the log says %s", seed, p.Token, in.Position.Token)
			}
		}
		steps := rapid.IntRange(1, 12).Draw(rt, "steps")
		_, stop := b.start()
		stops := []func() error{stop}
		b.wait("the source has a position", func() bool {
			_, ok, _ := relay.ReadPosition(context.Background(), b.cl, "shop")
			return ok
		})
		id := 0
		for range steps {
			for range rapid.IntRange(0, 6).Draw(rt, "transactions") {
				var rows []row
				for range rapid.SampledFrom([]int{0, 1, 2, 5, 60}).Draw(rt, "rows") {
					id++
					rows = append(rows, order(fmt.Sprint(id), fmt.Sprint("k", rapid.IntRange(0, 4).Draw(rt, "key"))))
				}
				b.db.commit(rows)
			}
			switch rapid.SampledFrom([]string{"go on", "go on", "restart", "start another", "drain"}).Draw(rt, "then") {
			case "restart":
				_ = stop()
				_, stop = b.start()
				stops = append(stops, stop)
			case "start another":
				_, stop = b.start()
				stops = append(stops, stop)
			case "drain":
				b.wait(fmt.Sprintf("seed %d: drained", seed), b.drained)
			}
		}
		// The last one started may have been fenced by a late retry of an older one: then, as the manager does, another start ends it.
		for _, s := range stops {
			_ = s()
		}
		b.db.commit([]row{order("last", "k0")})
		_, stop = b.start()
		b.wait(fmt.Sprintf("seed %d: all is in", seed), b.drained)
		_ = stop()
		b.checkExactlyOnce()
		if t.Failed() {
			rt.Fatalf("seed %d", seed)
		}
		b.log.Close()
	})
}
