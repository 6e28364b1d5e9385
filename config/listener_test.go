package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/config"
)

// certificate writes a self-signed certificate and its key, and returns the files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kd}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestListeners_defaults(t *testing.T) {
	t.Setenv("APP_PASSWORD", "CANARY_pw")
	cert, key := certificate(t)
	c, err := load(t, first+"broker:\n  listen: 0.0.0.0:9093\n  tls: {cert: "+cert+", key: "+key+"}\n"+
		"  users: {app: {password: ${env:APP_PASSWORD}, allow: ['read,write topic orders-*', 'describe cluster']}}\n"+
		"  listeners: {local: {listen: '127.0.0.1:9094', sasl: []}, plain: {listen: '127.0.0.1:9095'}}\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ got, want []string }{
		"TLS":       {c.Broker.SASL, []string{"SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}},
		"none":      {c.Broker.Listeners["local"].SASL, nil},
		"plaintext": {c.Broker.Listeners["plain"].SASL, []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}},
	} {
		if !slices.Equal(tc.got, tc.want) {
			t.Errorf("%s: mechanisms %v, want %v", name, tc.got, tc.want)
		}
	}
	shown, err := c.YAML()
	if err != nil || strings.Contains(string(shown), "CANARY") {
		t.Errorf("shown: %v\n%s", err, shown)
	}
	again, err := load(t, string(shown))
	if err != nil || !slices.Equal(again.Broker.SASL, c.Broker.SASL) || len(again.Broker.Listeners["local"].SASL) != 0 {
		t.Errorf("what is shown says something else when it is read: %v", err)
	}
	if c, err = load(t, first+"broker: {users: {app: {password: CANARY_in_file}}}\n"); err != nil || len(c.Warnings()) == 0 {
		t.Fatalf("%v, warnings %v", err, c.Warnings())
	}
	shown, _ = c.YAML()
	if strings.Contains(string(shown), "CANARY") || !strings.Contains(string(shown), "***") {
		t.Errorf("a password in the file is shown:\n%s", shown)
	}
}

func TestListeners_problems(t *testing.T) {
	t.Setenv("EMPTY", "")
	cert, key := certificate(t)
	tls := "tls: {cert: " + cert + ", key: " + key
	for _, tc := range []struct{ name, broker, want string }{
		{"no authentication", "listen: '0.0.0.0:1'", "insecure-listener"},
		{"TLS is no authentication", "listen: '0.0.0.0:1', " + tls + "}", "insecure-listener"},
		{"optional certificates are none", "listen: '0.0.0.0:1', " + tls + ", client_ca: " + cert + ", client_auth: optional}", "insecure-listener"},
		{"another listener", "listeners: {x: {listen: '0.0.0.0:1'}}", "broker.listeners.x.listen: 0.0.0.0:1 is not the loopback"},
		{"a listener without authentication beside users", "users: {a: {password: '${env:HOME}'}}, listeners: {x: {listen: '0.0.0.0:1', sasl: []}}", "insecure-listener"},
		{"PLAIN in clear", "sasl: [PLAIN]", "plain-in-clear"},
		{"no such mechanism", "sasl: [GSSAPI]", "bad-choice"},
		{"no key", "tls: {cert: " + cert + "}", "tls-half"},
		{"no such file", "tls: {cert: /nowhere, key: /nowhere}", "tls-file"},
		{"certificates without authority", tls + ", client_auth: required}", "no-client-ca"},
		{"users without a way in", "users: {a: {allow: ['read topic x']}}", "users-without-authentication"},
		{"reserved user", "users: {outrelay: {password: '${env:HOME}'}}", "bad-user"},
		{"empty password", "users: {a: {password: '${env:EMPTY}'}}", "empty-password"},
		{"rule without a name", "users: {a: {password: '${env:HOME}', allow: ['read topic']}}", "bad-rule"},
		{"operation of another type", "users: {a: {password: '${env:HOME}', allow: ['write group g']}}", `"write" cannot be done to a group`},
		{"limit", "limits: {connections: 0}", "bad-limit"},
		{"name of a listener", "listeners: {kafka: {listen: '127.0.0.1:1'}}", "bad-name"},
	} {
		if _, err := load(t, first+"broker: {"+tc.broker+"}\n"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
	}
	for name, broker := range map[string]string{
		"SASL":         "listen: '0.0.0.0:1', " + tls + "}, users: {a: {password: '${env:HOME}'}}",
		"certificates": "listen: '0.0.0.0:1', " + tls + ", client_ca: " + cert + "}",
		"insecure":     "listen: '0.0.0.0:1', insecure: true",
	} {
		if _, err := load(t, first+"broker: {"+broker+"}\n"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Rule{
		"read topic orders":        {Operations: []string{"read"}, Type: "topic", Name: "orders"},
		"read,write  topic app-*":  {Operations: []string{"read", "write"}, Type: "topic", Name: "app-", Prefix: true},
		"all group *":              {Operations: []string{"all"}, Type: "group", Name: "*"},
		"describe cluster":         {Operations: []string{"describe"}, Type: "cluster"},
		"write transactional_id t": {Operations: []string{"write"}, Type: "transactional_id", Name: "t"},
	} {
		got, err := config.ParseRule(text)
		if err != nil || got.Type != want.Type || got.Name != want.Name || got.Prefix != want.Prefix || !slices.Equal(got.Operations, want.Operations) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "read", "read topic", "read topic a b", "read cluster x", "own topic x", "read,  topic x", "READ topic x", "read user x"} {
		if _, err := config.ParseRule(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
