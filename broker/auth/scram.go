package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SCRAM, the server's side: RFC 5802 and 7677, without channel binding, as Kafka uses it.
//
//	client-first   n,,n=user,r=<client nonce>
//	server-first   r=<client nonce><server nonce>,s=<salt>,i=<iterations>
//	client-final   c=biws,r=<both nonces>,p=<proof>
//	server-final   v=<server signature>

const (
	nonceBytes    = 24
	nonceCharsMax = 1024
)

var errScram = errors.New("malformed SCRAM message")

// scram is a conversation whose first message was answered.
type scram struct {
	cred  Credential
	known bool   // the user exists
	gs2   string // the header of the first message, which the final one must repeat
	nonce string // both sides'
	again string // the client's, and then both: what librdkafka sends before its version 2.6.1 (its issue 4895)
	said  string // client-first-bare and server-first, as they were
}

// scramFirst answers the client's first message. A user that does not exist is found out by the final one only.
func (c *Conversation) scramFirst(msg []byte) ([]byte, error) {
	first, err := parseClientFirst(string(msg))
	if err != nil {
		return nil, err
	}
	c.claimed = first.user
	cred, ok := c.from.Credential(first.user, c.mech)
	if !ok || !ValidUser(first.user) {
		cred, ok = c.from.Mask().unknown(first.user, c.mech), false
	}
	s := &scram{cred: cred, known: ok, gs2: first.gs2, nonce: first.nonce + c.nonce()}
	s.again = first.nonce + s.nonce
	reply := "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(cred.Salt) + ",i=" + strconv.Itoa(cred.Iterations)
	s.said = first.bare + "," + reply
	c.scram = s
	return []byte(reply), nil
}

// final checks the proof. Everything is computed before anything is refused.
func (s *scram) final(msg []byte) ([]byte, error) {
	f, err := parseClientFinal(string(msg))
	if err != nil {
		return nil, err
	}
	m := s.cred.Mechanism
	auth := []byte(s.said + "," + f.withoutProof)
	signature := mac(m, s.cred.StoredKey, auth)
	if len(f.proof) != len(signature) {
		return nil, ErrAuthentication
	}
	key := make([]byte, len(signature))
	subtle.XORBytes(key, signature, f.proof)
	ok := subtle.ConstantTimeCompare(sum(m, key), s.cred.StoredKey)
	// CVE-2024-56128: the nonce is what stops a replay. Either form holds all of ours, to the byte.
	ok &= subtle.ConstantTimeCompare([]byte(f.nonce), []byte(s.nonce)) | subtle.ConstantTimeCompare([]byte(f.nonce), []byte(s.again))
	ok &= subtle.ConstantTimeCompare([]byte(f.binding), []byte(s.gs2))
	server := mac(m, s.cred.ServerKey, auth)
	if ok != 1 || !s.known {
		return nil, ErrAuthentication
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(server)), nil
}

func newNonce() string {
	var b [nonceBytes]byte
	_, _ = rand.Read(b[:]) // never fails, by contract
	return base64.StdEncoding.EncodeToString(b[:])
}

// clientFirst is a client's first message.
type clientFirst struct {
	gs2   string // up to and with its second comma
	bare  string // the rest
	user  string
	nonce string
}

// parseClientFirst reads gs2-header and client-first-message-bare. Extensions after the nonce are optional by the RFC and skipped, but for
// tokenauth: delegation tokens are not served, and a token is no password.
func parseClientFirst(msg string) (f clientFirst, err error) {
	if !utf8.ValidString(msg) {
		return f, errScram
	}
	flag, rest, ok1 := strings.Cut(msg, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || flag != "n" && flag != "y" { // p=…: channel binding, which is not offered
		return f, errScram
	}
	f.gs2, f.bare = flag+","+authzid+",", bare
	attrs := strings.Split(bare, ",")
	if len(attrs) < 2 {
		return f, errScram
	}
	user, ok1 := strings.CutPrefix(attrs[0], "n=") // m=… would be a mandatory extension
	nonce, ok2 := strings.CutPrefix(attrs[1], "r=")
	if !ok1 || !ok2 || !validNonce(nonce) {
		return f, errScram
	}
	if f.user, ok1 = unescapeName(user); !ok1 {
		return f, errScram
	}
	f.nonce = nonce
	if authzid != "" {
		as, isAuthz := strings.CutPrefix(authzid, "a=")
		name, valid := unescapeName(as)
		if !isAuthz || !valid || name != f.user {
			return f, errScram
		}
	}
	return f, checkExtensions(attrs[2:])
}

func checkExtensions(attrs []string) error {
	for _, a := range attrs {
		if name, _, ok := strings.Cut(a, "="); !ok || name == "" || name == "m" || name == "tokenauth" {
			return errScram
		}
	}
	return nil
}

// unescapeName reads a saslname: "=2C" is a comma, "=3D" an equals sign, and no other "=" may stand in it.
func unescapeName(s string) (string, bool) {
	if s == "" || len(s) > 3*userNameBytesMax {
		return "", false
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "=")
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		switch {
		case strings.HasPrefix(after, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		s = after[2:]
	}
}

// validNonce reports whether a nonce is printable, as the RFC wants it, and of a sensible length.
func validNonce(s string) bool {
	if s == "" || len(s) > nonceCharsMax {
		return false
	}
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] > 0x7e || s[i] == ',' {
			return false
		}
	}
	return true
}

// clientFinal is a client's last message.
type clientFinal struct {
	withoutProof string // as it was sent: it is part of what is signed
	binding      string // decoded
	nonce        string
	proof        []byte
}

func parseClientFinal(msg string) (f clientFinal, err error) {
	at := strings.LastIndex(msg, ",p=") // the proof is last, by the grammar
	if at < 0 || !utf8.ValidString(msg) {
		return f, errScram
	}
	f.withoutProof = msg[:at]
	if f.proof, err = base64.StdEncoding.Strict().DecodeString(msg[at+3:]); err != nil {
		return f, errScram
	}
	attrs := strings.Split(f.withoutProof, ",")
	if len(attrs) < 2 {
		return f, errScram
	}
	binding, ok1 := strings.CutPrefix(attrs[0], "c=")
	nonce, ok2 := strings.CutPrefix(attrs[1], "r=")
	decoded, err := base64.StdEncoding.Strict().DecodeString(binding)
	if !ok1 || !ok2 || err != nil || !validNonce(nonce) {
		return f, errScram
	}
	f.binding, f.nonce = string(decoded), nonce
	return f, checkExtensions(attrs[2:])
}
