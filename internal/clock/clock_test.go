package clock_test

import (
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/clock"
)

func TestFake_AdvanceFiresDueTimersOnly(t *testing.T) {
	t.Parallel()
	f := clock.NewFake(time.Unix(0, 0))
	early, late := f.NewTimer(time.Second), f.NewTimer(time.Minute)
	f.Advance(2 * time.Second)
	select {
	case <-early.C():
	default:
		t.Fatal("the timer of 1s did not fire after 2s")
	}
	select {
	case <-late.C():
		t.Fatal("the timer of 1m fired after 2s")
	default:
	}
	if !late.Stop() || late.Stop() {
		t.Fatal("Stop: want true once, then false")
	}
}
