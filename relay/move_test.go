package relay_test

import (
	"errors"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// halts fails unless err is the data halt of that code.
func halts(t *testing.T, err error, code string) {
	t.Helper()
	var e *outrelay.Error
	if !errors.As(err, &e) || e.Code != code || !errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("error %v, want the halt %s", err, code)
	}
}

func TestMove_fencesTheRelayAndHaltsTheNext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, stop := b.Start()
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("it is in", b.Drained)
	at := time.Date(2026, 11, 25, 0, 0, 1, 0, time.UTC)
	pos, found, err := relay.Depart(t.Context(), b.Options.Kafka, "shop", "log-2", at)
	if err != nil || !found || pos.MovedTo != "" || pos.Events != 1 {
		t.Fatalf("%+v, %v, %v", pos, found, err)
	}
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("the relay that ran has ended", func() bool { return first.Status().State == relay.StateFenced })
	if err := stop(); !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the relay that ran: %v", err)
	}
	next, _ := b.Start()
	b.Wait("the next one halts", func() bool { return next.Status().State == relay.StateHalted })
	_, _, err = relay.ReadPosition(t.Context(), b.Client, kafka.PositionsTopic, "shop")
	halts(t, err, "log-migrated")
	all, err := relay.ReadPositions(t.Context(), b.Client, kafka.PositionsTopic)
	if err != nil || all["shop"].MovedTo != "log-2" || all["shop"].MovedAt != at {
		t.Errorf("%+v, %v", all, err)
	}
	again, found, err := relay.Depart(t.Context(), b.Options.Kafka, "shop", "log-2", at.Add(time.Hour))
	if err != nil || !found || again != pos {
		t.Errorf("said again: %+v, %v, %v", again, found, err)
	}
	_, _, err = relay.Depart(t.Context(), b.Options.Kafka, "shop", "log-3", at)
	halts(t, err, "log-migrated")

	if was, err := relay.Return(t.Context(), b.Options.Kafka, "shop", "log-3"); was || err != nil {
		t.Errorf("taken back for a log it has not moved to: %v, %v", was, err)
	}
	if was, err := relay.Return(t.Context(), b.Options.Kafka, "shop", "log-2"); !was || err != nil {
		t.Errorf("taken back: %v, %v", was, err)
	}
	b.Start()
	b.Wait("it goes on", b.Drained)
	b.CheckExactlyOnce()
}

func TestMove_arrives(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := relay.EnsureInternalTopics(t.Context(), b.Options.Kafka, b.Client, nil); err != nil {
		t.Fatal(err)
	}
	if _, found, err := relay.Depart(t.Context(), b.Options.Kafka, "shop", "log-2", time.Now()); found || err != nil {
		t.Errorf("a source without a position: %v, %v", found, err)
	}
	pos := relay.PositionRecord{Position: outrelay.Position{Source: "shop", Token: `{"a":1}`}, Place: "0/1", Events: 7}
	for range 2 {
		if err := relay.Arrive(t.Context(), b.Options.Kafka, pos); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := relay.ReadPosition(t.Context(), b.Client, kafka.PositionsTopic, "shop"); got != pos || !ok || err != nil {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	other := pos
	other.Position.Token = `{"a":2}`
	halts(t, relay.Arrive(t.Context(), b.Options.Kafka, other), "position-there")
	if _, _, err := relay.Depart(t.Context(), b.Options.Kafka, "shop", "log-2", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := relay.Arrive(t.Context(), b.Options.Kafka, other); err != nil { // it comes back
		t.Fatal(err)
	}
	if got, ok, err := relay.ReadPosition(t.Context(), b.Client, kafka.PositionsTopic, "shop"); got != other || !ok || err != nil {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
}
