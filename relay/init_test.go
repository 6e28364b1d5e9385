package relay_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/relay/relaytest"
)

// records returns what was ever written about the source into the positions topic.
func (b *bench) records() []string {
	var out []string
	for _, r := range b.Read(kafka.PositionsTopic) {
		out = append(out, string(r.Value))
	}
	return out
}

func TestRelay_SaysThatItInitialisesBeforeItDoes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var before []string
	b.DB.AfterInit = func() error {
		before = b.records()
		return nil
	}
	b.Start()
	b.Wait("it has a position", func() bool { _, ok := b.Position(); return ok })
	if len(before) != 1 || before[0] != `{"v":1,"source":"shop","initialising":true,"intent":`+relaytest.Intent+`}` {
		t.Errorf("when the database side was made the log said %q", before)
	}
}

// TestRelay_AnInterruptedStartIsResumed: the database side is there, the position is not.
func TestRelay_AnInterruptedStartIsResumed(t *testing.T) {
	t.Parallel()
	t.Run("the answer is lost", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.DB.AfterInit = func() error { return fmt.Errorf("connection lost: %w", outrelay.ErrTransient) }
		b.Start()
		b.DB.Commit([]row{order("1", "k")})
		b.Wait("it is in", b.Drained)
		b.CheckExactlyOnce()
	})
	t.Run("the process dies", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		reached, die := make(chan struct{}), make(chan struct{})
		b.DB.AfterInit = func() error {
			close(reached)
			<-die
			return context.Canceled
		}
		_, stop := b.Start()
		<-reached
		go func() { _ = stop() }()
		close(die)
		_ = stop()
		b.DB.Commit([]row{order("1", "k")})
		if p, ok, err := relay.ReadPosition(t.Context(), b.Client, kafka.PositionsTopic, "shop"); ok || err != nil || p.Intent != relaytest.Intent {
			t.Fatalf("position %+v %v %v, want an intent", p, ok, err)
		}
		if all, err := relay.ReadPositions(t.Context(), b.Client, kafka.PositionsTopic); err != nil || len(all) != 0 {
			t.Errorf("positions %v %v", all, err)
		}
		b.Start()
		b.Wait("it is in", b.Drained)
		b.CheckExactlyOnce()
	})
	t.Run("before anything was made", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.DB.AfterInit = func() error {
			b.DB.Initialised, b.DB.AfterInit = false, nil
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		b.Start()
		b.DB.Commit([]row{order("1", "k")})
		b.Wait("it is in", b.Drained)
		if n := len(b.records()); n < 3 || !strings.Contains(b.records()[1], "initialising") {
			t.Errorf("%d records, want two intents and a position", n)
		}
	})
}

// TestRelay_SomebodyFasterIsNotTakenOver: between the intent and Init another log's relay made the database side.
func TestRelay_SomebodyFasterIsNotTakenOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.AfterInit = func() error {
		return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "slot-without-position", Cause: "somebody else has just made the slot"}
	}
	for range 2 { // a second start must not believe that the slot is its own
		r, stop := b.Start()
		b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
		if s := r.Status().Error; !strings.Contains(s, "slot-without-position") {
			t.Errorf("status says %q", s)
		}
		_ = stop()
	}
	if p, ok, err := relay.ReadPosition(t.Context(), b.Client, kafka.PositionsTopic, "shop"); ok || err != nil || p.Intent != "" {
		t.Errorf("the log still says %+v %v %v", p, ok, err)
	}
}
