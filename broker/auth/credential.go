package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
)

// Mechanism is a SASL mechanism.
type Mechanism string

// The mechanisms that are served.
const (
	ScramSHA256 Mechanism = "SCRAM-SHA-256"
	ScramSHA512 Mechanism = "SCRAM-SHA-512"
	Plain       Mechanism = "PLAIN" // over TLS only
)

// IterationsMin is the least number of iterations that is accepted (RFC 7677) and the default; IterationsMax the most, since the server computes them
// itself for PLAIN (Apache Kafka has the same two).
const (
	IterationsMin = 4096
	IterationsMax = 16384
)

const (
	saltBytes    = 32
	saltBytesMax = 1024
	// PasswordBytesMax bounds a password.
	PasswordBytesMax = 1024
)

// Scram reports whether m is one of the two SCRAM mechanisms.
func (m Mechanism) Scram() bool { return m == ScramSHA256 || m == ScramSHA512 }

// Known reports whether m is served.
func (m Mechanism) Known() bool { return m.Scram() || m == Plain }

func (m Mechanism) newHash() func() hash.Hash {
	if m == ScramSHA512 {
		return sha512.New
	}
	return sha256.New
}

// Credential is what is kept of a password for one SCRAM mechanism (RFC 5802, section 3). It does not give the password, nor does it let
// who has it log in by SCRAM; it does allow guessing, so it is kept with the data directory's own care. It is immutable.
type Credential struct {
	Mechanism  Mechanism `json:"mechanism"`
	Salt       []byte    `json:"salt"`
	Iterations int       `json:"iterations"`
	StoredKey  []byte    `json:"stored_key"`
	ServerKey  []byte    `json:"server_key"`
}

// NewCredential makes a credential of a password. A nil salt means a random one.
func NewCredential(m Mechanism, password string, salt []byte, iterations int) (Credential, error) {
	if password == "" || len(password) > PasswordBytesMax {
		return Credential{}, fmt.Errorf("a password has 1 to %d bytes", PasswordBytesMax)
	}
	if salt == nil {
		salt = make([]byte, saltBytes)
		_, _ = rand.Read(salt) // never fails, by contract
	}
	salted, err := pbkdf2.Key(m.newHash(), password, salt, iterations, m.newHash()().Size())
	if err != nil {
		return Credential{}, fmt.Errorf("credential for %s: %w", m, err)
	}
	return CredentialOf(m, salted, salt, iterations)
}

// CredentialOf makes a credential of a salted password, as AlterUserScramCredentials carries it. The error is for people.
func CredentialOf(m Mechanism, salted, salt []byte, iterations int) (Credential, error) {
	switch {
	case !m.Scram():
		return Credential{}, fmt.Errorf("mechanism %q, want %s or %s", m, ScramSHA256, ScramSHA512)
	case iterations < IterationsMin || iterations > IterationsMax:
		return Credential{}, fmt.Errorf("%d iterations, want %d to %d", iterations, IterationsMin, IterationsMax)
	case len(salted) != m.newHash()().Size():
		return Credential{}, fmt.Errorf("salted password of %d bytes, want %d", len(salted), m.newHash()().Size())
	case len(salt) == 0 || len(salt) > saltBytesMax:
		return Credential{}, fmt.Errorf("salt of %d bytes, want 1 to %d", len(salt), saltBytesMax)
	}
	return Credential{
		Mechanism: m, Salt: salt, Iterations: iterations,
		StoredKey: sum(m, mac(m, salted, []byte("Client Key"))),
		ServerKey: mac(m, salted, []byte("Server Key")),
	}, nil
}

// Valid reports whether c is whole: what a snapshot or a command holds is not taken on trust.
func (c Credential) Valid() bool {
	if !c.Mechanism.Scram() {
		return false
	}
	n := c.Mechanism.newHash()().Size()
	return c.Iterations >= IterationsMin && c.Iterations <= IterationsMax && len(c.StoredKey) == n && len(c.ServerKey) == n &&
		len(c.Salt) > 0 && len(c.Salt) <= saltBytesMax
}

// matches reports whether the password is the credential's, in a time that does not depend on it.
func (c Credential) matches(password string) bool {
	salted, err := pbkdf2.Key(c.Mechanism.newHash(), password, c.Salt, c.Iterations, c.Mechanism.newHash()().Size())
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(sum(c.Mechanism, mac(c.Mechanism, salted, []byte("Client Key"))), c.StoredKey) == 1
}

// Mask is a secret of the cluster. From it come the salts of users that do not exist, and of those whose passwords stand in the operator's file,
// so that nobody can tell which is which, today or after a restart.
type Mask []byte

// NewMask returns a random mask.
func NewMask() Mask {
	m := make(Mask, 32)
	_, _ = rand.Read(m) // never fails, by contract
	return m
}

// Salt returns the salt of a user's name, always the same.
func (m Mask) Salt(user string, mech Mechanism) []byte {
	return mac(ScramSHA256, m, []byte("salt\x00"+string(mech)+"\x00"+user))
}

// unknown returns the credential of a user that does not exist. No password fits it.
func (m Mask) unknown(user string, mech Mechanism) Credential {
	n := mech.newHash()().Size()
	key := mac(ScramSHA512, m, []byte("key\x00"+string(mech)+"\x00"+user))
	return Credential{Mechanism: mech, Salt: m.Salt(user, mech), Iterations: IterationsMin, StoredKey: key[:n], ServerKey: key[:n]}
}

func mac(m Mechanism, key, data []byte) []byte {
	h := hmac.New(m.newHash(), key)
	h.Write(data)
	return h.Sum(nil)
}

func sum(m Mechanism, data []byte) []byte {
	h := m.newHash()()
	h.Write(data)
	return h.Sum(nil)
}
