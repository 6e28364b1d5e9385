package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/clock"
)

const (
	canaryAdmin = "CANARY_admin_3f1c"
	canaryAlice = "CANARY_alice_9b7e"
)

// logLines is a log that a test reads.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// secured makes a broker authenticate: admin is a super user, alice is nobody until a list says otherwise.
func secured(o *broker.Options) {
	o.Listeners[0].SASL = []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512}
	o.Access = broker.Access{
		Users:      map[string]string{"admin": canaryAdmin, "alice": canaryAlice},
		SuperUsers: []auth.Principal{"User:admin"},
	}
}

// withTLS makes the listener a TLS one that offers PLAIN too.
func withTLS(ca *authority) brokertest.Option {
	return func(o *broker.Options) {
		o.Listeners[0].TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue("localhost")}}
		o.Listeners[0].SASL = append(o.Listeners[0].SASL, auth.Plain)
	}
}

// authority issues certificates for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	a.key, a.cert = a.sign(tmpl)
	return a
}

func (a *authority) sign(tmpl *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := tmpl, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// issue returns a certificate for a host or a spiffe:// name.
func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "admin"},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if u, err := url.Parse(name); err == nil && u.Scheme != "" {
		tmpl.URIs = []*url.URL{u}
	} else if name != "" {
		tmpl.DNSNames, tmpl.IPAddresses = []string{name}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	key, cert := a.sign(tmpl)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func scramOf(user, password string) sasl.Mechanism {
	return scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
}

// ping asks for the nodes as whoever the options make it.
func ping(t testing.TB, n *brokertest.Node, opts ...kgo.Opt) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl := newClient(t, n, append([]kgo.Opt{kgo.RequestRetries(0)}, opts...)...)
	_, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	return err
}

func TestSASL_overPlaintextAndTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	logs := &logLines{}
	n := brokertest.New(t, secured, withTLS(ca), func(o *broker.Options) { o.Logger = slog.New(slog.NewTextHandler(logs, nil)) })
	overTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: ca.pool()})
	for _, tc := range []struct {
		name string
		opts []kgo.Opt
		ok   bool
	}{
		{"SCRAM-SHA-256", []kgo.Opt{overTLS, kgo.SASL(scramOf("admin", canaryAdmin))}, true},
		{"SCRAM-SHA-512", []kgo.Opt{overTLS, kgo.SASL(scram.Auth{User: "alice", Pass: canaryAlice}.AsSha512Mechanism())}, true},
		{"PLAIN", []kgo.Opt{overTLS, kgo.SASL(plain.Auth{User: "alice", Pass: canaryAlice}.AsMechanism())}, true},
		{"wrong password", []kgo.Opt{overTLS, kgo.SASL(scramOf("admin", canaryAlice))}, false},
		{"wrong password by PLAIN", []kgo.Opt{overTLS, kgo.SASL(plain.Auth{User: "alice", Pass: canaryAdmin}.AsMechanism())}, false},
		{"nobody of that name", []kgo.Opt{overTLS, kgo.SASL(scramOf("eve", canaryAlice))}, false},
		{"no SASL", []kgo.Opt{overTLS}, false},
		{"no TLS", []kgo.Opt{kgo.SASL(scramOf("admin", canaryAdmin))}, false},
		{"another authority", []kgo.Opt{kgo.DialTLSConfig(&tls.Config{RootCAs: newAuthority(t).pool()}), kgo.SASL(scramOf("admin", canaryAdmin))}, false},
	} {
		if err := ping(t, n, tc.opts...); (err == nil) != tc.ok {
			t.Errorf("%s: %v, want ok %v", tc.name, err, tc.ok)
		} else if err != nil && strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error shows a secret: %v", tc.name, err)
		}
	}
	eventually(t, "denials in the audit log", func() bool { return strings.Count(logs.String(), "code=authentication-failed") == 3 })
	if strings.Contains(logs.String(), "CANARY") {
		t.Fatalf("the log shows a secret:\n%s", logs)
	}
}

// login authenticates a raw connection.
func login(c *rawConn, user, password string) {
	c.t.Helper()
	if code := authenticate(c, scramOf(user, password)).ErrorCode; code != 0 {
		c.t.Fatalf("login of %s: %v", user, kerr.ErrorForCode(code))
	}
}

// authenticate runs one authentication and returns the last answer.
func authenticate(c *rawConn, m sasl.Mechanism) *kmsg.SASLAuthenticateResponse {
	c.t.Helper()
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism = m.Name()
	if r := request[*kmsg.SASLHandshakeResponse](c, hs, 1); r.ErrorCode != 0 {
		c.t.Fatalf("handshake: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	session, msg, err := m.Authenticate(c.t.Context(), "")
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = msg
		r := request[*kmsg.SASLAuthenticateResponse](c, req, 2)
		if r.ErrorCode != 0 {
			return r
		}
		done, next, err := session.Challenge(r.SASLAuthBytes)
		if err != nil {
			c.t.Fatal(err)
		}
		if done {
			return r
		}
		msg = next
	}
}

// closed waits until the broker closes the connection.
func closed(c *rawConn, what string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") || n != 0 {
		c.t.Fatalf("%s: %d bytes came, %v; want the connection closed", what, n, err)
	}
}

func TestPreAuth_onlyTheThree(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured)
	for _, a := range broker.ServedAPIs() {
		c := dialRaw(t, n)
		if a.Key == 17 || a.Key == 18 || a.Key == 36 {
			continue
		}
		c.send(requestForKey(a.Key), a.Max)
		closed(c, kmsg.NameForKey(a.Key))
	}
	c := dialRaw(t, n)
	if r := request[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0); r.ErrorCode != 0 || len(r.ApiKeys) == 0 {
		t.Fatal("ApiVersions is not answered before authentication")
	}
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = []byte("n,,n=admin,r=x")
	if r := request[*kmsg.SASLAuthenticateResponse](c, req, 2); r.ErrorCode != kerr.IllegalSaslState.Code {
		t.Fatalf("SaslAuthenticate without a handshake: code %d", r.ErrorCode)
	}
	closed(c, "authenticate without handshake")
	c = dialRaw(t, n)
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism = "PLAIN" // not without TLS
	if r := request[*kmsg.SASLHandshakeResponse](c, hs, 1); r.ErrorCode != kerr.UnsupportedSaslMechanism.Code || len(r.SupportedMechanisms) != 2 {
		t.Fatalf("PLAIN without TLS: %+v", r)
	}
	closed(c, "unsupported mechanism")
}

func requestForKey(key int16) kmsg.Request { return kmsg.RequestForKey(key) }

func TestPreAuth_limits(t *testing.T) {
	t.Parallel()
	t.Run("frame", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, brokertest.New(t, secured))
		var b [12]byte
		binary.BigEndian.PutUint32(b[:], 16<<10+1)
		binary.BigEndian.PutUint16(b[4:], 36)
		_, _ = c.Write(b[:])
		closed(c, "a frame of more than 16 KiB")
	})
	t.Run("time", func(t *testing.T) {
		t.Parallel()
		n := brokertest.New(t, secured, func(o *broker.Options) { o.AuthTimeout = 50 * time.Millisecond })
		closed(dialRaw(t, n), "a client that says nothing")
		c := dialRaw(t, n)
		_, _ = c.Write([]byte{0, 0})
		closed(c, "a client that stops in a frame")
	})
	t.Run("time of a TLS handshake", func(t *testing.T) {
		t.Parallel()
		n := brokertest.New(t, secured, withTLS(newAuthority(t)), func(o *broker.Options) { o.AuthTimeout = 50 * time.Millisecond })
		closed(dialRaw(t, n), "a client that does not begin the TLS handshake")
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		n := brokertest.New(t, secured, func(o *broker.Options) { o.PreAuthBytes = 64 << 10 }) // of two connections
		one, two := dialRaw(t, n), dialRaw(t, n)
		request[*kmsg.ApiVersionsResponse](one, kmsg.NewPtrApiVersionsRequest(), 0)
		request[*kmsg.ApiVersionsResponse](two, kmsg.NewPtrApiVersionsRequest(), 0)
		closed(dialRaw(t, n), "a third client that is not known")
		login(one, "admin", canaryAdmin) // gives its share back
		login(dialRaw(t, n), "alice", canaryAlice)
	})
}

func TestAuthenticate_failureClosesAndTellsNothing(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured)
	var texts []string
	for _, who := range []struct{ user, password string }{{"alice", "wrong"}, {"eve", "wrong"}, {"outrelay", "x"}} {
		c := dialRaw(t, n)
		r := authenticate(c, scramOf(who.user, who.password))
		if r.ErrorCode != kerr.SaslAuthenticationFailed.Code || len(r.SASLAuthBytes) != 0 {
			t.Fatalf("%s: %+v", who.user, r)
		}
		texts = append(texts, *r.ErrorMessage)
		closed(c, who.user)
	}
	if texts[0] != texts[1] || texts[1] != texts[2] {
		t.Fatalf("failures can be told apart: %q", texts)
	}
}

func TestAuthenticate_againAndSessionLifetime(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured, func(o *broker.Options) { o.Access.SessionLifetime = 300 * time.Millisecond })
	c := dialRaw(t, n)
	if r := authenticate(c, scramOf("admin", canaryAdmin)); r.SessionLifetimeMillis != 300 {
		t.Fatalf("session lifetime %d ms", r.SessionLifetimeMillis)
	}
	request[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 9)
	login(c, "admin", canaryAdmin) // in time
	request[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 9)
	for expired := false; !expired; { // until it is not answered any more
		b, _ := c.frame(kmsg.NewPtrMetadataRequest(), 9)
		_, werr := c.Write(b)
		var size [4]byte
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, size[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("a session that has expired is neither answered nor closed")
			}
			expired = true
		} else if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(size[:]))); err != nil || werr != nil {
			expired = true
		}
	}

	c = dialRaw(t, n)
	login(c, "admin", canaryAdmin)
	if r := authenticate(c, scramOf("alice", canaryAlice)); r.ErrorCode != kerr.SaslAuthenticationFailed.Code {
		t.Fatalf("a session changed hands: %+v", r)
	}
	closed(c, "a session that changes hands")
}

// TestReauthentication_isInvisible: a real client goes on over many lifetimes.
func TestReauthentication_isInvisible(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured, func(o *broker.Options) { o.Access.SessionLifetime = 3 * time.Second })
	cl := newClient(t, n, kgo.SASL(scramOf("admin", canaryAdmin)), kgo.AllowAutoTopicCreation())
	for start := time.Now(); time.Since(start) < 4*time.Second; {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMTLS_principalIsTheSAN(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	n := brokertest.New(t, func(o *broker.Options) {
		o.Listeners[0].TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue("localhost")}, ClientCAs: ca.pool(), ClientAuth: tls.RequireAndVerifyClientCert}
		o.Access.SuperUsers = []auth.Principal{"User:admin"} // the common name of every certificate here: it must not count
		o.Access.ACLs = []auth.ACL{{Principal: "User:spiffe://example.org/app", Host: "*", Type: auth.Topic, Name: "t",
			Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: auth.All, Permission: kmsg.ACLPermissionTypeAllow}}
	})
	write := func(cert ...tls.Certificate) error {
		cl := newClient(t, n, kgo.DialTLSConfig(&tls.Config{RootCAs: ca.pool(), Certificates: cert}), kgo.AllowAutoTopicCreation(),
			kgo.RequestRetries(0), kgo.RecordRetries(1))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr()
	}
	if err := write(ca.issue("spiffe://example.org/app")); err != nil {
		t.Fatalf("the certificate that may: %v", err)
	}
	for name, cert := range map[string][]tls.Certificate{
		"another name":      {ca.issue("spiffe://example.org/app2")},
		"no name":           {ca.issue("")},
		"another authority": {newAuthority(t).issue("spiffe://example.org/app")},
		"none":              nil,
	} {
		if err := write(cert...); err == nil {
			t.Errorf("%s: may write", name)
		}
	}
}

func TestListener_refusesWhatContradicts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*broker.Options){
		"PLAIN without TLS": func(o *broker.Options) { o.Listeners[0].SASL = []auth.Mechanism{auth.Plain} },
		"unknown mechanism": func(o *broker.Options) { o.Listeners[0].SASL = []auth.Mechanism{"GSSAPI"} },
		"unverified certificates": func(o *broker.Options) {
			o.Listeners[0].TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
		},
		"reserved user": func(o *broker.Options) { o.Access.Users = map[string]string{"outrelay": "x"} },
		"broken ACL":    func(o *broker.Options) { o.Access.ACLs = []auth.ACL{{}} },
		"empty password": func(o *broker.Options) {
			secured(o)
			o.Access.Users["bob"] = ""
		},
	} {
		o := broker.Options{DataDir: t.TempDir(), Listeners: []broker.Listener{{Addr: "127.0.0.1:0"}}}
		change(&o)
		s := broker.New(o)
		if err := s.Open(t.Context()); err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close()
		}
	}
}

// TestSASL_bareTokens: after SaslHandshake v0 the tokens come in frames of their own.
func TestSASL_bareTokens(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured)
	begin := func(password string) (*rawConn, sasl.Session, []byte) {
		c := dialRaw(t, n)
		hs := kmsg.NewPtrSASLHandshakeRequest()
		hs.Mechanism = "SCRAM-SHA-256"
		if r := request[*kmsg.SASLHandshakeResponse](c, hs, 0); r.ErrorCode != 0 {
			t.Fatalf("handshake: %+v", r)
		}
		session, msg, err := scramOf("alice", password).Authenticate(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return c, session, msg
	}
	exchange := func(c *rawConn, msg []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(msg)))
		if _, err := c.Write(append(b, msg...)); err != nil {
			t.Fatal(err)
		}
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return nil
		}
		reply := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	c, session, msg := begin(canaryAlice)
	_, msg, err := session.Challenge(exchange(c, msg))
	if err != nil {
		t.Fatal(err)
	}
	if done, _, err := session.Challenge(exchange(c, msg)); err != nil || !done {
		t.Fatalf("done %v, %v", done, err)
	}
	request[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 9)

	c, session, msg = begin("wrong")
	_, msg, err = session.Challenge(exchange(c, msg))
	if err != nil {
		t.Fatal(err)
	}
	if reply := exchange(c, msg); reply != nil {
		t.Fatalf("a wrong password is answered %q", reply)
	}
	closed(c, "a wrong password")
}

// TestTLS_badOnesClose: what is no TLS on a TLS listener is closed, and the log says what it probably was.
func TestTLS_badOnesClose(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, sent, hint string }{
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", "HTTP request"},
		{"plaintext", "\x00\x00\x00\x0c\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff", "client without TLS"},
	} {
		logs := &logLines{}
		n := brokertest.New(t, secured, withTLS(newAuthority(t)), func(o *broker.Options) { o.Logger = slog.New(slog.NewTextHandler(logs, nil)) })
		c := dialRaw(t, n)
		if _, err := c.Write([]byte(tc.sent)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: the connection stays open", tc.name)
		}
		eventually(t, "the hint", func() bool { return strings.Contains(logs.String(), tc.hint) })
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	ip, other, local := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")
	now := time.Unix(1_700_000_000, 0)
	a := broker.NewAddresses(3, 2)
	for i, want := range []string{"", "", "", "connections of one address"} {
		if got := a.Take(ip, now); got != want {
			t.Fatalf("connection %d: %q, want %q", i+1, got, want)
		}
	}
	if got := a.Take(other, now); got != "" {
		t.Fatalf("another address: %q", got)
	}
	a.Give(ip)
	a.Give(ip)
	for i, want := range []string{"", "connection rate of one address"} { // four at once, then two a second
		if got := a.Take(ip, now); got != want {
			t.Fatalf("again, connection %d: %q, want %q", i+1, got, want)
		}
	}
	if got := a.Take(ip, now.Add(time.Second)); got != "" {
		t.Fatalf("a second later: %q", got)
	}
	for range 100 {
		if got := a.Take(local, now); got != "" {
			t.Fatalf("the loopback: %q", got)
		}
	}
	a.Give(other)
	a.Take(ip, now.Add(time.Minute))
	if n := a.Known(); n != 1 {
		t.Fatalf("%d addresses are remembered, want the one that has connections", n)
	}
}

// TestAudit_cannotBeFlooded: what goes beyond the rate is counted, and said with the next record.
func TestAudit_cannotBeFlooded(t *testing.T) {
	t.Parallel()
	logs, c := &logLines{}, clock.NewFake(time.Unix(1_700_000_000, 0))
	write := broker.Flood(slog.New(slog.NewTextHandler(logs, nil)), c, 1000)
	if n := strings.Count(logs.String(), "code=access-denied"); n != 100 {
		t.Fatalf("%d records of 1000 denials at once, want 100", n)
	}
	c.Advance(time.Second)
	write(1)
	if !strings.Contains(logs.String(), "left_out=900") {
		t.Fatal("nothing says that 900 were left out")
	}
}

// FuzzPreAuth: whatever somebody sends who is not known, no handler fails, nothing is kept, and others are served.
func FuzzPreAuth(f *testing.F) {
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism = "SCRAM-SHA-256"
	au := kmsg.NewPtrSASLAuthenticateRequest()
	au.SASLAuthBytes = []byte("n,,n=admin,r=abc")
	for _, frames := range [][]kmsg.Request{{hs}, {hs, au}, {hs, au, au}, {kmsg.NewPtrApiVersionsRequest(), hs, kmsg.NewPtrMetadataRequest()}} {
		var seed []byte
		for _, req := range frames {
			b, _ := (&rawConn{t: f}).frame(req, min(req.MaxVersion(), 1))
			seed = append(seed, b...)
		}
		f.Add(seed)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0, 0, 0, 12, 0, 17, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0, 1, 'x'})
	n := brokertest.New(f, secured)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("tcp", n.TCPAddr())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection stays open")
		}
		_ = c.Close()
		if n.Panics() != 0 {
			t.Fatal("a handler panicked")
		}
		eventually(t, "memory to be given back", func() bool { return n.PreAuth() == 0 })
	})
}

// TestInternal_isOutrelaysOwn: over the connection in memory everything is allowed, what outrelay keeps for itself too; over TCP an ACL for everything does not
// give it.
func TestInternal_isOutrelaysOwn(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured)
	write := func(opts ...kgo.Opt) error {
		cl := newClient(t, n, append([]kgo.Opt{kgo.TransactionalID("outrelay-shop"), kgo.AllowAutoTopicCreation(), kgo.RecordRetries(1)}, opts...)...)
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "__outrelay_positions", Value: []byte("v")}).FirstErr(); err != nil {
			return err
		}
		return cl.EndTransaction(ctx, kgo.TryCommit)
	}
	if err := write(kgo.SeedBrokers(n.InternalAddr()), kgo.Dialer(n.Dialer())); err != nil {
		t.Fatalf("outrelay itself: %v", err)
	}
	admin := dialRaw(t, n)
	login(admin, "admin", canaryAdmin)
	for _, nd := range []need{{auth.All, auth.Topic}, {auth.All, auth.TransactionalID}, {auth.All, auth.Group}, {auth.All, auth.Cluster}} {
		grant(admin, nd, "*")
	}
	if err := write(kgo.SASL(scramOf("alice", canaryAlice))); err == nil {
		t.Fatal("a user with ACLs for everything writes positions")
	}
	if err := write(kgo.SASL(scramOf("admin", canaryAdmin))); err != nil {
		t.Fatalf("a super user: %v", err)
	}
}
