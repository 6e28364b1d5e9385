package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/config"
)

const external = `log:
  kafka:
    brokers: [kafka-1:9093, kafka-2:9093]
    tls: {server_name: kafka.internal}
    sasl: {mechanism: SCRAM-SHA-512, user: outrelay, password: "${env:EXT_PASSWORD}"}
    client_id: shop
    prefix: shop.
    replication_factor: 3
    min_insync_replicas: 2
`

func mustLoad(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLog_ListAndMapping(t *testing.T) {
	t.Setenv("EXT_PASSWORD", "hunter2")
	c := mustLoad(t, first+"log: {kafka: ['kafka-1:9092']}\n")
	if !c.Log.External() || !slices.Equal(c.Log.Kafka.Brokers, []string{"kafka-1:9092"}) || c.Log.Kafka.TLS.On() || c.Has(config.RoleBroker) {
		t.Errorf("a list: %+v, roles %v", c.Log, c.Roles)
	}
	c = mustLoad(t, first+external)
	k := c.Log.Kafka
	if len(k.Brokers) != 2 || !k.TLS.On() || k.Prefix != "shop." || k.ReplicationFactor != 3 || k.MinInsyncReplicas != 2 || k.ClientID != "shop" {
		t.Errorf("a mapping: %+v", k)
	}
	if pw, err := k.SASL.Password.Resolve(); err != nil || pw != "hunter2" {
		t.Errorf("password %q, %v", pw, err)
	}
	shown, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(shown), "hunter2") || !strings.Contains(string(shown), "${env:EXT_PASSWORD}") {
		t.Errorf("shown:\n%s", shown)
	}
	again := mustLoad(t, string(shown))
	if again.Log.Kafka.Prefix != k.Prefix || !again.Log.Kafka.TLS.On() {
		t.Errorf("what is shown says something else when it is read: %+v", again.Log.Kafka)
	}
	if c = mustLoad(t, first+"log: {kafka: {brokers: ['k:9093'], tls: {}}}\n"); !c.Log.Kafka.TLS.On() {
		t.Error("tls: {} asks for TLS")
	}
}

func TestLog_Environment(t *testing.T) {
	t.Setenv("OUTRELAY_LOG_KAFKA", "[a:1, b:2]")
	t.Setenv("OUTRELAY_LOG_KAFKA_PREFIX", "x.")
	c := mustLoad(t, first)
	if !slices.Equal(c.Log.Kafka.Brokers, []string{"a:1", "b:2"}) || c.Log.Kafka.Prefix != "x." {
		t.Errorf("%+v", c.Log.Kafka)
	}
}

func TestLog_Problems(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"a text":              {"log: {kafka: k:9092}", "expected a list of addresses or a mapping"},
		"no brokers":          {"log: {kafka: {prefix: a}}", "[no-brokers]"},
		"no port in a list":   {"log: {kafka: [kafka-1]}", `"kafka-1" is no address`},
		"no port":             {"log: {kafka: {brokers: [kafka-1]}}", `"kafka-1" is no address`},
		"a key":               {"log: {kafka: {broker: ['k:1']}}", "did you mean brokers?"},
		"a prefix":            {"log: {kafka: {brokers: ['k:1'], prefix: 'a/b'}}", "[bad-prefix]"},
		"more in sync":        {"log: {kafka: {brokers: ['k:1'], replication_factor: 2, min_insync_replicas: 3}}", "[min-insync-replicas]"},
		"half a certificate":  {"log: {kafka: {brokers: ['k:1'], tls: {cert: /x}}}", "[tls-half]"},
		"no such CA":          {"log: {kafka: {brokers: ['k:1'], tls: {ca: /no/such}}}", "[tls-file]"},
		"no such certificate": {"log: {kafka: {brokers: ['k:1'], tls: {cert: /no/such, key: /no/such}}}", "[tls-file]"},
		"a mechanism":         {"log: {kafka: {brokers: ['k:1'], sasl: {mechanism: SCRAM-SHA-1, user: u, password: p}}}", "did you mean SCRAM-SHA-512?"},
		"PLAIN in clear":      {"log: {kafka: {brokers: ['k:1'], sasl: {mechanism: PLAIN, user: u, password: p}}}", "[plain-in-clear]"},
		"no user":             {"log: {kafka: {brokers: ['k:1'], sasl: {mechanism: SCRAM-SHA-512, password: p}}}", "[no-user]"},
		"no password":         {"log: {kafka: {brokers: ['k:1'], sasl: {mechanism: SCRAM-SHA-512, user: u}}}", "[no-password]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, first+c.yaml+"\n")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
		})
	}
}

func TestPassword_IsNeverShown(t *testing.T) {
	c := mustLoad(t, first+"log: {kafka: {brokers: ['k:1'], sasl: {mechanism: SCRAM-SHA-512, user: u, password: hunter2}}}\n")
	b, err := c.YAML()
	if err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("%v\n%s", err, b)
	}
	if w := c.Warnings(); len(w) != 1 || w[0].Code != "secret-in-file" {
		t.Errorf("warnings %v", w)
	}
}
