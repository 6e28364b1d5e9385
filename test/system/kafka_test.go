package system_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/testenv"
)

// What follows runs against Apache Kafka in every run. With OUTRELAY_TEST_LOG=kafka all other tests do too, but for those of outrelay's own broker.

// The broker is killed with SIGKILL under load, again and again: the relay's transaction breaks off wherever it is, and begins again from the position.
func TestKafka_brokerKilledUnderLoad(t *testing.T) {
	w := newWorld(t, worldOptions{kafka: true})
	w.start()
	l := w.load(rate)
	times := 1
	if soak() || external() {
		times = 10
	}
	for range times {
		w.appliedMore(100, 60*time.Second)
		if err := w.kf.Kill9(); err != nil {
			t.Fatal(err)
		}
		if err := w.kf.Start(); err != nil {
			t.Fatal(err)
		}
	}
	w.appliedMore(100, 60*time.Second)
	w.stopLoad(l)
	w.verify()
}

// A cluster whose transactions are of version 1 works as well; validate and status name the window that it leaves open.
func TestKafka_transactionVersion1(t *testing.T) {
	w := newWorld(t, worldOptions{failpoints: true, noLog: true})
	w.onKafka(testenv.KafkaOptions{TransactionVersion: 1})
	if out := w.cli("validate"); !containsAll(out, []string{"Kafka v4.3", "LIMIT: exactly once has a window", "KAFKA-17754"}) {
		t.Errorf("validate says:\n%s", out)
	}
	w.start()
	if out := w.cli("status", "--http", w.Process.HTTP); !containsAll(out, []string{"Kafka v4.3", "KAFKA-17754"}) {
		t.Errorf("status says:\n%s", out)
	}
	w.stop()
	w.killAt("C3", 3, 20)
	w.killAt("relay.beforeCommit", 2, 20)
	w.start()
	w.verify()
}

// The sidecar of examples/ as it stands, on a cluster with TLS, SCRAM and ACLs: the rights that its README asks for are enough.
func TestKafka_sidecarExample(t *testing.T) {
	w := newWorld(t, worldOptions{noLog: true, edit: func(string) string { return example(t) }})
	port := testenv.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	ca, server := certificates(t)
	k := testenv.StartKafka(t, testenv.KafkaOptions{
		Listeners: []testenv.KafkaListener{{Name: "SECURE", Protocol: "SASL_SSL", Port: port}},
		Config: map[string]string{
			"listener.name.secure.sasl.enabled.mechanisms":        "SCRAM-SHA-512",
			"listener.name.secure.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
			"listener.name.secure.ssl.keystore.type":              "PEM",
			"listener.name.secure.ssl.keystore.location":          server,
			"authorizer.class.name":                               "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                                         "User:ANONYMOUS", // the plaintext listener is the administrator's
			"allow.everyone.if.no.acl.found":                      "false",
		},
	})
	w.kf = k
	w.Process.Kafka, w.Process.External = k.Addr(), true
	w.Process.Env = append(w.Process.Env, "KAFKA_PASSWORD=s3cret", "OUTRELAY_LOG_KAFKA_BROKERS=["+addr+"]", "OUTRELAY_LOG_KAFKA_TLS_CA="+ca,
		"OUTRELAY_LOG_KAFKA_REPLICATION_FACTOR=1", "OUTRELAY_LOG_KAFKA_MIN_INSYNC_REPLICAS=1")
	if out := w.cliAny("validate"); !strings.Contains(out, "not reached") {
		t.Errorf("validate without a user in the cluster says:\n%s", out)
	}
	grant(t, w, "shop-outrelay", "s3cret")
	if out := w.cliAny("validate"); !containsAll(out, []string{"Kafka v4.3", "holds: exactly once"}) {
		t.Errorf("validate says:\n%s", out)
	}
	w.start()
	w.pg.Exec(t, w.db, "select place_order('c1', 10, true), place_order('c2', 5, true), place_order('c1', 2.5, true)")
	await(t, "the totals are there", 30*time.Second, func() bool {
		return totals(t, w.Warehouse, "select coalesce(string_agg(customer || '=' || total, ' ' order by customer), '') from order_totals") == "c1=12.50 c2=5.00"
	})
}

// totals runs a query that returns one text.
func totals(t *testing.T, dsn, sql string) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// example returns the example's file.
func example(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../examples/sidecar/outrelay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// grant makes a user and gives it what examples/sidecar/README.md says, and nothing more.
func grant(t *testing.T, w *world, user, password string) {
	t.Helper()
	adm := kadm.NewClient(w.client())
	if _, err := adm.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password}}); err != nil {
		t.Fatal(err)
	}
	acls := func(b *kadm.ACLBuilder) {
		t.Helper()
		rs, err := adm.CreateACLs(t.Context(), b.Allow("User:"+user).AllowHosts("*").ResourcePatternType(kadm.ACLPatternPrefixed))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	acls(kadm.NewACLs().Topics("shop.").Operations(kadm.OpRead, kadm.OpWrite, kadm.OpCreate, kadm.OpDescribe, kadm.OpDescribeConfigs))
	acls(kadm.NewACLs().Groups("shop.").Operations(kadm.OpRead, kadm.OpDescribe))
	acls(kadm.NewACLs().TransactionalIDs("shop.").Operations(kadm.OpWrite, kadm.OpDescribe))
}

// certificates returns PEM files: of an authority, and of a server's key and certificate for the loopback.
func certificates(t *testing.T) (ca, server string) {
	t.Helper()
	dir := t.TempDir()
	sign := func(tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name string, blocks ...*pem.Block) string {
		var b []byte
		for _, x := range blocks {
			b = append(b, pem.EncodeToMemory(x)...)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	caKey, key := newKey(), newKey()
	caCert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: from, NotAfter: to, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	cert := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kafka"}, NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca = write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: sign(caCert, caCert, caKey, caKey)})
	server = write("server.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}, &pem.Block{Type: "CERTIFICATE", Bytes: sign(cert, caCert, key, caKey)})
	return ca, server
}

// onKafka gives a world without a log a Kafka.
func (w *world) onKafka(o testenv.KafkaOptions) {
	w.t.Helper()
	w.kf = testenv.StartKafka(w.t, o)
	w.edit(w.Config + "log: {kafka: ['" + w.kf.Addr() + "']}\n")
	w.Process.Kafka, w.Process.External = w.kf.Addr(), true
}

// cliAny runs outrelay on the world's own file and returns what it says, whatever its exit code.
func (w *world) cliAny(args ...string) string {
	w.t.Helper()
	o := w.runCLI("", append(args, "-c", filepath.Join(w.Dir, "outrelay.yaml"))...)
	return o.stdout + o.stderr
}

// transactions tells which transactions the log knows, and which producers its positions have: what holds readers up.
func transactions(t *testing.T, addr string) string {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err.Error()
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	adm := kadm.NewClient(cl)
	txns, err := adm.DescribeTransactions(ctx)
	text := ""
	for _, x := range txns.Sorted() {
		text += fmt.Sprintf("%+v\n", x)
	}
	topics, terr := adm.ListTopics(ctx)
	producers, perr := adm.DescribeProducers(ctx, topics.TopicsSet())
	for _, p := range producers.SortedProducers() {
		if p.CurrentTxnStartOffset >= 0 {
			text += fmt.Sprintf("open: %+v\n", p)
		}
	}
	ends, eerr := adm.ListEndOffsets(ctx, topics.Names()...)
	stable, serr := adm.ListCommittedOffsets(ctx, topics.Names()...)
	ends.Each(func(o kadm.ListedOffset) {
		if s, ok := stable.Lookup(o.Topic, o.Partition); ok && s.Offset != o.Offset {
			text += fmt.Sprintf("%s/%d ends at %d, stable up to %d\n", o.Topic, o.Partition, o.Offset, s.Offset)
		}
	})
	return text + fmt.Sprint(errors.Join(err, terr, perr, eerr, serr))
}
