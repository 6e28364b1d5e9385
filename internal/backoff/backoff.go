// Package backoff computes how long to wait before the next attempt. It never waits by itself.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
)

// Policy is min(Max, Initial·2^attempt) plus a random part up to Jitter.
type Policy struct {
	Initial time.Duration
	Max     time.Duration
	Jitter  time.Duration
}

// Default suits a lost connection to a local server: 50 ms doubling to 5 s, with up to 50 ms of jitter.
func Default() Policy {
	return Policy{Initial: 50 * time.Millisecond, Max: 5 * time.Second, Jitter: 50 * time.Millisecond}
}

// Delay returns the wait before attempt (from 0). rnd may be nil for the shared source.
func (p Policy) Delay(attempt int, rnd *rand.Rand) time.Duration {
	d := p.Initial
	for i := 0; i < attempt && d < p.Max; i++ {
		d *= 2
	}
	if p.Max > 0 && d > p.Max {
		d = p.Max
	}
	if p.Jitter > 0 {
		if rnd != nil {
			d += time.Duration(rnd.Int64N(int64(p.Jitter)))
		} else {
			d += time.Duration(rand.Int64N(int64(p.Jitter)))
		}
	}
	return d
}

// Sleep waits for d on c, or until ctx ends; it returns ctx's error then.
func Sleep(ctx context.Context, c clock.Clock, d time.Duration) error {
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
