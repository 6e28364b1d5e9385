package auth

import (
	"crypto/x509"
	"strings"
)

// Principal is who a client is, in Kafka's form: a type and a name, "User:alice".
type Principal string

// The principals that no client can take by a name or a certificate of its own: userName refuses them.
const (
	// Internal is outrelay itself, on the in-memory listener. What outrelay keeps for itself in the log is its alone, and the super users'.
	Internal Principal = "User:outrelay"
	// Anonymous is everyone on a listener that does not authenticate.
	Anonymous Principal = "User:ANONYMOUS"
)

const userType = "User:"

// User returns the principal of a user's name.
func User(name string) Principal { return Principal(userType + name) }

// Name returns the principal's name without its type.
func (p Principal) Name() string { return strings.TrimPrefix(string(p), userType) }

// userNameBytesMax bounds the name of a user.
const userNameBytesMax = 255

// ValidUser reports whether a user may have the name: 1 to 255 printable bytes, and none of the reserved ones.
func ValidUser(name string) bool {
	if name == "" || len(name) > userNameBytesMax || User(name) == Internal || User(name) == Anonymous || name == Wildcard {
		return false
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return false
		}
	}
	return true
}

// OfCertificate returns the principal of a client's verified certificate: its first URI, else its first DNS name, else its first e-mail address,
// exactly as it stands in the subject alternative names. The subject's own name is never looked at: mapping it by patterns is how
// others were fooled. ok is false for a certificate without such a name, or with one that no user may have.
func OfCertificate(c *x509.Certificate) (p Principal, ok bool) {
	name := ""
	switch {
	case len(c.URIs) > 0:
		name = c.URIs[0].String()
	case len(c.DNSNames) > 0:
		name = c.DNSNames[0]
	case len(c.EmailAddresses) > 0:
		name = c.EmailAddresses[0]
	}
	return User(name), ValidUser(name)
}
