package auth

import (
	"bytes"
	"errors"
	"unicode/utf8"
)

// ErrAuthentication is every reason for which a client is not who it says: one error, so that nothing can be learnt from it.
var ErrAuthentication = errors.New("invalid credentials")

// saslBytesMax bounds one message of a client. What fits the mechanisms is far smaller.
const saslBytesMax = 8 << 10

// Source finds what a Conversation needs.
type Source interface {
	// Credential returns the user's credential for a SCRAM mechanism.
	Credential(user string, m Mechanism) (Credential, bool)
	// Mask returns the cluster's secret.
	Mask() Mask
}

// Conversation is one authentication of one client. It is not safe for concurrent use, and ends with its first error.
type Conversation struct {
	mech  Mechanism
	from  Source
	nonce func() string

	scram   *scram
	claimed string
	ended   bool
}

// NewConversation begins an authentication by mechanism m.
func NewConversation(m Mechanism, from Source) *Conversation {
	return &Conversation{mech: m, from: from, nonce: newNonce}
}

// Mechanism returns the mechanism.
func (c *Conversation) Mechanism() Mechanism { return c.mech }

// Claimed returns the name that the client gave, as far as it was read. It is no proof of anything, and for logs only.
func (c *Conversation) Claimed() string { return c.claimed }

// Step takes the client's next message and returns what to answer. done says that the client is who it claims to be. The error is
// ErrAuthentication, whatever was wrong.
func (c *Conversation) Step(msg []byte) (reply []byte, done bool, err error) {
	if c.ended || len(msg) > saslBytesMax {
		c.ended = true
		return nil, false, ErrAuthentication
	}
	switch {
	case c.mech == Plain:
		reply, done, err = nil, true, c.plain(msg)
	case c.scram == nil:
		reply, err = c.scramFirst(msg)
	default:
		done = true
		reply, err = c.scram.final(msg)
	}
	if err != nil || done {
		c.ended = true
	}
	if err != nil {
		return nil, false, ErrAuthentication
	}
	return reply, done, nil
}

// plain checks a message of RFC 4616: authorization id, name and password, separated by zero bytes. The authorization id must be empty or
// the name: nobody acts for somebody else.
func (c *Conversation) plain(msg []byte) error {
	parts := bytes.Split(msg, []byte{0})
	if len(parts) != 3 || !utf8.Valid(msg) {
		return ErrAuthentication
	}
	name := string(parts[1])
	c.claimed = name
	if !ValidUser(name) || len(parts[2]) == 0 || len(parts[2]) > PasswordBytesMax || len(parts[0]) != 0 && string(parts[0]) != name {
		return ErrAuthentication
	}
	// The same work for every name: both mechanisms are tried, with keys that nothing fits where the user has none.
	right := false
	for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
		cred, known := c.from.Credential(name, m)
		if !known {
			cred = c.from.Mask().unknown(name, m)
		}
		if matched := cred.matches(string(parts[2])); matched && known {
			right = true
		}
	}
	if !right {
		return ErrAuthentication
	}
	return nil
}
