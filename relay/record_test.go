package relay_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

func TestPositionRecord_IsAsItWasWrittenDown(t *testing.T) {
	t.Parallel()
	p := relay.PositionRecord{Position: outrelay.Position{Source: "shop", Token: `{"lsn":"0/1A2B3C8","x":"<&>"}`}, Place: "0/1A2B3C8",
		CommittedAt: time.Date(2026, 11, 23, 1, 2, 3, 456789000, time.UTC), Events: 1234}
	// docs/format/position-record.md is frozen: this text must stay readable.
	const want = `{"v":1,"source":"shop","place":"0/1A2B3C8","committed_at":"2026-11-23T01:02:03.456789Z","events":1234,"in_txn":false,"position":{"lsn":"0/1A2B3C8","x":"<&>"}}`
	if got := string(p.Append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, err := relay.ParsePosition([]byte(want)); err != nil || got != p {
		t.Errorf("parsed %+v, %v", got, err)
	}
	began := relay.PositionRecord{Position: outrelay.Position{Source: "shop"}, Intent: `{"slot":"x"}`}
	const wantBegan = `{"v":1,"source":"shop","initialising":true,"intent":{"slot":"x"}}`
	if got := string(began.Append(nil)); got != wantBegan {
		t.Errorf("got  %s\nwant %s", got, wantBegan)
	}
	if got, err := relay.ParsePosition([]byte(wantBegan)); err != nil || got != began {
		t.Errorf("parsed %+v, %v", got, err)
	}
	moved := p
	moved.MovedTo, moved.MovedAt = "log-2", time.Date(2026, 11, 25, 0, 0, 1, 0, time.UTC)
	const wantMoved = `{"v":2,"source":"shop","place":"0/1A2B3C8","committed_at":"2026-11-23T01:02:03.456789Z","events":1234,"in_txn":false,` +
		`"moved_to":"log-2","moved_at":"2026-11-25T00:00:01Z","position":{"lsn":"0/1A2B3C8","x":"<&>"}}`
	if got := string(moved.Append(nil)); got != wantMoved {
		t.Errorf("got  %s\nwant %s", got, wantMoved)
	}
	if got, err := relay.ParsePosition([]byte(wantMoved)); err != nil || got != moved {
		t.Errorf("parsed %+v, %v", got, err)
	}
	if got := relay.PositionPartition("shop"); got != kafka.PartitionOf([]byte("shop"), 16) {
		t.Errorf("partition %d", got)
	}
}

func TestIndexRecord_IsAsItWasWrittenDown(t *testing.T) {
	t.Parallel()
	x := relay.IndexRecord{
		PositionRecord: relay.PositionRecord{Position: outrelay.Position{Source: "shop", Token: `7`}, Place: "0/7", Events: 7, InTxn: true},
		Full:           true,
		Next:           map[outrelay.TopicPartition]int64{{Topic: "b", Partition: 0}: 5, {Topic: "a", Partition: 7}: 98, {Topic: "a", Partition: 0}: 120},
		IDs:            map[string][16]byte{"a": {0x0c, 0x8e}},
	}
	const want = `{"v":1,"source":"shop","place":"0/7","events":7,"in_txn":true,"position":7,"full":true,"next":{"a":{"id":"0c8e0000000000000000000000000000","offsets":{"0":120,"7":98}},"b":{"offsets":{"0":5}}}}`
	if got := string(x.Append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, err := relay.ParseIndex([]byte(want)); err != nil || !reflect.DeepEqual(got, x) {
		t.Errorf("parsed %+v, %v", got, err)
	}
	empty := relay.IndexRecord{PositionRecord: x.PositionRecord}
	if got := empty.Append(nil); !json.Valid(got) {
		t.Errorf("without partitions: %s", got)
	}
}

func TestRecords_RoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token, err := json.Marshal(rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "token"))
		if err != nil {
			t.Fatal(err)
		}
		x := relay.IndexRecord{
			PositionRecord: relay.PositionRecord{
				Position: outrelay.Position{Source: outrelay.SourceID(rapid.StringN(1, -1, -1).Draw(t, "source")), Token: string(token)},
				Place:    rapid.String().Draw(t, "place"), Events: rapid.Int64Min(0).Draw(t, "events"), InTxn: rapid.Bool().Draw(t, "in"),
				CommittedAt: time.UnixMicro(rapid.Int64Range(0, 1<<50).Draw(t, "at")).UTC(),
			},
			Full: rapid.Bool().Draw(t, "full"), Next: map[outrelay.TopicPartition]int64{}, IDs: map[string][16]byte{},
		}
		for range rapid.IntRange(0, 20).Draw(t, "partitions") {
			topic := rapid.SampledFrom([]string{"a", "b.c", "outbox.event.order"}).Draw(t, "topic")
			x.Next[outrelay.TopicPartition{Topic: topic, Partition: rapid.Int32Min(0).Draw(t, "partition")}] = rapid.Int64Min(0).Draw(t, "next")
			x.IDs[topic] = [16]byte{1, byte(len(topic))}
		}
		got, err := relay.ParseIndex(x.Append(nil))
		if err != nil || !reflect.DeepEqual(got, x) {
			t.Fatalf("index: %v\ngot  %+v\nwant %+v", err, got, x)
		}
		p, err := relay.ParsePosition(x.PositionRecord.Append(nil))
		if err != nil || p != x.PositionRecord {
			t.Fatalf("position: %v\ngot  %+v\nwant %+v", err, p, x.PositionRecord)
		}
	})
}

func TestRecords_RefuseWhatTheyCannotRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value string
		class error
	}{
		"empty":                       {"", outrelay.ErrDataHalt},
		"no JSON":                     {"{", outrelay.ErrDataHalt},
		"no version":                  {`{"source":"shop","position":1}`, outrelay.ErrDataHalt},
		"no position":                 {`{"v":1,"source":"shop"}`, outrelay.ErrDataHalt},
		"an intent that says nothing": {`{"v":1,"source":"shop","initialising":true}`, outrelay.ErrDataHalt},
		"an intent and a position":    {`{"v":1,"source":"shop","initialising":true,"intent":{},"position":1}`, outrelay.ErrDataHalt},
		"newer version":               {`{"v":3,"source":"shop","position":1}`, outrelay.ErrEnvironment},
	} {
		if _, err := relay.ParsePosition([]byte(c.value)); !errors.Is(err, c.class) {
			t.Errorf("%s: position: %v, want %v", name, err, c.class)
		}
		if _, err := relay.ParseIndex([]byte(c.value)); !errors.Is(err, c.class) {
			t.Errorf("%s: index: %v, want %v", name, err, c.class)
		}
	}
	if _, err := relay.ParsePosition([]byte(`{"v":1,"source":"shop","position":1,"later":{}}`)); err != nil {
		t.Errorf("a field that is not known yet: %v", err)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"v":1,"source":"shop","initialising":true,"intent":{"slot":"x"}}`))
	f.Add([]byte(`{"v":1,"source":"shop","place":"0/1","committed_at":"2026-11-23T01:02:03.456789Z","events":1,"in_txn":false,"position":{"a":1}}`))
	f.Add([]byte(`{"v":1,"source":"s","position":7,"full":true,"next":{"a":{"id":"0c8e0000000000000000000000000000","offsets":{"0":120}}}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if p, err := relay.ParsePosition(value); err == nil {
			again, err := relay.ParsePosition(p.Append(nil))
			// What a time says below a microsecond is not kept.
			p.CommittedAt, again.CommittedAt, p.MovedAt, again.MovedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
			if err != nil || again != p {
				t.Fatalf("%v\ngot  %+v\nwant %+v", err, again, p)
			}
		}
		if x, err := relay.ParseIndex(value); err == nil {
			if _, err := relay.ParseIndex(x.Append(nil)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
