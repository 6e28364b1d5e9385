package auth_test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"hash"
	"strconv"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker/auth"
)

// users is a Source for tests.
type users map[string][]auth.Credential

func (u users) Credential(name string, m auth.Mechanism) (auth.Credential, bool) {
	for _, c := range u[name] {
		if c.Mechanism == m {
			return c, true
		}
	}
	return auth.Credential{}, false
}

func (u users) Mask() auth.Mask { return auth.Mask("a mask of the tests") }

func user(t testing.TB, name, password string, ms ...auth.Mechanism) users {
	t.Helper()
	u := users{}
	for _, m := range ms {
		c, err := auth.NewCredential(m, password, nil, auth.IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		u[name] = append(u[name], c)
	}
	return u
}

// TestScram_vectors: the conversation of RFC 7677. TestScram_conversation compares the rest with a client that was written from the RFC.
func TestScram_vectors(t *testing.T) {
	t.Parallel()
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	cred, err := auth.NewCredential(auth.ScramSHA256, "pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	c := auth.NewConversation(auth.ScramSHA256, users{"user": {cred}})
	auth.SetNonce(c, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
	reply, done, err := c.Step([]byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
	if want := "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"; err != nil || done || string(reply) != want {
		t.Fatalf("server-first %q, done %v, %v; want %q", reply, done, err, want)
	}
	reply, done, err = c.Step([]byte("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; err != nil || !done || string(reply) != want {
		t.Fatalf("server-final %q, done %v, %v; want %q", reply, done, err, want)
	}
}

// client is the other side of SCRAM, written again from the RFC.
type client struct {
	m                   auth.Mechanism
	user, password, gs2 string
	nonce               string
	bare                string
	before              string // put before the nonce of the final message
}

func (c *client) hash() func() hash.Hash {
	if c.m == auth.ScramSHA512 {
		return sha512.New
	}
	return sha256.New
}

func (c *client) first() string {
	if c.gs2 == "" {
		c.gs2 = "n,,"
	}
	name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(c.user)
	c.bare = "n=" + name + ",r=" + c.nonce
	return c.gs2 + c.bare
}

func (c *client) mac(key []byte, s string) []byte {
	h := hmac.New(c.hash(), key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

// final returns the final message, and the signature that the server must show.
func (c *client) final(t testing.TB, serverFirst string) (msg, signature string) {
	t.Helper()
	parts := strings.Split(serverFirst, ",")
	salt, err := base64.StdEncoding.DecodeString(parts[1][2:])
	if err != nil {
		t.Fatal(err)
	}
	iterations, _ := strconv.Atoi(parts[2][2:])
	salted, err := pbkdf2.Key(c.hash(), c.password, salt, iterations, c.hash()().Size())
	if err != nil {
		t.Fatal(err)
	}
	key := c.mac(salted, "Client Key")
	h := c.hash()()
	h.Write(key)
	stored := h.Sum(nil)
	without := "c=" + base64.StdEncoding.EncodeToString([]byte(c.gs2)) + ",r=" + c.before + parts[0][2:]
	said := c.bare + "," + serverFirst + "," + without
	proof := c.mac(stored, said)
	for i := range proof {
		proof[i] ^= key[i]
	}
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof),
		"v=" + base64.StdEncoding.EncodeToString(c.mac(c.mac(salted, "Server Key"), said))
}

func TestScram_conversation(t *testing.T) {
	t.Parallel()
	for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
		for _, name := range []string{"alice", "a=b,c", "ünï", "spiffe://example.org/app"} {
			conv := auth.NewConversation(m, user(t, name, "pencil", m))
			cl := &client{m: m, user: name, password: "pencil", nonce: "abc"}
			first, done, err := conv.Step([]byte(cl.first()))
			if err != nil || done {
				t.Fatalf("%s %s: first: %v, done %v", m, name, err, done)
			}
			msg, want := cl.final(t, string(first))
			got, done, err := conv.Step([]byte(msg))
			if err != nil || !done || string(got) != want {
				t.Fatalf("%s %s: final %q, done %v, %v; want %q", m, name, got, done, err, want)
			}
			if conv.Claimed() != name {
				t.Fatalf("claimed %q, want %q", conv.Claimed(), name)
			}
			if _, _, err := conv.Step([]byte(msg)); err == nil {
				t.Fatal("a conversation goes on after its end")
			}
		}
	}
}

// TestScram_refused: whatever is wrong is the same error, and never a success.
func TestScram_refused(t *testing.T) {
	t.Parallel()
	known := user(t, "alice", "pencil", auth.ScramSHA256)
	for _, tc := range []struct {
		name  string
		cl    client
		first func(string) string
		final func(string) string
	}{
		{name: "wrong password", cl: client{user: "alice", password: "pencil2"}},
		{name: "unknown user", cl: client{user: "bob", password: "pencil"}},
		{name: "reserved user", cl: client{user: "outrelay", password: "pencil"}},
		{name: "wrong nonce", final: func(s string) string { return strings.Replace(s, "r=abc", "r=abd", 1) }},
		{name: "cut nonce", final: func(s string) string { return s[:strings.Index(s, "r=abc")+5] + s[strings.Index(s, ",p="):] }},
		{name: "no proof", final: func(s string) string { return s[:strings.Index(s, ",p=")] }},
		{name: "short proof", final: func(s string) string { return s[:strings.Index(s, ",p=")+3] + "AAAA" }},
		{name: "flipped proof", final: func(s string) string {
			b := []byte(s)
			at := len(b) - 5
			b[at] = map[bool]byte{true: 'B', false: 'A'}[b[at] == 'A']
			return string(b)
		}},
		{name: "proof is no base64", final: func(s string) string { return s + "!" }},
		{name: "other binding", final: func(s string) string { return strings.Replace(s, "c=biws", "c=eSws", 1) }},
		{name: "channel binding", first: func(s string) string { return strings.Replace(s, "n,,", "p=tls-unique,,", 1) }},
		{name: "somebody else's name", first: func(s string) string { return strings.Replace(s, "n,,", "n,a=bob,", 1) }},
		{name: "mandatory extension", first: func(s string) string { return strings.Replace(s, "n=alice", "m=x,n=alice", 1) }},
		{name: "delegation token", first: func(s string) string { return s + ",tokenauth=true" }},
		{name: "no nonce", first: func(s string) string { return strings.Replace(s, "r=abc", "r=", 1) }},
		{name: "nonce with a space", first: func(s string) string { return s + " x" }},
		{name: "bad escape", first: func(s string) string { return strings.Replace(s, "n=alice", "n=al=2Dice", 1) }},
		{name: "empty", first: func(string) string { return "" }},
		{name: "not UTF-8", first: func(s string) string { return strings.Replace(s, "alice", "al\xffice", 1) }},
		{name: "long", first: func(s string) string { return s + strings.Repeat("x", 9000) }},
		{name: "longer nonce than the server takes", first: func(s string) string { return s + strings.Repeat("x", 2000) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cl := tc.cl
			cl.m, cl.nonce = auth.ScramSHA256, "abc"
			if cl.user == "" {
				cl.user, cl.password = "alice", "pencil"
			}
			conv := auth.NewConversation(auth.ScramSHA256, known)
			msg := cl.first()
			if tc.first != nil {
				msg = tc.first(msg)
			}
			reply, done, err := conv.Step([]byte(msg))
			if err == nil && !done {
				msg, _ = cl.final(t, string(reply))
				if tc.final != nil {
					msg = tc.final(msg)
				}
				reply, done, err = conv.Step([]byte(msg))
			}
			if err != auth.ErrAuthentication || done || reply != nil {
				t.Fatalf("reply %q, done %v, error %v; want the one error of all", reply, done, err)
			}
		})
	}
}

// TestScram_replay: a final message of one conversation is worth nothing in another.
func TestScram_replay(t *testing.T) {
	t.Parallel()
	known := user(t, "alice", "pencil", auth.ScramSHA256)
	cl := &client{m: auth.ScramSHA256, user: "alice", password: "pencil", nonce: "abc"}
	one := auth.NewConversation(auth.ScramSHA256, known)
	first, _, _ := one.Step([]byte(cl.first()))
	msg, _ := cl.final(t, string(first))
	two := auth.NewConversation(auth.ScramSHA256, known)
	if _, _, err := two.Step([]byte(cl.first())); err != nil {
		t.Fatal(err)
	}
	if _, done, err := two.Step([]byte(msg)); err == nil || done {
		t.Fatal("a replayed proof was taken")
	}
	if _, done, err := one.Step([]byte(msg)); err != nil || !done {
		t.Fatalf("the proof is right where it was made: %v", err)
	}
}

// TestScram_unknownUserLooksLikeAnyOther: salt and iterations are there, and the same each time.
func TestScram_unknownUserLooksLikeAnyOther(t *testing.T) {
	t.Parallel()
	ask := func(from auth.Source, name, nonce string) string {
		conv := auth.NewConversation(auth.ScramSHA512, from)
		auth.SetNonce(conv, "server")
		reply, _, err := conv.Step([]byte("n,,n=" + name + ",r=" + nonce))
		if err != nil {
			t.Fatal(err)
		}
		return string(reply)
	}
	a, b := ask(users{}, "bob", "x"), ask(users{}, "bob", "x")
	if a != b {
		t.Fatalf("an unknown user's salt changes: %q, %q", a, b)
	}
	if c := ask(users{}, "eve", "x"); c == a {
		t.Fatal("two unknown users share a salt")
	}
	real := ask(user(t, "bob", "pencil", auth.ScramSHA512), "bob", "x")
	if len(real) != len(a) || !strings.HasSuffix(a, ",i=4096") {
		t.Fatalf("unknown %q and known %q can be told apart", a, real)
	}
}

// TestScram_nonceOfOldLibrdkafka: before 2.6.1 it puts its own nonce before the one that holds it already. It is taken, since all of the server's
// nonce is in it; any other prefix is not.
func TestScram_nonceOfOldLibrdkafka(t *testing.T) {
	t.Parallel()
	known := user(t, "alice", "pencil", auth.ScramSHA256)
	for _, tc := range []struct {
		before string
		ok     bool
	}{{"abc", true}, {"abd", false}, {"abcabc", false}, {"ab", false}} {
		cl := &client{m: auth.ScramSHA256, user: "alice", password: "pencil", nonce: "abc"}
		conv := auth.NewConversation(auth.ScramSHA256, known)
		first, _, err := conv.Step([]byte(cl.first()))
		if err != nil {
			t.Fatal(err)
		}
		cl.before = tc.before
		msg, _ := cl.final(t, string(first))
		if _, done, err := conv.Step([]byte(msg)); done != tc.ok || (err == nil) != tc.ok {
			t.Errorf("nonce with %q before it: done %v, %v; want ok %v", tc.before, done, err, tc.ok)
		}
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, msg string
		ok        bool
	}{
		{"right", "\x00alice\x00pencil", true},
		{"own authorization id", "alice\x00alice\x00pencil", true},
		{"wrong password", "\x00alice\x00pencil2", false},
		{"empty password", "\x00alice\x00", false},
		{"unknown", "\x00bob\x00pencil", false},
		{"somebody else", "bob\x00alice\x00pencil", false},
		{"two parts", "alice\x00pencil", false},
		{"four parts", "\x00alice\x00pencil\x00", false},
		{"nothing", "", false},
		{"reserved", "\x00outrelay\x00pencil", false},
	} {
		for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
			_, done, err := auth.NewConversation(auth.Plain, user(t, "alice", "pencil", m)).Step([]byte(tc.msg))
			if done != tc.ok || (err == nil) != tc.ok {
				t.Errorf("%s with a credential for %s: done %v, %v", tc.name, m, done, err)
			}
		}
	}
}

func TestCredential_limits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		m          auth.Mechanism
		iterations int
		salted     int
		salt       int
		ok         bool
	}{
		{"whole", auth.ScramSHA256, 4096, 32, 8, true},
		{"512", auth.ScramSHA512, 16384, 64, 8, true},
		{"few iterations", auth.ScramSHA256, 4095, 32, 8, false},
		{"1e9 iterations", auth.ScramSHA256, 1e9, 32, 8, false},
		{"the other hash's size", auth.ScramSHA256, 4096, 64, 8, false},
		{"no salt", auth.ScramSHA256, 4096, 32, 0, false},
		{"PLAIN", auth.Plain, 4096, 32, 8, false},
	} {
		c, err := auth.CredentialOf(tc.m, make([]byte, tc.salted), make([]byte, tc.salt), tc.iterations)
		if (err == nil) != tc.ok || c.Valid() != tc.ok {
			t.Errorf("%s: %v, valid %v; want ok %v", tc.name, err, c.Valid(), tc.ok)
		}
	}
}

// FuzzConversation: whatever a client says first and last, nobody comes in, nothing panics, and the answer is bounded.
func FuzzConversation(f *testing.F) {
	f.Add([]byte("n,,n=user,r=abc"), []byte("c=biws,r=abc,p=AAAA"), byte(0))
	f.Add([]byte("n,a=user,n=user,r=abc,x=y"), []byte("c=,r=,p="), byte(1))
	f.Add([]byte("\x00alice\x00pencil2"), []byte(""), byte(2))
	known := user(f, "alice", "a password that no fuzzer finds", auth.ScramSHA256, auth.ScramSHA512)
	ms := []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512, auth.Plain}
	f.Fuzz(func(t *testing.T, first, last []byte, m byte) {
		conv := auth.NewConversation(ms[int(m)%len(ms)], known)
		for _, msg := range [][]byte{first, last, last} {
			reply, done, err := conv.Step(msg)
			if done || len(reply) > 2*len(first)+4096 {
				t.Fatalf("done %v, %d bytes", done, len(reply))
			}
			if err != nil && err != auth.ErrAuthentication {
				t.Fatal(err)
			}
		}
	})
}
