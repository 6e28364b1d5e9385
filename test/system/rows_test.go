package system_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func headerOf(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Payloads of every type stand in the log byte for byte as the server prints them; NULL is a tombstone, empty is not.
func TestRows_payloadsByteForByte(t *testing.T) {
	types := []string{"json", "jsonb", "text", "bytea"}
	w := newWorld(t, worldOptions{edit: func(c string) string {
		more := ""
		for _, typ := range types {
			more += "      - {table: public.outbox_" + typ + ", topic: 'rows." + typ + "'}\n"
		}
		return strings.Replace(c, "      - table: public.outbox\n", "      - table: public.outbox\n"+more, 1)
	}})
	for _, typ := range types {
		w.pg.Exec(t, w.db, "create table outbox_"+typ+" (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text, type text, payload "+typ+")")
	}
	w.start()
	for typ, values := range map[string]map[string]string{ // key → SQL literal
		"json":  {"spaces": `'{ "b":1,  "a" : [1.50, 12345678901234567890.10, "\u0000 \ud83d"] }'`, "null": "null", "json-null": "'null'", "utf8": `'"Zoë 🦊"'`},
		"jsonb": {"normal": `'{ "b":1,  "a" : [1.50, 12345678901234567890.10] }'`, "null": "null", "big": `jsonb_build_object('x', repeat('y', 300000))`},
		"text":  {"plain": `E'two\nlines\t\\ \'quoted\''`, "empty": "''", "null": "null", "utf8": "'Zoë 🦊 \u202e'"},
		"bytea": {"bytes": `'\x00ff0a7f'`, "empty": "''", "null": "null"},
	} {
		for key, literal := range values {
			w.pg.Exec(t, w.db, "insert into outbox_"+typ+" (aggregatetype, aggregateid, type, payload) values ('x', '"+key+"', 'T', "+literal+")")
		}
	}
	w.pg.Exec(t, w.db, "insert into outbox_text (aggregatetype, aggregateid, type, payload) values ('x', null, null, 'no key')")
	w.served(5) // committed after them, so they are in the log
	for _, typ := range types {
		got := map[string][]byte{}
		for _, r := range w.records("rows." + typ) {
			key := string(r.Key)
			if r.Key == nil {
				key = "(null)"
			}
			got[key] = r.Value
			if headerOf(r, "id") == "" {
				t.Errorf("%s %s has no id", typ, key)
			}
		}
		// What the server prints, with the settings that a replication stream has.
		want := rows(t, w.Shop, "select coalesce(aggregateid, '(null)') || ' ' || coalesce(encode(convert_to(payload::text, 'UTF8'), 'hex'), 'null') from outbox_"+typ)
		if typ == "bytea" {
			want = rows(t, w.Shop, "select aggregateid || ' ' || coalesce(encode(payload, 'hex'), 'null') from outbox_bytea")
		}
		if len(want) != len(got) {
			t.Errorf("%s: %d records for %d rows", typ, len(got), len(want))
		}
		for _, line := range want {
			key, value, _ := strings.Cut(line, " ")
			v, ok := got[key]
			said := "null"
			if v != nil {
				said = hex(v)
			}
			if !ok || said != value {
				t.Errorf("%s %s: the log holds %.200q, the table %.200q", typ, key, said, value)
			}
		}
	}
	w.verify()
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	var s bytes.Buffer
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// What is not JSON is nothing to outrelay but bytes: Avro (in a schema registry's framing) and Protobuf go from the outbox to the sink untouched. A
// handler that asks for a field of such a payload is named, and its record blocks by itself.
func TestRows_avroAndProtobuf(t *testing.T) {
	w := newWorld(t, worldOptions{edit: func(c string) string {
		c = strings.Replace(c, "      - table: public.outbox\n", "      - table: public.outbox\n      - {table: public.outbox_binary, topic: binary}\n", 1)
		return c + `  binary:
    topics: [binary]
    into: {postgres: "${env:WAREHOUSE_DSN}"}
    handle:
      Bytes: insert into bodies (key, body) values (:key, :payload)
      WantsJSON: insert into bodies (key, body) values (:key, :payload.customer)
`
	}})
	w.pg.Exec(t, w.db, "create table outbox_binary (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text, type text, payload bytea)")
	execute(t, w.Warehouse, "create table bodies (key text, body bytea)")
	w.start()
	bodies := map[string]string{ // key → hex
		"avro":     "00" + "0000002a" + "06633731" + "000000000000f83f" + "02" + "c2a9", // magic, schema 42, string "c71", double 1.5, …
		"protobuf": "0a03633731" + "11000000000000f83f" + "1801" + "2202ff00",           // 1: "c71", 2: 1.5, 3: true, 4: bytes that are no UTF-8
		"zeros":    "00000000",
		"brace":    "7b00ff", // begins as JSON does
	}
	for key, body := range bodies {
		w.pg.Exec(t, w.db, "insert into outbox_binary (aggregatetype, aggregateid, type, payload) values ('x', '"+key+"', 'Bytes', '\\x"+body+"')")
	}
	applied := func() map[string]string {
		got := map[string]string{}
		for _, line := range rows(t, w.Warehouse, "select key || ' ' || encode(body, 'hex') from bodies") {
			key, body, _ := strings.Cut(line, " ")
			got[key] = body
		}
		return got
	}
	await(t, "the payloads are in the sink as they were written", 40*time.Second, func() bool { return maps.Equal(applied(), bodies) })
	for _, r := range w.records("binary") {
		if hex(r.Value) != bodies[string(r.Key)] {
			t.Errorf("%s: the log holds %x", r.Key, r.Value)
		}
	}
	w.pg.Exec(t, w.db, "insert into outbox_binary (aggregatetype, aggregateid, type, payload) values ('x', 'avro', 'WantsJSON', '\\x"+bodies["avro"]+"')")
	await(t, "the record blocks", 40*time.Second, func() bool {
		for _, g := range w.status().Groups {
			for _, p := range g.Partitions {
				if p.State == "blocked" && g.Group == "binary" {
					if !containsAll(p.LastError, []string{"binary/", "handler WantsJSON (", "outrelay.yaml:", "the payload is not JSON, but the handler asks for a field of it"}) {
						t.Fatal(p.LastError)
					}
					return true
				}
			}
		}
		return false
	})
	w.served(5) // the other group does not notice
	if got := applied(); !maps.Equal(got, bodies) {
		t.Fatalf("%v", got)
	}
}

// A row that cannot be routed halts its source with table, place and id; with dead_letter it is moved aside and the others go on.
func TestRows_unroutable(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(20)
	w.pg.Exec(t, w.db, "insert into outbox (aggregatetype, aggregateid, type, payload) values ('no/topic', 'k', 'T', '{\"kept\": true}')")
	id := w.pg.Value(t, w.db, "select id from outbox where aggregatetype = 'no/topic'")
	w.place(20)
	w.awaitReadyz(503, "relay: ", "source shop", "public.outbox", id, "on_unroutable")
	s := w.status()
	if s.Sources[0].State != "halted" || !strings.Contains(s.Sources[0].Error, id) {
		t.Fatalf("%+v", s.Sources[0])
	}
	committed, applied, err := w.Counts(t.Context())
	if err != nil || committed != 40 || applied != 20 {
		t.Fatalf("applied %d of %d (%v): what comes after the row must wait", applied, committed, err)
	}
	w.stop()
	w.edit(strings.Replace(w.Config, "    outbox:\n", "    on_unroutable: dead_letter\n    outbox:\n", 1))
	w.start()
	w.drained()
	dead := w.records("shop.dlq")
	if len(dead) != 1 || string(dead[0].Value) != `{"kept": true}` || headerOf(dead[0], "id") != id {
		t.Fatalf("dead letters: %+v", dead)
	}
	if s := w.status(); s.Sources[0].DeadLetters != 1 || s.Sources[0].State != "running" {
		t.Errorf("%+v", s.Sources[0])
	}
	w.verify()
}

// kcat runs the tool of librdkafka's author against the world's log.
func (w *world) kcat(stdin string, args ...string) string {
	w.t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		w.t.Skip("kcat is not installed; `make deps` does it")
	}
	cmd := exec.CommandContext(w.t.Context(), path, append([]string{"-b", w.Process.Kafka}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("kcat %v: %v\n%s%s", args, err, out, stderr.String())
	}
	return string(out)
}

// kcat lists topics, produces with keys, and reads at read_committed what the relay wrote; after a kill -9 it is all still there.
func TestKcat(t *testing.T) {
	ownLog(t, "kcat is its client")
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(100)
	if list := w.kcat("", "-L"); !containsAll(list, []string{`topic "` + orders + `" with 16 partitions`, "broker 1 at " + w.Process.Kafka}) {
		t.Errorf("kcat -L:\n%s", list)
	}
	w.kcat("a:1\nb:2\na:3\n", "-P", "-t", "by-kcat", "-K", ":", "-X", "enable.idempotence=true")
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.start()
	if got := w.kcat("", "-C", "-t", "by-kcat", "-e", "-q", "-f", "%k=%s\n", "-X", "isolation.level=read_committed"); strings.Count(got, "\n") != 3 || !containsAll(got, []string{"a=1\n", "b=2\n", "a=3\n"}) {
		t.Errorf("kcat read:\n%s", got)
	}
	want := rows(t, w.Shop, "select key || ' ' || id from ledger order by 1")
	got := strings.Split(strings.TrimSpace(w.kcat("", "-C", "-t", orders, "-e", "-q", "-f", "%k %h\n", "-X", "isolation.level=read_committed")), "\n")
	if len(got) != len(want) {
		t.Errorf("kcat read %d records, the shop committed %d", len(got), len(want))
	}
	byKey := map[string]bool{}
	for _, line := range got {
		key, headers, _ := strings.Cut(line, " ")
		for h := range strings.SplitSeq(headers, ",") {
			if id, ok := strings.CutPrefix(h, "id="); ok {
				byKey[key+" "+id] = true
			}
		}
	}
	for _, line := range want {
		if !byKey[line] {
			t.Errorf("kcat has not read %s", line)
		}
	}
	await(t, "kcat's producer does not disturb the group", 10*time.Second, func() bool { return w.status().Ready })
	w.verify()
}
