package broker

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// What DescribeAcls, CreateAcls and DeleteAcls share.

// aclFilter is what a request looks for. Nil and ANY match everything.
type aclFilter struct {
	kind       kmsg.ACLResourceType
	name       *string
	pattern    kmsg.ACLResourcePatternType
	principal  *string
	host       *string
	operation  kmsg.ACLOperation
	permission kmsg.ACLPermissionType
}

// valid reports whether the filter says what the protocol knows.
func (f *aclFilter) valid() bool {
	return f.kind != kmsg.ACLResourceTypeUnknown && f.kind <= kmsg.ACLResourceTypeUser &&
		f.pattern != kmsg.ACLResourcePatternTypeUnknown && f.pattern <= kmsg.ACLResourcePatternTypePrefixed &&
		f.operation != kmsg.ACLOperationUnknown && f.operation <= kmsg.ACLOperationDescribeTokens &&
		f.permission != kmsg.ACLPermissionTypeUnknown && f.permission <= kmsg.ACLPermissionTypeAllow
}

func (f *aclFilter) matches(a auth.ACL) bool {
	is := func(want *string, got string) bool { return want == nil || *want == got }
	return (f.kind == kmsg.ACLResourceTypeAny || f.kind == a.Type) && f.matchesName(a) &&
		is(f.principal, string(a.Principal)) && is(f.host, a.Host) &&
		(f.operation == kmsg.ACLOperationAny || f.operation == a.Operation) &&
		(f.permission == kmsg.ACLPermissionTypeAny || f.permission == a.Permission)
}

// matchesName applies the pattern: MATCH finds every entry that concerns the name, literally, by prefix or by wildcard.
func (f *aclFilter) matchesName(a auth.ACL) bool {
	switch f.pattern {
	case kmsg.ACLResourcePatternTypeMatch:
		return f.name == nil || a.Name == *f.name || a.Pattern == kmsg.ACLResourcePatternTypeLiteral && a.Name == auth.Wildcard ||
			a.Pattern == kmsg.ACLResourcePatternTypePrefixed && strings.HasPrefix(*f.name, a.Name)
	case kmsg.ACLResourcePatternTypeAny:
	default:
		if f.pattern != a.Pattern {
			return false
		}
	}
	return f.name == nil || *f.name == a.Name
}

// acls returns the entries in force: those of the operator's file, then those of the cluster's metadata.
func (a *access) acls() (file, cluster []auth.ACL) { return a.file.ACLs, a.now.Load().security.ACLs }

// textNoAccess is what a log without authentication says of ACLs.
const textNoAccess = "no listener authenticates, so there is no access control"

// DescribeAcls, key 29: v0–3
//
//   - v0: KIP-140; v1: prefixed patterns (KIP-290); v2: flexible; v3: users as resources (KIP-373), of which there are none
//
// The entries of the operator's file are shown too.

func handleDescribeACLs(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeACLsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeACLsResponse)
	f := aclFilter{req.ResourceType, req.ResourceName, req.ResourcePatternType, req.Principal, req.Host, req.Operation, req.PermissionType}
	if req.Version == 0 {
		f.pattern = kmsg.ACLResourcePatternTypeLiteral
	}
	switch {
	case !s.access.enforced:
		resp.ErrorCode, resp.ErrorMessage = kerr.SecurityDisabled.Code, new(textNoAccess)
		return answer(resp)
	case !f.valid():
		resp.ErrorCode, resp.ErrorMessage = kerr.InvalidRequest.Code, new("the filter has a value that is not known")
		return answer(resp)
	}
	type resource struct {
		kind    kmsg.ACLResourceType
		name    string
		pattern kmsg.ACLResourcePatternType
	}
	at := map[resource]int{}
	file, own := s.access.acls()
	for _, list := range [][]auth.ACL{file, own} {
		for _, a := range list {
			if !f.matches(a) || req.Version == 0 && a.Pattern != kmsg.ACLResourcePatternTypeLiteral {
				continue
			}
			r := resource{a.Type, a.Name, a.Pattern}
			i, ok := at[r]
			if !ok {
				i = len(resp.Resources)
				at[r] = i
				resp.Resources = append(resp.Resources, kmsg.DescribeACLsResponseResource{ResourceType: a.Type, ResourceName: a.Name, ResourcePatternType: a.Pattern})
			}
			resp.Resources[i].ACLs = append(resp.Resources[i].ACLs, kmsg.DescribeACLsResponseResourceACL{
				Principal: string(a.Principal), Host: a.Host, Operation: a.Operation, PermissionType: a.Permission,
			})
		}
	}
	return answer(resp)
}

// CreateAcls, key 30: v0–3, as DescribeAcls. Each entry succeeds or fails by itself.

func handleCreateACLs(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.CreateACLsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.CreateACLsResponse)
		for i := range req.Creations {
			r := kmsg.NewCreateACLsResponseResult()
			if err := s.createACL(ctx, c, req.Version, &req.Creations[i]); err != nil {
				r.ErrorCode, r.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			}
			resp.Results = append(resp.Results, r)
		}
		return resp
	}
}

func (s *Server) createACL(ctx context.Context, c *conn, version int16, rc *kmsg.CreateACLsRequestCreation) error {
	a := auth.ACL{
		Principal: auth.Principal(rc.Principal), Host: rc.Host, Type: rc.ResourceType, Name: rc.ResourceName,
		Pattern: rc.ResourcePatternType, Operation: rc.Operation, Permission: rc.PermissionType,
	}
	if version == 0 {
		a.Pattern = kmsg.ACLResourcePatternTypeLiteral
	}
	if !s.access.enforced {
		return invalid(kerr.SecurityDisabled, textNoAccess)
	}
	if err := a.Check(); err != nil {
		return invalid(kerr.InvalidRequest, "%v", err)
	}
	if err := s.cluster.CreateACLs(ctx, []auth.ACL{a}); err != nil {
		return err
	}
	s.log.Info("ACL created", "audit", true, "acl", a.String(), "by", c.who())
	return nil
}

// who returns the client's principal, for the log.
func (c *conn) who() string {
	if s := c.session.Load(); s != nil {
		return string(s.who)
	}
	return ""
}

// DeleteAcls, key 31: v0–3, as DescribeAcls. Entries of the operator's file that match are answered with POLICY_VIOLATION: they are deleted where they
// stand.

func handleDeleteACLs(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DeleteACLsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.DeleteACLsResponse)
		for i := range req.Filters {
			rf := &req.Filters[i]
			f := aclFilter{rf.ResourceType, rf.ResourceName, rf.ResourcePatternType, rf.Principal, rf.Host, rf.Operation, rf.PermissionType}
			if req.Version == 0 {
				f.pattern = kmsg.ACLResourcePatternTypeLiteral
			}
			resp.Results = append(resp.Results, s.deleteACLs(ctx, c, &f))
		}
		return resp
	}
}

func (s *Server) deleteACLs(ctx context.Context, c *conn, f *aclFilter) (r kmsg.DeleteACLsResponseResult) {
	switch {
	case !s.access.enforced:
		r.ErrorCode, r.ErrorMessage = kerr.SecurityDisabled.Code, new(textNoAccess)
		return r
	case !f.valid():
		r.ErrorCode, r.ErrorMessage = kerr.InvalidRequest.Code, new("the filter has a value that is not known")
		return r
	}
	file, own := s.access.acls()
	var gone []auth.ACL
	for _, a := range own {
		if f.matches(a) {
			gone = append(gone, a)
		}
	}
	if len(gone) > 0 {
		if err := s.cluster.DeleteACLs(ctx, gone); err != nil {
			r.ErrorCode, r.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			return r
		}
	}
	for _, a := range gone {
		r.MatchingACLs = append(r.MatchingACLs, matchingACL(a))
		s.log.Info("ACL deleted", "audit", true, "acl", a.String(), "by", c.who())
	}
	for _, a := range file {
		if f.matches(a) {
			m := matchingACL(a)
			m.ErrorCode, m.ErrorMessage = kerr.PolicyViolation.Code, new("it stands in the operator's file")
			r.MatchingACLs = append(r.MatchingACLs, m)
		}
	}
	return r
}

func matchingACL(a auth.ACL) kmsg.DeleteACLsResponseResultMatchingACL {
	return kmsg.DeleteACLsResponseResultMatchingACL{
		ResourceType: a.Type, ResourceName: a.Name, ResourcePatternType: a.Pattern,
		Principal: string(a.Principal), Host: a.Host, Operation: a.Operation, PermissionType: a.Permission,
	}
}
