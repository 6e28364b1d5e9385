package relay_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/relay"
)

const nul = "\x00null"

// cols makes a row of name=value pairs; the type follows the name after a colon.
func event(pairs ...string) outrelay.Event {
	var names, types []string
	var values [][]byte
	for i := 0; i < len(pairs); i += 2 {
		name, typ, ok := strings.Cut(pairs[i], ":")
		if !ok {
			typ = "text"
		}
		names, types = append(names, name), append(types, typ)
		if pairs[i+1] == nul {
			values = append(values, nil)
		} else {
			values = append(values, []byte(pairs[i+1]))
		}
	}
	return outrelay.Event{Schema: outrelay.NewSchema("public.outbox", names, types), Values: values, Ordinal: 3}
}

func preview(o relay.Options, ev outrelay.Event) (outrelay.Event, error) {
	o.Source = "shop"
	t := outrelay.Txn{Place: "0/1A", CommittedAt: time.Date(2026, 11, 23, 1, 2, 3, 456789000, time.UTC), Events: []outrelay.Event{ev}, Last: true}
	err := relay.Preview(o, &t)
	return t.Events[0], err
}

func say(ev outrelay.Event) string {
	null := func(b []byte) string {
		if b == nil {
			return "NULL"
		}
		return string(b)
	}
	s := ev.Topic + " | " + null(ev.Key) + " | " + null(ev.Value) + " |"
	for _, h := range ev.Headers {
		s += " " + h.Key + "=" + null(h.Value)
	}
	return s
}

func TestRouter_Records(t *testing.T) {
	t.Parallel()
	strict := relay.Options{Dialect: relay.DialectDebeziumStrict}
	with := func(table relay.Table) relay.Options {
		return relay.Options{Dialect: relay.DialectDebeziumStrict, Tables: []relay.Table{table}}
	}
	debezium := []string{"id:uuid", "4d47e190", "aggregatetype", "Order", "aggregateid", "1", "type", "OrderCreated", "payload:jsonb", `{"id": 1}`}
	more := append(append([]string{}, debezium...), "tenant", "eu", "version:int4", "2", "urgent:bool", "t", "part:int4", "3", "note", nul)
	for name, c := range map[string]struct {
		o    relay.Options
		ev   outrelay.Event
		want string
	}{
		"debezium's row, our headers": {relay.Options{}, event(debezium...),
			`outbox.event.Order | 1 | {"id": 1} | id=4d47e190 outrelay.type=OrderCreated outrelay.source=shop outrelay.place=0/1A outrelay.ordinal=3 outrelay.committed_at=2026-11-23T01:02:03.456789Z`},
		"debezium's row, strict": {strict, event(debezium...), `outbox.event.Order | 1 | {"id": 1} | id=4d47e190`},
		"null payload is a tombstone": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload", nul),
			"outbox.event.o | 1 | NULL | id=1"},
		"empty payload is empty": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload", ""),
			"outbox.event.o | 1 |  | id=1"},
		"blank payload, tombstone asked for": {with(relay.Table{TombstoneOnEmpty: true}), event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload", " \n"),
			"outbox.event.o | 1 | NULL | id=1"},
		"null key": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", nul, "payload", "x"), "outbox.event.o | NULL | x | id=1"},
		"bytea in hex": {strict, event("id", "1", "aggregatetype", "o", "aggregateid:bytea", `\x6b`, "payload:bytea", `\x00ff41`),
			"outbox.event.o | k | \x00\xffA | id=1"},
		"bytea in escapes": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload:bytea", `a\\b\377\001`),
			"outbox.event.o | 1 | a\\b\xff\x01 | id=1"},
		"empty bytea":                    {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload:bytea", `\x`), "outbox.event.o | 1 |  | id=1"},
		"text that looks like hex stays": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "1", "payload", `\x41`), `outbox.event.o | 1 | \x41 | id=1`},
		"other columns": {with(relay.Table{Topic: "t.{tenant}.{aggregatetype}", Columns: relay.Columns{ID: "type", Key: "tenant", Payload: "aggregateid"}}),
			event(more...), "t.eu.Order | eu | 1 | id=OrderCreated"},
		"null key column falls back to the aggregate id": {with(relay.Table{Columns: relay.Columns{Key: "note"}}), event(more...), `outbox.event.Order | 1 | {"id": 1} | id=4d47e190`},
		"headers": {with(relay.Table{Additional: []relay.Placement{{Column: "tenant", Where: "header"}, {Column: "version", Where: "header", Alias: "v"}, {Column: "urgent", Where: "header"}, {Column: "note", Where: "header"}}}),
			event(more...), `outbox.event.Order | 1 | {"id": 1} | id=4d47e190 tenant=eu v=2 urgent=true note=NULL`},
		"envelope": {with(relay.Table{Additional: []relay.Placement{{Column: "type", Where: "envelope", Alias: "eventType"}, {Column: "version", Where: "envelope"}, {Column: "urgent", Where: "envelope"}, {Column: "note", Where: "envelope"}}}),
			event(more...), `outbox.event.Order | 1 | {"payload":"{\"id\": 1}","eventType":"OrderCreated","version":2,"urgent":true,"note":null} | id=4d47e190`},
		"envelope with JSON in it": {with(relay.Table{ExpandJSON: true, Additional: []relay.Placement{{Column: "type", Where: "envelope"}}}),
			event(more...), `outbox.event.Order | 1 | {"payload":{"id": 1},"type":"OrderCreated"} | id=4d47e190`},
		"a missing further column, allowed": {with(relay.Table{AdditionalOK: true, Additional: []relay.Placement{{Column: "no", Where: "header"}}}),
			event(debezium...), `outbox.event.Order | 1 | {"id": 1} | id=4d47e190`},
		"route by another column":                    {with(relay.Table{RouteBy: "tenant"}), event(more...), `outbox.event.eu | 1 | {"id": 1} | id=4d47e190`},
		"route by regex":                             {with(relay.Table{TopicRegex: "(?<first>.)(.*)", TopicReplacement: "x.${first}-$2"}), event(more...), `x.O-rder | 1 | {"id": 1} | id=4d47e190`},
		"regex that does not match leaves the value": {with(relay.Table{TopicRegex: "order", TopicReplacement: "x"}), event(more...), `Order | 1 | {"id": 1} | id=4d47e190`},
		"a table of its own": {relay.Options{Dialect: relay.DialectDebeziumStrict, Tables: []relay.Table{{Topic: "all"}, {Name: "public.outbox", Topic: "mine"}}},
			event(debezium...), `mine | 1 | {"id": 1} | id=4d47e190`},
		"bytes that are no UTF-8 pass": {strict, event("id", "1", "aggregatetype", "o", "aggregateid", "\xff", "payload", "\xfe\x00"), "outbox.event.o | \xff | \xfe\x00 | id=1"},
		"a serial id gets an id that no failover uses again": {relay.Options{}, event("id:int8", "7", "aggregatetype", "o", "aggregateid", "1", "payload", "x"),
			"outbox.event.o | 1 | x | id=7 outrelay.source=shop outrelay.place=0/1A outrelay.ordinal=3 outrelay.committed_at=2026-11-23T01:02:03.456789Z outrelay.event_id=shop/0/1A/3"},
		"an unsigned serial id too": {relay.Options{}, event("id:bigint unsigned", "7", "aggregatetype", "o", "aggregateid", "1", "payload", "x"),
			"outbox.event.o | 1 | x | id=7 outrelay.source=shop outrelay.place=0/1A outrelay.ordinal=3 outrelay.committed_at=2026-11-23T01:02:03.456789Z outrelay.event_id=shop/0/1A/3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ev, err := preview(c.o, c.ev)
			if err != nil {
				t.Fatal(err)
			}
			if got := say(ev); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRouter_UnroutableRowsSayWhyAndTheWaysOut(t *testing.T) {
	t.Parallel()
	row := func(topic, payload string) outrelay.Event {
		return event("id", "e-1", "aggregatetype", topic, "aggregateid", "1", "type", "T", "payload", payload)
	}
	for name, c := range map[string]struct {
		o    relay.Options
		ev   outrelay.Event
		code string
	}{
		"no payload column":   {relay.Options{}, event("id", "e-1", "aggregatetype", "o", "aggregateid", "1"), "missing-column"},
		"no id column":        {relay.Options{}, event("aggregatetype", "o", "aggregateid", "1", "payload", "x"), "missing-column"},
		"no further column":   {relay.Options{Tables: []relay.Table{{Additional: []relay.Placement{{Column: "no", Where: "header"}}}}}, row("o", "x"), "missing-column"},
		"null topic":          {relay.Options{}, row(nul, "x"), "null-topic"},
		"topic with a slash":  {relay.Options{}, row("../x", "x"), "bad-topic"},
		"internal topic":      {relay.Options{Tables: []relay.Table{{Topic: "{aggregatetype}"}}}, row("__x", "x"), "bad-topic"},
		"long topic":          {relay.Options{}, row(strings.Repeat("a", 250), "x"), "bad-topic"},
		"over the limit":      {relay.Options{RecordBytesMax: 100}, row("o", strings.Repeat("x", 100)), "record-too-large"},
		"no partition number": {relay.Options{Tables: []relay.Table{{Additional: []relay.Placement{{Column: "type", Where: "partition"}}}}}, row("o", "x"), "bad-partition"},
		"bytea in envelope":   {relay.Options{Tables: []relay.Table{{Additional: []relay.Placement{{Column: "id", Where: "envelope"}}}}}, event("id", "e-1", "aggregatetype", "o", "aggregateid", "1", "payload:bytea", `\x00`), "binary-envelope"},
		"no JSON to expand":   {relay.Options{Tables: []relay.Table{{ExpandJSON: true, Additional: []relay.Placement{{Column: "id", Where: "envelope"}}}}}, row("o", "{"), "bad-json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := preview(c.o, c.ev)
			var e *outrelay.Error
			if !errors.As(err, &e) || !errors.Is(err, outrelay.ErrDataHalt) || e.Code != c.code {
				t.Fatalf("err %v, want a data halt %s", err, c.code)
			}
			for _, part := range []string{"shop", "public.outbox", "0/1A", "shop.dlq"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %s", err, part)
				}
			}
		})
	}
}

func TestRouter_RefusesContradictions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]relay.Options{
		"dialect":             {Dialect: "x"},
		"template":            {Tables: []relay.Table{{Topic: "a{b"}}},
		"stray brace":         {Tables: []relay.Table{{Topic: "a}b"}}},
		"fixed bad topic":     {Tables: []relay.Table{{Topic: "a b"}}},
		"regex":               {Tables: []relay.Table{{TopicRegex: "(", TopicReplacement: "x"}}},
		"java regex":          {Tables: []relay.Table{{TopicRegex: "(?=x)", TopicReplacement: "x"}}},
		"regex and template":  {Tables: []relay.Table{{Topic: "x", TopicRegex: "x"}}},
		"placement":           {Tables: []relay.Table{{Additional: []relay.Placement{{Column: "x", Where: "y"}}}}},
		"what to do with bad": {OnUnroutable: "skip"},
	} {
		if _, err := preview(o, event()); !errors.Is(err, outrelay.ErrConfig) {
			t.Errorf("%s: err %v, want ErrConfig", name, err)
		}
	}
}

func TestRouter_DoesNotAllocateForRowsOfAKnownKind(t *testing.T) {
	ev := event("id:uuid", "4d47e190", "aggregatetype", "Order", "aggregateid", "1", "type", "OrderCreated", "payload:jsonb", strings.Repeat("x", 1000))
	route, reset := relay.RouteForTest("shop")
	run := func() {
		for range 1000 {
			if err := route(&ev); err != nil {
				t.Fatal(err)
			}
		}
		reset()
	}
	run()
	if n := testing.AllocsPerRun(20, run); n > 3 {
		t.Errorf("%v allocations for 1000 rows, want none", n)
	}
}

func BenchmarkRouter(b *testing.B) {
	ev := event("id:uuid", "4d47e190", "aggregatetype", "Order", "aggregateid", "1", "type", "OrderCreated", "payload:jsonb", strings.Repeat("x", 1000))
	route, reset := relay.RouteForTest("shop")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := route(&ev); err != nil {
			b.Fatal(err)
		}
		if i%8192 == 8191 {
			reset()
		}
	}
}
