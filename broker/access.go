package broker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/cluster"
)

// Access is what the operator's file says of users. It is in force as long as it stands there, beside what the cluster's metadata hold, and is not
// changed by any request: so the first user needs no door that is open for a while, and a forgotten password is mended where the file is.
type Access struct {
	Users      map[string]string // passwords by name; only keys made of them are kept after Open
	SuperUsers []auth.Principal  // may do everything
	ACLs       []auth.ACL
	// SessionLifetime is how long a SASL authentication is good for; 0 means as long as the connection (KIP-368).
	SessionLifetime time.Duration
}

// access is who the users are and what they may do. It implements auth.Source.
type access struct {
	enforced bool // some listener authenticates: what is not allowed is denied
	file     Access
	users    map[string]cluster.User // of the file; read only once open

	now atomic.Pointer[accessState]
}

// accessState is what is in force as of one state of the cluster; immutable.
type accessState struct {
	rules    *auth.Rules
	security cluster.Security
	quotas   *auth.Quotas // nil when there are none
}

// begin takes what the options say. It is called before anything is followed.
func (a *access) begin(o Options) {
	a.file = Access{SuperUsers: o.Access.SuperUsers, ACLs: o.Access.ACLs}
	a.enforced = slices.ContainsFunc(o.Listeners, Listener.authenticates)
}

// openAccess makes the keys of the file's users, and follows the cluster's metadata from now on.
func (s *Server) openAccess(ctx context.Context) error {
	a := &s.access
	if a.enforced {
		if err := s.cluster.EnsureMask(ctx); err != nil {
			return fmt.Errorf("cluster metadata: %w", err)
		}
	}
	passwords := s.opts.Access.Users
	s.opts.Access.Users = nil // they are not needed again
	a.users = make(map[string]cluster.User, len(passwords))
	mask := s.machine.State().Security.Mask
	for name, password := range passwords {
		for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
			cred, err := auth.NewCredential(m, password, mask.Salt(name, m), auth.IterationsMin)
			if err != nil {
				return &outrelay.Error{Class: outrelay.ErrConfig, Code: "bad-password", Place: "user " + name, Cause: err.Error()}
			}
			a.users[name] = append(a.users[name], cred)
		}
	}
	a.follow(s.machine.State())
	return nil
}

// checkAccess refuses options that contradict.
func (o Options) checkAccess() error {
	for name := range o.Access.Users {
		if !auth.ValidUser(name) {
			return fmt.Errorf("broker: user %q: 1 to 255 printable bytes, and none of the reserved names: %w", name, outrelay.ErrConfig)
		}
	}
	for _, a := range o.Access.ACLs {
		if err := a.Check(); err != nil {
			return fmt.Errorf("broker: ACL: %w: %w", err, outrelay.ErrConfig)
		}
	}
	for _, p := range o.Access.SuperUsers {
		if !auth.ValidUser(p.Name()) {
			return fmt.Errorf("broker: super user %q: %w", p, outrelay.ErrConfig)
		}
	}
	return nil
}

// follow takes what a new state of the cluster says. It does not block.
func (a *access) follow(state *cluster.State) {
	a.now.Store(&accessState{rules: auth.NewRules(a.file.SuperUsers, a.file.ACLs, state.Security.ACLs), security: state.Security, quotas: auth.NewQuotas(state.Security.Quotas)})
}

// Credential implements auth.Source. The file's users come first.
func (a *access) Credential(user string, m auth.Mechanism) (auth.Credential, bool) {
	if u, ok := a.users[user]; ok {
		return u.Credential(m)
	}
	return a.now.Load().security.Users[user].Credential(m)
}

// Mask implements auth.Source.
func (a *access) Mask() auth.Mask { return a.now.Load().security.Mask }

// allows decides whether a session may do op to one resource.
func (a *access) allows(s *session, op auth.Operation, t auth.ResourceType, name string) bool {
	return !a.enforced || a.now.Load().rules.Allows(s.who, s.host, op, t, name)
}

// super reports whether a principal may do everything.
func (a *access) super(who auth.Principal) bool { return a.now.Load().rules.Super(who) }
