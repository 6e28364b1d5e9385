package backoff_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay/internal/backoff"
)

func TestPolicy_DelayIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := backoff.Policy{
			Initial: time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(t, "initial")),
			Jitter:  time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "jitter")),
		}
		p.Max = p.Initial + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "max"))
		n := rapid.IntRange(0, 200).Draw(t, "attempt")
		base := backoff.Policy{Initial: p.Initial, Max: p.Max}.Delay(n, nil)
		if n == 0 && base != p.Initial {
			t.Fatalf("first delay %v, want %v", base, p.Initial)
		}
		if base < p.Initial || base > p.Max {
			t.Fatalf("delay %v outside [%v, %v]", base, p.Initial, p.Max)
		}
		if d := p.Delay(n, nil); d < base || d > base+p.Jitter {
			t.Fatalf("delay with jitter %v outside [%v, %v]", d, base, base+p.Jitter)
		}
	})
}
