package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/relay"
)

// TestRelayOptions_OfTheFile routes a row as the file says, from the key in the YAML to the record.
func TestRelayOptions_OfTheFile(t *testing.T) {
	t.Parallel()
	schema := outrelay.NewSchema("public.outbox", []string{"id", "aggregatetype", "aggregateid", "type", "payload", "customer", "tenant"},
		[]string{"uuid", "text", "text", "text", "jsonb", "text", "text"})
	row := func(payload, customer string) *outrelay.Txn {
		values := [][]byte{[]byte("7d"), []byte("order_eu"), []byte("42"), []byte("OrderPlaced"), []byte(payload), []byte(customer), []byte("acme")}
		if customer == "" {
			values[5] = nil
		}
		return &outrelay.Txn{Place: "0/1", Last: true, Events: []outrelay.Event{{Schema: schema, Values: values}}}
	}
	for _, c := range []struct {
		name, source, table string
		txn                 *outrelay.Txn
		topic, key, value   string // value NULL: a tombstone
		err                 string
	}{
		{"nothing said", "", "", row(`{"a": 1}`, "c1"), "outbox.event.order_eu", "42", `{"a": 1}`, ""},
		{"route by column", "", "route: {by: tenant}", row(`{}`, "c1"), "outbox.event.acme", "42", `{}`, ""},
		{"route by regex", "", `route: {regex: '(.*)_(.*)', replacement: '$2.$1s'}`, row(`{}`, "c1"), "eu.orders", "42", `{}`, ""},
		{"Debezium's own replacement", "", `route: {replacement: 'ev.${routedByValue}'}`, row(`{}`, "c1"), "ev.order_eu", "42", `{}`, ""},
		{"another column for the topic", "", `columns: {aggregatetype: tenant}`, row(`{}`, "c1"), "outbox.event.acme", "42", `{}`, ""},
		{"key", "", "columns: {key: customer}", row(`{}`, "c1"), "outbox.event.order_eu", "c1", `{}`, ""},
		{"key NULL: the aggregate id", "", "columns: {key: customer}", row(`{}`, ""), "outbox.event.order_eu", "42", `{}`, ""},
		{"an empty payload", "", "", row("", "c1"), "outbox.event.order_eu", "42", "", ""},
		{"tombstone on empty", "", "tombstone_on_empty: true", row("", "c1"), "outbox.event.order_eu", "42", "NULL", ""},
		{"envelope", "", "additional: [{column: tenant, place: envelope}]", row(`{"a": 1}`, "c1"), "outbox.event.order_eu", "42", `{"payload":"{\"a\": 1}","tenant":"acme"}`, ""},
		{"envelope, expanded", "", "expand_json: true, additional: [{column: tenant, place: envelope}]", row(`{"a": 1}`, "c1"), "outbox.event.order_eu", "42", `{"payload":{"a": 1},"tenant":"acme"}`, ""},
		{"additional column missing", "", "additional: [{column: nope}]", row(`{}`, "c1"), "", "", "", `no column "nope"`},
		{"additional column may miss", "", "additional_optional: true, additional: [{column: nope}]", row(`{}`, "c1"), "outbox.event.order_eu", "42", `{}`, ""},
		{"record over the limit", "record_bytes_max: 16KB, ", "", row(`"`+strings.Repeat("x", 17<<10)+`"`, "c1"), "", "", "", "the limit is 16384"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := daemon.RelayOptions(load(t, c.source, c.table), "shop")
			err := relay.Preview(o, c.txn)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ev := c.txn.Events[0]
			value := string(ev.Value)
			if ev.Value == nil {
				value = "NULL"
			}
			if ev.Topic != c.topic || string(ev.Key) != c.key || value != c.value {
				t.Errorf("topic %s, key %s, value %s\nwant  %s, key %s, value %s", ev.Topic, ev.Key, value, c.topic, c.key, c.value)
			}
		})
	}
}

func TestRelayOptions_Compression(t *testing.T) {
	t.Parallel()
	if o := daemon.RelayOptions(load(t, "compression: zstd, ", ""), "shop"); o.Compression != "zstd" || o.RecordBytesMax != 1_000_000 {
		t.Errorf("compression %q, records of %d bytes", o.Compression, o.RecordBytesMax)
	}
}

func load(t *testing.T, source, table string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outrelay.yaml")
	if table != "" {
		table = ", " + table
	}
	text := "sources: {shop: {postgres: 'postgres://relay@127.0.0.1/shop', " + source + "outbox: [{table: public.outbox" + table + "}]}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.LoadOptions{File: file})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
