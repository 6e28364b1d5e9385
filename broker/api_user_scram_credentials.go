package broker

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/cluster"
)

// DescribeUserScramCredentials, key 50: v0, and AlterUserScramCredentials, key 51: v0 (KIP-554)
//
// Passwords never come here: a client sends salt and salted password, from which the stored keys are made. The users of the operator's file are
// shown, and cannot be altered but there.

// scramMechanism returns the mechanism that the protocol numbers 1 and 2.
func scramMechanism(n int8) (auth.Mechanism, bool) {
	switch n {
	case 1:
		return auth.ScramSHA256, true
	case 2:
		return auth.ScramSHA512, true
	}
	return "", false
}

func handleDescribeUserSCRAMCredentials(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeUserSCRAMCredentialsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	stored := s.access.now.Load().security.Users
	var names []string
	count := map[string]int{}
	if req.Users == nil {
		names = slices.Collect(maps.Keys(stored))
		names = append(names, slices.Collect(maps.Keys(s.access.users))...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	for _, u := range req.Users {
		if count[u.Name]++; count[u.Name] == 1 {
			names = append(names, u.Name)
		}
	}
	for _, name := range names {
		u, ok := s.access.users[name]
		if !ok {
			u, ok = stored[name]
		}
		r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		r.User = name
		switch {
		case count[name] > 1:
			r.ErrorCode, r.ErrorMessage = kerr.DuplicateResource.Code, new("the user stands twice in the request")
		case !ok:
			r.ErrorCode, r.ErrorMessage = kerr.ResourceNotFound.Code, new("no user of that name has a credential")
		}
		for n := int8(1); r.ErrorCode == 0 && n <= 2; n++ {
			m, _ := scramMechanism(n)
			if cred, has := u.Credential(m); has {
				r.CredentialInfos = append(r.CredentialInfos, kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{Mechanism: n, Iterations: int32(cred.Iterations)})
			}
		}
		resp.Results = append(resp.Results, r)
	}
	return answer(resp)
}

// scramUsers returns the users that a request names, each once, in its order.
func scramUsers(req *kmsg.AlterUserSCRAMCredentialsRequest) (names []string) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for i := range req.Deletions {
		add(req.Deletions[i].Name)
	}
	for i := range req.Upsertions {
		add(req.Upsertions[i].Name)
	}
	return names
}

// scramAlterationsMax bounds the users of one request: each waits for the disk.
const scramAlterationsMax = 1000

func handleAlterUserSCRAMCredentials(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AlterUserSCRAMCredentialsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
		if len(req.Deletions)+len(req.Upsertions) > scramAlterationsMax {
			c.close(&frameError{reason: "request too large", hint: "too many users in one request"})
			return resp
		}
		for _, name := range scramUsers(req) {
			r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			r.User = name
			if err := s.alterUser(ctx, name, req); err != nil {
				r.ErrorCode, r.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			} else {
				s.log.Info("user changed", "audit", true, "user", name, "by", c.who())
			}
			resp.Results = append(resp.Results, r)
		}
		return resp
	}
}

// alterUser makes the changes that a request wants for one user: all of them are checked before the first is made.
func (s *Server) alterUser(ctx context.Context, name string, req *kmsg.AlterUserSCRAMCredentialsRequest) error {
	if _, ok := s.access.users[name]; ok {
		return invalid(kerr.PolicyViolation, "user %q stands in the operator's file", name)
	}
	if !auth.ValidUser(name) {
		return invalid(kerr.UnacceptableCredential, "a user's name has 1 to 255 printable bytes, and is none of the reserved ones")
	}
	var changes []cluster.UserChange
	seen := map[auth.Mechanism]bool{}
	add := func(n int8, ch cluster.UserChange) error {
		m, ok := scramMechanism(n)
		switch {
		case !ok:
			return invalid(kerr.UnsupportedSaslMechanism, "SCRAM mechanism %d is not known", n)
		case seen[m]:
			return invalid(kerr.DuplicateResource, "user %q stands twice with one mechanism", name)
		}
		seen[m] = true
		changes = append(changes, ch)
		return nil
	}
	for i := range req.Deletions {
		if d := &req.Deletions[i]; d.Name == name {
			m, _ := scramMechanism(d.Mechanism)
			if err := add(d.Mechanism, cluster.UserChange{User: name, Delete: m}); err != nil {
				return err
			}
		}
	}
	for i := range req.Upsertions {
		u := &req.Upsertions[i]
		if u.Name != name {
			continue
		}
		m, known := scramMechanism(u.Mechanism)
		cred, err := auth.CredentialOf(m, u.SaltedPassword, u.Salt, int(u.Iterations))
		if err != nil && known {
			return invalid(kerr.UnacceptableCredential, "%v", err)
		}
		if err := add(u.Mechanism, cluster.UserChange{User: name, Credential: &cred}); err != nil {
			return err
		}
	}
	for _, ch := range changes {
		if err := s.cluster.AlterUser(ctx, ch); err != nil {
			return err
		}
	}
	return nil
}
