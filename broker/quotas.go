package broker

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// quotas counts what clients use against their quotas. A client that has used more than its rate gets its answer at once, with how long it is throttled in
// it (KIP-219); for as long nothing more is read from its connection. It may be used concurrently.
type quotas struct {
	mu      sync.Mutex
	buckets map[auth.Share]*auth.Bucket
	swept   time.Time
}

// bucketsSweep is how often the buckets of clients that have rested are forgotten: client ids are chosen by clients.
const bucketsSweep = 10 * time.Second

// use counts n of one quota and returns how long the client is throttled.
func (q *quotas) use(set *auth.Quotas, now time.Time, user, clientID, name string, n float64) time.Duration {
	rate, share, ok := set.Find(user, clientID, name)
	if !ok || n <= 0 {
		return 0
	}
	if name == auth.RequestPercentage {
		rate /= 100 // seconds a second
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweep(now)
	b := q.buckets[share]
	if b == nil {
		if q.buckets == nil {
			q.buckets = map[auth.Share]*auth.Bucket{}
		}
		b = &auth.Bucket{}
		q.buckets[share] = b
	}
	return b.Use(now, rate, n)
}

// sweep forgets buckets that are as good as new. q.mu is held.
func (q *quotas) sweep(now time.Time) {
	if now.Sub(q.swept) < bucketsSweep {
		return
	}
	q.swept = now
	for share, b := range q.buckets {
		if b.Rested(now) {
			delete(q.buckets, share)
		}
	}
}

// charge counts a request that was started: its bytes where it is a Produce, and the time it has taken. It is called by the reader.
func (c *conn) charge(k *call, n int) {
	set := c.s.access.now.Load().quotas
	sess := c.session.Load()
	if set == nil || sess == nil || c.l.tcp == nil {
		return
	}
	now := c.s.clock.Now()
	if k.api.key == 0 {
		k.throttle = c.s.quotas.use(set, now, sess.who.Name(), c.clientID, auth.ProducerByteRate, float64(n))
	}
	k.throttle = max(k.throttle, c.s.quotas.use(set, now, sess.who.Name(), c.clientID, auth.RequestPercentage, time.Since(k.started).Seconds()))
	k.user, k.clientID, k.quotas = sess.who.Name(), c.clientID, set
	c.mute(k.throttle)
}

// chargeAnswer counts the bytes of a Fetch, and the time of what the writer has started, and writes into an answer how long its client is throttled. It is
// called by the writer.
func (c *conn) chargeAnswer(k *call, resp kmsg.Response) {
	if k.worked > 0 && k.quotas != nil {
		k.throttle = max(k.throttle, c.s.quotas.use(k.quotas, c.s.clock.Now(), k.user, k.clientID, auth.RequestPercentage, k.worked.Seconds()))
		c.mute(k.throttle)
	}
	if f, ok := resp.(*fetchResponse); ok && k.quotas != nil {
		k.throttle = max(k.throttle, c.s.quotas.use(k.quotas, c.s.clock.Now(), k.user, k.clientID, auth.ConsumerByteRate, float64(f.bytes())))
		c.mute(k.throttle)
	}
	if k.throttle <= 0 {
		return
	}
	c.s.metrics.quotaThrottled.Inc()
	if t, ok := resp.(kmsg.SetThrottleResponse); ok {
		t.SetThrottle(int32(k.throttle.Milliseconds()))
	}
}

// mute has the reader wait for d from now before it reads on.
func (c *conn) mute(d time.Duration) {
	if d <= 0 {
		return
	}
	until := c.s.clock.Now().Add(d).UnixNano()
	for {
		old := c.muted.Load()
		if old >= until || c.muted.CompareAndSwap(old, until) {
			return
		}
	}
}

// awaitUnmuted blocks while the connection is muted. The time for a frame begins after it.
func (c *conn) awaitUnmuted(ctx context.Context) error {
	for {
		d := time.Duration(c.muted.Load() - c.s.clock.Now().UnixNano())
		if d <= 0 {
			return nil
		}
		t := c.s.clock.NewTimer(d)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}
