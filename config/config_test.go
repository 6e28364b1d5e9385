package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
)

// first is the file of a first deployment, as the README shows it.
const first = `sources:
  shop:
    postgres: postgres://relay@127.0.0.1:5432/shop
    outbox:
      - table: public.outbox
consumers:
  order-totals:
    topics: [outbox.event.order]
    into: {postgres: "host=127.0.0.1 dbname=warehouse user=w"}
    handle:
      OrderPlaced: |
        insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
        on conflict (customer) do update set total = order_totals.total + excluded.total
`

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "outrelay.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func load(t *testing.T, text string) (*config.Config, error) {
	t.Helper()
	return config.Load(config.LoadOptions{File: write(t, text)})
}

func TestLoad_FirstFileHasSafeDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(t, first)
	if err != nil {
		t.Fatal(err)
	}
	s, g := c.Sources["shop"], c.Consumers["order-totals"]
	for _, x := range []struct{ name, got, want string }{
		{"data", c.Data, "./outrelay-data"},
		{"broker.listen", c.Broker.Listen, "127.0.0.1:9092"},
		{"http.listen", c.HTTP.Listen, "127.0.0.1:8080"},
		{"slot", s.Slot, "outrelay_shop"},
		{"topic", s.Outbox[0].Topic, "outbox.event.{aggregatetype}"},
		{"key column", s.Outbox[0].Columns.Key, "aggregateid"},
		{"retention", s.Outbox[0].Retention.String(), "7d"},
		{"on_unroutable", s.OnUnroutable, "halt"},
		{"on_failure", g.OnFailure, "block"},
		{"start", g.Start.String(), "earliest"},
	} {
		if x.got != x.want {
			t.Errorf("%s = %q, want %q", x.name, x.got, x.want)
		}
	}
	if !s.AutoCreate || len(c.Roles) != 4 || s.Outbox[0].Partitions != 16 {
		t.Errorf("auto_create %v, roles %v, partitions %d", s.AutoCreate, c.Roles, s.Outbox[0].Partitions)
	}
	if st := g.Handle["OrderPlaced"][0]; st.Pos.Line != 12 || !strings.HasPrefix(st.SQL, "insert into order_totals") {
		t.Errorf("statement at %v: %q", st.Pos, st.SQL)
	}
}

// TestLoad_TheReadmeFileAsItStands: the file that README and design show, references inside of braces too.
func TestLoad_TheReadmeFileAsItStands(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(readme), "```yaml\n")
	text, _, ok2 := strings.Cut(text, "```")
	if !ok || !ok2 || !strings.Contains(text, "into: {postgres: ${env:WAREHOUSE_DSN}}") {
		t.Fatalf("the README has no such file: %s", text)
	}
	t.Setenv("SHOP_DSN", "postgres://127.0.0.1/shop")
	t.Setenv("WAREHOUSE_DSN", "postgres://127.0.0.1/warehouse")
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if dsn, err := config.PostgresConnString(c.Consumers["order-totals"].Into.Postgres); err != nil || dsn != "postgres://127.0.0.1/warehouse" {
		t.Errorf("into: %q, %v", dsn, err)
	}
	if got := c.Place("consumers.order-totals.into.postgres"); !strings.HasSuffix(got, "outrelay.yaml:10:22") {
		t.Errorf("place %s", got)
	}
}

func TestLoad_BOMAndCRLFAreAccepted(t *testing.T) {
	t.Parallel()
	c, err := load(t, "\xef\xbb\xbf"+strings.ReplaceAll(first, "\n", "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if sql := c.Consumers["order-totals"].Handle["OrderPlaced"][0].SQL; strings.Contains(sql, "\r") {
		t.Errorf("the statement kept its carriage returns: %q", sql)
	}
}

func TestLoad_NamesKeepCaseAndDots(t *testing.T) {
	t.Parallel()
	c, err := load(t, strings.Replace(first, "handle:", "handle:\n      a: select 1\n      A: select 2", 1)+
		"topics:\n  Orders.v1: {partitions: 3}\n")
	if err != nil {
		t.Fatal(err)
	}
	h := c.Consumers["order-totals"].Handle
	if h["a"][0].SQL != "select 1" || h["A"][0].SQL != "select 2" {
		t.Errorf("handlers a and A: %v", h)
	}
	if c.Topics["Orders.v1"] == nil || c.Topics["Orders.v1"].Partitions != 3 {
		t.Errorf("topics: %v", c.Topics)
	}
}

// TestLoad_BadFiles names, for each bad input, the place, the code and the words that a reader needs (reference numbers B01…).
func TestLoad_BadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		if !strings.Contains(first, old) {
			t.Fatalf("the base file has no %q", old)
		}
		return strings.Replace(first, old, new, 1)
	}
	dsn := "postgres: postgres://relay@127.0.0.1:5432/shop"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'h'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+p+",", 10), ",") + "]\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"B01 empty", "", "no sources or consumers [nothing-to-do]"},
		{"B01 comment only", "# nothing\n", "no sources or consumers [nothing-to-do]"},
		{"B02 tab", "sources:\n\tshop: {}\n", ":2:1: "},
		{"B02 unclosed", "sources: [\n", "[bad-yaml]"},
		{"B03 unknown key", edit("    outbox:", "    publicaton: p\n    outbox:"), ":4:5: sources.shop.publicaton: unknown key publicaton [unknown-key]; did you mean publication?"},
		{"B04 duplicate key", edit("    outbox:", "    "+dsn+"\n    outbox:"), ":4:5: sources.shop.postgres: key postgres stands here for the second time; the first is at line 3 [duplicate-key]"},
		{"B05 alias bomb", first + "topics: {x: {configs: {k: v}}}\nroles: *h\n" + "", "[bad-yaml]"},
		{"B05 alias bomb used", bomb + first + "log: {kafka: *h}\n", "unknown key a"},
		{"B05 large", first + "#" + strings.Repeat("x", 2<<20), "[file-too-large]"},
		{"B06 wrong type", first + "broker: {partitions: abc}\n", `:14:22: broker.partitions: expected a whole number, found "abc" [wrong-type]`},
		{"B06 port", first + "broker: {listen: '127.0.0.1:abc'}\n", `broker.listen: "abc" is no port [bad-port]`},
		{"B06 list for text", edit("table: public.outbox", "table: [a, b]"), "sources.shop.outbox[0].table: expected text, found a list [wrong-type]"},
		{"B07 no unit", first + "broker: {retention: 10}\n", "duration \"10\" has no unit"},
		{"B07 negative", first + "broker: {retention: -5s}\n", "is negative"},
		{"B07 zero", first + "broker: {retention: 0s}\n", "must be more than zero"},
		{"B07 overflow", first + "broker: {retention: 99999999999999d}\n", "is too long"},
		{"B08 unset env", edit(dsn, "postgres: ${env:OUTRELAY_TEST_UNSET}"), ":3:15: sources.shop.postgres: environment variable OUTRELAY_TEST_UNSET is not set [unresolved-reference]"},
		{"B09 file missing", edit(dsn, "postgres: ${file:"+dir+"/none}"), "no such file"},
		{"B09 directory", edit(dsn, "postgres: ${file:"+dir+"}"), "is a directory"},
		{"B09 10 MB", edit(dsn, "postgres: ${file:"+big+"}"), "more than the 65536 a secret may have"},
		{"B08 unknown reference", edit(dsn, "postgres: ${vault:x}"), "unknown reference ${vault:x} [bad-reference]"},
		{"B10 same slot", edit("consumers:", "  shop2:\n    "+dsn+"\n    slot: outrelay_shop\n    outbox: [{table: public.o2}]\nconsumers:"), "sources.shop2.slot: slot outrelay_shop of the same database is used by source shop too [slot-shared]"},
		{"B11 slot name", edit("    outbox:", "    slot: My-Slot\n    outbox:"), `:4:11: sources.shop.slot: "My-Slot" is no slot name [bad-slot]`},
		{"B12 topic ../x", edit("[outbox.event.order]", "[../x]"), `consumers.order-totals.topics[0]: "../x" is no topic name [bad-topic]`},
		{"B12 topic 300", edit("[outbox.event.order]", "["+strings.Repeat("x", 300)+"]"), "is no topic name"},
		{"B12 topic .", edit("[outbox.event.order]", "['.']"), `"." is no topic name`},
		{"B12 topic __x", edit("[outbox.event.order]", "[__x]"), "reserved for internal use [internal-topic]"},
		{"B13 partitions 0", first + "topics: {t: {partitions: 0}}\n", "topics.t.partitions: 0 partitions [bad-partitions]"},
		{"B13 partitions 1e6", first + "topics: {t: {partitions: 1000000}}\n", "1000000 partitions"},
		{"B14 replication factor", first + "broker: {replication_factor: 3}\n", "replication factor 3 with 1 node"},
		{"B15 cycle", edit("into: {postgres: \"host=127.0.0.1 dbname=warehouse user=w\"}\n    handle:", "into: {"+dsn+"}\n    handle:\n      X: insert into public.outbox (aggregatetype) values ('order')"), "each event would make another, for ever [consumer-cycle]"},
		{"B16 attempts", edit("    handle:", "    attempts: -1\n    handle:"), "consumers.order-totals.attempts: -1 attempts [bad-attempts]"},
		{"B16 backoff", edit("    handle:", "    backoff: {initial: 10s, max: 1s}\n    handle:"), "the longest wait 1s is shorter than the first 10s [backoff-decreases]"},
		{"B18 offsets elsewhere", edit("    handle:", "    offsets: {"+dsn+"}\n    handle:"), "results and offsets must commit in one transaction, so they must be in one database [offsets-elsewhere]"},
		{"B19 listener", first + "broker: {listen: '0.0.0.0:9092'}\n", "broker.listen: 0.0.0.0:9092 is not the loopback"},
		{"sslmode prefer", edit(dsn, dsn+"?sslmode=prefer"), "sslmode=prefer falls back to plaintext"},
		{"empty value", edit(" "+dsn, " postgres:"), "the key has no value [empty-value]"},
		{"reference outside of a secret", edit("table: public.outbox", "table: ${env:HOME}"), "references resolve in connection strings only"},
		{"two logs", first + "roles: [broker, relay]\nlog: {kafka: ['127.0.0.1:9092']}\n", "exclude each other"},
		{"no log", first + "roles: [relay]\n", "relay and consumers have no log [no-log]"},
		{"role", first + "roles: [brokr]\n", `unknown role "brokr"`},
		{"start", edit("    handle:", "    start: yesterday\n    handle:"), `"yesterday" is no place to start`},
		{"topic and route", edit("table: public.outbox", "{table: public.outbox, topic: x, route: {by: kind}}"), "topic and route exclude each other [two-routes]"},
		{"route look-ahead", edit("table: public.outbox", "{table: public.outbox, route: {regex: '(?=x)', replacement: y}}"), "(Java's look-around and back-references are not supported) [bad-route]"},
		{"route group", edit("table: public.outbox", "{table: public.outbox, route: {regex: '(.*)', replacement: 'x.$2'}}"), "the regex has 1 groups"},
		{"route secret", edit("table: public.outbox", "{table: public.outbox, route: {replacement: 'x.${env:HOME}'}}"), `no group named "env:HOME"`},
		{"route topic", edit("table: public.outbox", "{table: public.outbox, route: {replacement: '__x.${routedByValue}'}}"), "sources.shop.outbox[0].route.replacement: topic __x.x is reserved"},
		{"B15 cycle by route", strings.Replace(edit("into: {postgres: \"host=127.0.0.1 dbname=warehouse user=w\"}\n    handle:", "into: {"+dsn+"}\n    handle:\n      X: insert into public.outbox (aggregatetype) values ('order')"),
			"table: public.outbox", "{table: public.outbox, route: {regex: '(.*)', replacement: 'outbox.event.$1'}}", 1), "each event would make another, for ever [consumer-cycle]"},
		{"record bytes", edit("    outbox:", "    record_bytes_max: 1KB\n    outbox:"), "sources.shop.record_bytes_max: records of up to 1KB [bad-record-bytes]; write 16KB to 30MB"},
		{"compression", edit("    outbox:", "    compression: lzma\n    outbox:"), `"lzma" is not one of none, gzip, snappy, lz4, zstd [bad-choice]`},
		{"dialect", edit("    outbox:", "    dialect: debezum\n    outbox:"), "did you mean debezium?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, c.text)
			if err == nil {
				t.Fatalf("accepted; want %q", c.want)
			}
			if !errors.Is(err, outrelay.ErrConfig) || outrelay.ExitCode(err) != 2 {
				t.Errorf("exit code %d, want 2", outrelay.ExitCode(err))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestLoad_ReportsAllAtOnceInFileOrder(t *testing.T) {
	t.Parallel()
	_, err := load(t, "broker: {retention: 10}\nsources:\n  shop: {postgrs: x}\nconsumers:\n  g: {topics: [__x]}\n")
	var ps config.Problems
	if !errors.As(err, &ps) || len(ps) < 5 {
		t.Fatalf("want at least 5 problems, got %v", err)
	}
	for i := 1; i < len(ps); i++ {
		if ps[i].Line < ps[i-1].Line {
			t.Errorf("line %d after line %d", ps[i].Line, ps[i-1].Line)
		}
	}
}

func TestLoad_EnvironmentAndFlagsOverTheFile(t *testing.T) {
	t.Setenv("OUTRELAY_DATA", "/var/lib/outrelay")
	t.Setenv("OUTRELAY_BROKER_LISTEN", "127.0.0.1:1")
	t.Setenv("OUTRELAY_LOG_KAFKA", "")
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	flags.String("kafka-listen", "", "")
	if err := flags.Parse([]string{"--kafka-listen", "127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.LoadOptions{File: write(t, "data: ./here\nbroker: {listen: 127.0.0.1:3}\n"+first), Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/var/lib/outrelay" || c.Broker.Listen != "127.0.0.1:2" {
		t.Errorf("data %q, broker.listen %q", c.Data, c.Broker.Listen)
	}
}

func TestLoad_BadEnvironmentIsNamed(t *testing.T) {
	t.Setenv("OUTRELAY_BROKER_PARTITIONS", "many")
	_, err := load(t, first)
	if err == nil || !strings.Contains(err.Error(), "environment variable OUTRELAY_BROKER_PARTITIONS: broker.partitions: expected a whole number") {
		t.Errorf("got %v", err)
	}
}

func TestSecret_NeverPrints(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"postgres://u:CANARY_1@h/db", "host=h password=CANARY_1 user=u", "host=h password='CANARY_1 x' user=u"} {
		s := config.NewSecret(dsn)
		j, _ := s.MarshalJSON()
		y, _ := s.MarshalYAML()
		for _, out := range []string{s.String(), s.GoString(), string(j), y.(string), s.LogValue().String()} {
			if strings.Contains(out, "CANARY_1") {
				t.Errorf("%s shows in %s", dsn, out)
			}
		}
	}
	if s := config.NewSecret("postgres://u:${env:P}@h/db").String(); s != "postgres://u:${env:P}@h/db" {
		t.Errorf("a reference should show as it is: %s", s)
	}
}

func TestSecret_ResolvesAnewEachTime(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "password")
	s := config.NewSecret("host=h password=${file:" + name + "}")
	for _, p := range []string{"one", "two"} {
		if err := os.WriteFile(name, []byte(p+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Resolve(); err != nil || got != "host=h password="+p {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestPostgresConnString_VerifiesUnlessLoopback(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"postgres://u@db.example/x", "postgres://u@db.example/x?sslmode=verify-full"},
		{"host=db.example user=u", "host=db.example user=u sslmode=verify-full"},
		{"postgres://u@db.example/x?sslmode=disable", "postgres://u@db.example/x?sslmode=disable"},
		{"postgres://u@127.0.0.1/x", "postgres://u@127.0.0.1/x"},
		{"host=/run/postgresql", "host=/run/postgresql"},
		{"postgres://u@[::1]/x", "postgres://u@[::1]/x"},
	} {
		if got, err := config.PostgresConnString(config.NewSecret(c.in)); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestShow_LoadsAgainAndHidesSecrets(t *testing.T) {
	t.Parallel()
	c, err := load(t, strings.Replace(first, "relay@", "relay:CANARY_2@", 1))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings()) != 1 || c.Warnings()[0].Code != "secret-in-file" {
		t.Errorf("warnings %v", c.Warnings())
	}
	b, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("CANARY_2")) {
		t.Error("config show prints a password")
	}
	if _, err := load(t, string(b)); err != nil {
		t.Errorf("what config show prints does not load: %v\n%s", err, b)
	}
}

func TestDuration_RoundTrip(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1.5s": 1500 * time.Millisecond, "500ms": 500 * time.Millisecond, "90m": 90 * time.Minute} {
		d, err := config.ParseDuration(in)
		if err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", in, d, err)
		}
		if again, err := config.ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%s prints as %s, which reads as %v, %v", in, d, again, err)
		}
	}
}

func TestSchema_CheckedInIsCurrent(t *testing.T) {
	t.Parallel()
	want, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("OUTRELAY_REWRITE") != "" {
		if err := os.WriteFile("outrelay.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("outrelay.schema.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("outrelay.schema.json is stale (%v); run OUTRELAY_REWRITE=1 go test ./config", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(first))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("sources: {x: {outbox: [{table: 1, topic: '{{}'}]}}"))
	f.Add([]byte("consumers: {x: {handle: {a: [b, [c]]}, into: {postgres: 'host=${env:HOME} password=x'}}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			t.Skip()
		}
		name := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.LoadOptions{File: name})
		if err == nil && c == nil {
			t.Fatal("neither a configuration nor an error")
		}
		if err != nil && !errors.Is(err, outrelay.ErrConfig) {
			t.Fatalf("class: %v", err)
		}
	})
}
