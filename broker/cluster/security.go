package cluster

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/auth"
)

// Limits of what is kept for access control.
const (
	UsersMax  = 10_000
	ACLsMax   = 20_000
	QuotasMax = 10_000
)

// Security is who the users are and what they may do, as of one State. Nothing in it is changed once it is shared.
type Security struct {
	Mask   auth.Mask // a secret of the cluster; nil until it is first needed
	Users  map[string]User
	ACLs   []auth.ACL // in the order in which they were made, each once
	Quotas []auth.Quota
}

// User is the credentials of a user, at most one for each mechanism.
type User []auth.Credential

// Credential returns the user's credential for a mechanism.
func (u User) Credential(m auth.Mechanism) (auth.Credential, bool) {
	i := slices.IndexFunc(u, func(c auth.Credential) bool { return c.Mechanism == m })
	if i < 0 {
		return auth.Credential{}, false
	}
	return u[i], true
}

// with returns the user with a credential in the place of the one for its mechanism.
func (u User) with(c auth.Credential) User {
	return append(u.without(c.Mechanism), c)
}

func (u User) without(m auth.Mechanism) User {
	return slices.DeleteFunc(slices.Clone(u), func(c auth.Credential) bool { return c.Mechanism == m })
}

// UserChange sets a user's credential, or deletes the one of a mechanism.
type UserChange struct {
	User       string           `json:"user"`
	Credential *auth.Credential `json:"credential,omitempty"`
	Delete     auth.Mechanism   `json:"delete,omitempty"`
}

// EnsureMask makes the cluster's secret, when there is none yet.
func (c *Client) EnsureMask(ctx context.Context) error {
	if c.m.State().Security.Mask != nil {
		return nil
	}
	_, err := c.do(ctx, command{Op: opSetMask, Mask: auth.NewMask()})
	return err
}

// AlterUser sets or deletes one credential. Refusals: RESOURCE_NOT_FOUND, UNACCEPTABLE_CREDENTIAL, POLICY_VIOLATION for too many users.
func (c *Client) AlterUser(ctx context.Context, ch UserChange) error {
	_, err := c.do(ctx, command{Op: opAlterUser, UserChange: &ch})
	return err
}

// CreateACLs adds entries; those that are there already change nothing. Refusals: INVALID_REQUEST, POLICY_VIOLATION for too many.
func (c *Client) CreateACLs(ctx context.Context, acls []auth.ACL) error {
	for _, a := range acls {
		if err := a.Check(); err != nil { // before it is written: what has no name in the protocol could not be read back
			return errorf(kerr.InvalidRequest, "%v", err)
		}
	}
	_, err := c.do(ctx, command{Op: opCreateACLs, ACLs: acls})
	return err
}

// DeleteACLs removes entries; those that are not there change nothing.
func (c *Client) DeleteACLs(ctx context.Context, acls []auth.ACL) error {
	_, err := c.do(ctx, command{Op: opDeleteACLs, ACLs: acls})
	return err
}

// AlterQuota sets the values of one entity; one without values is removed. Refusals: INVALID_REQUEST, POLICY_VIOLATION for too many.
func (c *Client) AlterQuota(ctx context.Context, q auth.Quota) error {
	if err := q.Check(); err != nil {
		return errorf(kerr.InvalidRequest, "%v", err)
	}
	_, err := c.do(ctx, command{Op: opAlterQuota, Quota: &q})
	return err
}

// applySecurity changes what s says of users, lists and quotas. known is false for other operations.
func (s *State) applySecurity(c command) (o outcome, known bool) {
	switch c.Op {
	case opSetMask:
		if s.Security.Mask != nil || len(c.Mask) == 0 {
			return outcome{unchanged: true}, true
		}
		s.Security.Mask = c.Mask
	case opAlterUser:
		return s.alterUser(c.UserChange), true
	case opCreateACLs:
		return s.createACLs(c.ACLs), true
	case opDeleteACLs:
		kept := slices.DeleteFunc(slices.Clone(s.Security.ACLs), func(a auth.ACL) bool { return slices.Contains(c.ACLs, a) })
		if len(kept) == len(s.Security.ACLs) {
			return outcome{unchanged: true}, true
		}
		s.Security.ACLs = kept
	case opAlterQuota:
		return s.alterQuota(c.Quota), true
	default:
		return outcome{}, false
	}
	return outcome{}, true
}

func (s *State) alterUser(ch *UserChange) outcome {
	if ch == nil || !auth.ValidUser(ch.User) {
		return refuse(kerr.UnacceptableCredential, "a user's name has 1 to 255 printable bytes and is none of the reserved ones")
	}
	old, exists := s.Security.Users[ch.User]
	next := maps.Clone(s.Security.Users)
	if next == nil {
		next = map[string]User{}
	}
	switch {
	case ch.Credential != nil && !ch.Credential.Valid():
		return refuse(kerr.UnacceptableCredential, "user %q: the credential is not whole", ch.User)
	case ch.Credential != nil && !exists && len(next) >= UsersMax:
		return refuse(kerr.PolicyViolation, "there are %d users already", UsersMax)
	case ch.Credential != nil:
		next[ch.User] = old.with(*ch.Credential)
	default:
		if _, has := old.Credential(ch.Delete); !has {
			return refuse(kerr.ResourceNotFound, "user %q has no credential for %s", ch.User, ch.Delete)
		}
		if next[ch.User] = old.without(ch.Delete); len(next[ch.User]) == 0 {
			delete(next, ch.User)
		}
	}
	s.Security.Users = next
	return outcome{}
}

func (s *State) createACLs(add []auth.ACL) outcome {
	next := slices.Clone(s.Security.ACLs)
	for _, a := range add {
		if err := a.Check(); err != nil {
			return refuse(kerr.InvalidRequest, "%v", err)
		}
		if !slices.Contains(next, a) {
			next = append(next, a)
		}
	}
	switch {
	case len(next) == len(s.Security.ACLs):
		return outcome{unchanged: true}
	case len(next) > ACLsMax:
		return refuse(kerr.PolicyViolation, "there would be %d ACLs, at most %d are kept", len(next), ACLsMax)
	}
	s.Security.ACLs = next
	return outcome{}
}

func (s *State) alterQuota(q *auth.Quota) outcome {
	if q == nil {
		return refuse(kerr.InvalidRequest, "no quota in the command")
	}
	if err := q.Check(); err != nil {
		return refuse(kerr.InvalidRequest, "%v", err)
	}
	next := slices.DeleteFunc(slices.Clone(s.Security.Quotas), func(o auth.Quota) bool { return o.Entity.Same(q.Entity) })
	if len(q.Values) > 0 {
		next = append(next, *q)
	}
	if len(next) > QuotasMax {
		return refuse(kerr.PolicyViolation, "there are %d quotas already", QuotasMax)
	}
	s.Security.Quotas = next
	return outcome{}
}

// valid reports whether what a snapshot holds could have come from the commands.
func (sec Security) valid() bool {
	for name, u := range sec.Users {
		if !auth.ValidUser(name) || len(u) == 0 || slices.ContainsFunc(u, func(c auth.Credential) bool { return !c.Valid() }) {
			return false
		}
	}
	return !slices.ContainsFunc(sec.ACLs, func(a auth.ACL) bool { return a.Check() != nil }) &&
		!slices.ContainsFunc(sec.Quotas, func(q auth.Quota) bool { return q.Check() != nil || len(q.Values) == 0 })
}
