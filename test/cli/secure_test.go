package cli_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
)

// secureFile is a log with TLS, SCRAM and access control: fifteen lines or less.
const secureFile = `broker:
  advertise: ADVERTISE
  tls: {cert: CERT, key: KEY}
  users:
    admin: {password: "${env:ADMIN_PASSWORD}", super: true}
    app:
      password: ${file:SECRET}
      allow: [all topic orders, read group app-*]
`

// secureLog runs such a log and returns it with the directory of its files.
func secureLog(t *testing.T) (p *demo.Process, dir string) {
	t.Helper()
	dir = t.TempDir()
	p, err := demo.NewProcess(binary(t), dir, "ADMIN_PASSWORD=CANARY_admin")
	if err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, dir)
	_, port, _ := net.SplitHostPort(p.Kafka)
	text := strings.NewReplacer("ADVERTISE", "localhost:"+port, "CERT", filepath.Join(dir, "tls.pem"), "KEY", filepath.Join(dir, "tls.key"),
		"SECRET", filepath.Join(dir, "app.password")).Replace(secureFile)
	for name, b := range map[string]string{"outrelay.yaml": text, "app.password": "CANARY_app\n", "wrong.password": "CANARY_wrong\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.Args = []string{"--log-only"}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("the end of the log's log:\n%s", p.Tail())
		}
	})
	if _, err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"tls.pem": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: kd}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// kcat runs kcat as a user of the log, by SCRAM-SHA-512 over TLS; no user means without SASL.
func kcat(t *testing.T, dir, addr, user, password, stdin string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		t.Skip("kcat is not installed; make deps installs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, port, _ := net.SplitHostPort(addr)
	all := []string{"-b", "localhost:" + port, "-X", "ssl.ca.location=" + filepath.Join(dir, "tls.pem"), "-X", "security.protocol=SSL"}
	if user != "" {
		all[len(all)-1] = "security.protocol=SASL_SSL"
		all = append(all, "-X", "sasl.mechanisms=SCRAM-SHA-512", "-X", "sasl.username="+user, "-X", "sasl.password="+password)
	}
	cmd := exec.CommandContext(ctx, "kcat", append(all, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// TestSecureLog: with the right password a client works, with a wrong one and with none it does not, what is not allowed is denied, all of that stands in
// the audit log, and no secret stands anywhere.
func TestSecureLog(t *testing.T) {
	t.Parallel()
	p, dir := secureLog(t)
	in := call{dir: dir, env: []string{"ADMIN_PASSWORD=CANARY_admin"}}
	at := func(args ...string) []string { return append([]string{"--kafka", p.Kafka}, args...) } // the file's address is the default one
	var shown strings.Builder
	ok := func(args ...string) string {
		t.Helper()
		out := in.ok(t, at(args...)...)
		shown.WriteString(out)
		return out
	}
	fails := func(in call, code int, want string, args ...string) {
		t.Helper()
		r := in.run(t, at(args...)...)
		shown.WriteString(r.stdout + r.stderr)
		if r.code != code || !strings.Contains(r.stderr, want) {
			t.Errorf("%v: exit code %d, want %d and %s\n%s", args, r.code, code, want, r.stderr)
		}
	}
	ok("topics", "create", "orders", "secret", "--partitions", "1")
	if out, err := kcat(t, dir, p.Kafka, "app", "CANARY_app", "hello\n", "-P", "-t", "orders"); err != nil {
		t.Fatalf("the right password: %v\n%s", err, out)
	}
	if out, err := kcat(t, dir, p.Kafka, "app", "CANARY_app", "", "-C", "-t", "orders", "-o", "beginning", "-e", "-q"); err != nil || out != "hello\n" {
		t.Fatalf("reading with the right password: %q, %v", out, err)
	}
	for name, who := range map[string][2]string{"a wrong password": {"app", "CANARY_wrong"}, "no user": {}, "an unknown user": {"eve", "CANARY_wrong"}} {
		if out, err := kcat(t, dir, p.Kafka, who[0], who[1], "", "-L", "-m", "2"); err == nil {
			t.Errorf("%s: kcat works: %s", name, out)
		}
	}
	if out, err := kcat(t, dir, p.Kafka, "app", "CANARY_app", "x\n", "-P", "-t", "secret", "-X", "message.timeout.ms=3000"); err == nil {
		t.Errorf("a topic that is not allowed can be written: %s", out)
	}

	other := call{dir: t.TempDir()}
	as := func(user, file string, args ...string) []string {
		return append([]string{"--tls-ca", filepath.Join(dir, "tls.pem"), "--user", user, "--password-file", filepath.Join(dir, file)}, args...)
	}
	in.stdin = "CANARY_bob\n"
	ok("users", "add", "bob")
	ok("acls", "add", "bob", "read,write topic orders", "read group b-*")
	if err := os.WriteFile(filepath.Join(dir, "bob.password"), []byte("CANARY_bob"), 0o600); err != nil {
		t.Fatal(err)
	}
	other.stdin = "from bob\n"
	other.ok(t, at(as("bob", "bob.password", "produce", "orders")...)...)
	fails(other, 1, "TOPIC_AUTHORIZATION_FAILED", as("bob", "bob.password", "produce", "secret")...)
	fails(other, 1, "SASL_AUTHENTICATION_FAILED", as("bob", "wrong.password", "topics", "list")...)
	fails(other, 2, "--user and --password-file go together", "--user", "bob", "topics", "list")
	fails(other, 1, "CLUSTER_AUTHORIZATION_FAILED", as("bob", "bob.password", "acls", "list")...)
	fails(in, 1, "stands in the operator's file", "users", "delete", "admin")
	fails(in, 2, "is no rule", "acls", "add", "bob", "rule")
	if out := ok("users", "list"); !strings.Contains(out, "bob ") || !strings.Contains(out, "admin ") {
		t.Errorf("users:\n%s", out)
	}
	if out := ok("acls", "list", "bob", "--json"); strings.Count(out, `"User:bob"`) != 3 {
		t.Errorf("acls of bob:\n%s", out)
	}
	ok("acls", "delete", "bob", "write topic orders")
	fails(other, 1, "AUTHORIZATION_FAILED", as("bob", "bob.password", "produce", "orders")...)
	ok("users", "delete", "bob")
	fails(other, 1, "SASL_AUTHENTICATION_FAILED", as("bob", "bob.password", "topics", "list")...)

	ok("config", "show")
	resp, err := http.Get("http://" + p.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !strings.Contains(string(metrics), "outrelay_broker_access_denied_total{operation=") ||
		!strings.Contains(string(metrics), "outrelay_broker_authentication_failures_total{listener=\"kafka\"") {
		t.Errorf("metrics of denials are missing: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "outrelay.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"code":"authentication-failed","claimed":"app"`, `"code":"unauthenticated"`, `"code":"access-denied","principal":"User:app"`,
		`"claimed":"eve"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
	for what, text := range map[string]string{"the log": string(log), "the metrics": string(metrics), "what the verbs print": shown.String()} {
		if strings.Contains(text, "CANARY") {
			t.Errorf("%s shows a secret", what)
		}
	}
}

// TestSecureLog_newCertificate: a certificate that is replaced is in force for the next connection, and one that cannot be read is not.
func TestSecureLog_newCertificate(t *testing.T) {
	t.Parallel()
	p, dir := secureLog(t)
	in := call{dir: dir, env: []string{"ADMIN_PASSWORD=CANARY_admin"}}
	in.ok(t, "--kafka", p.Kafka, "topics", "list")
	before, err := os.ReadFile(filepath.Join(dir, "tls.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "old.pem"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	old := []string{"--kafka", p.Kafka, "--tls-ca", filepath.Join(dir, "old.pem"), "topics", "list"}
	if err := os.WriteFile(filepath.Join(dir, "tls.pem"), []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	app := append([]string{"--user", "app", "--password-file", filepath.Join(dir, "app.password")}, old...)
	call{}.ok(t, app...)
	writeCertificate(t, dir)
	in.ok(t, "--kafka", p.Kafka, "topics", "list")
	if r := (call{}).run(t, app...); r.code == 0 {
		t.Error("the certificate that was replaced is still shown")
	}
}
