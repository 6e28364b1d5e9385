package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// DescribeClientQuotas, key 48: v0–1, and AlterClientQuotas, key 49: v0–1 (KIP-546)
//
//   - v1: flexible
//
// Quotas are for users and client ids; those for addresses are not served.

// The kinds of part of an entity, and how they are matched.
const (
	entityUser     = "user"
	entityClientID = "client-id"

	matchExact   = 0
	matchDefault = 1
	matchAny     = 2
)

func handleDescribeClientQuotas(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeClientQuotasRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
	seen := map[string]bool{}
	for _, comp := range req.Components {
		bad := ""
		switch {
		case comp.EntityType != entityUser && comp.EntityType != entityClientID:
			resp.ErrorCode, resp.ErrorMessage = kerr.UnsupportedVersion.Code, new("quotas for "+comp.EntityType+" are not served")
			return answer(resp)
		case seen[comp.EntityType]:
			bad = comp.EntityType + " stands twice in the filter"
		case comp.MatchType == matchExact && comp.Match == nil, comp.MatchType != matchExact && comp.Match != nil, comp.MatchType > matchAny, comp.MatchType < 0:
			bad = "match type and match of " + comp.EntityType + " contradict"
		}
		if bad != "" {
			resp.ErrorCode, resp.ErrorMessage = kerr.InvalidRequest.Code, &bad
			return answer(resp)
		}
		seen[comp.EntityType] = true
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	for _, q := range s.access.now.Load().security.Quotas {
		if quotaMatches(req, q.Entity) {
			resp.Entries = append(resp.Entries, quotaEntry(q))
		}
	}
	return answer(resp)
}

func quotaMatches(req *kmsg.DescribeClientQuotasRequest, e auth.Entity) bool {
	left := 0
	for _, part := range []*string{e.User, e.ClientID} {
		if part != nil {
			left++
		}
	}
	for _, comp := range req.Components {
		part := e.User
		if comp.EntityType == entityClientID {
			part = e.ClientID
		}
		switch {
		case part == nil,
			comp.MatchType == matchExact && *part != *comp.Match,
			comp.MatchType == matchDefault && *part != "":
			return false
		}
		left--
	}
	return left == 0 || !req.Strict
}

func quotaEntry(q auth.Quota) kmsg.DescribeClientQuotasResponseEntry {
	e := kmsg.NewDescribeClientQuotasResponseEntry()
	add := func(kind string, part *string) {
		if part == nil {
			return
		}
		en := kmsg.DescribeClientQuotasResponseEntryEntity{Type: kind}
		if *part != "" {
			en.Name = part
		}
		e.Entity = append(e.Entity, en)
	}
	add(entityUser, q.Entity.User)
	add(entityClientID, q.Entity.ClientID)
	for _, name := range []string{auth.ProducerByteRate, auth.ConsumerByteRate, auth.RequestPercentage} {
		if v, ok := q.Values[name]; ok {
			e.Values = append(e.Values, kmsg.DescribeClientQuotasResponseEntryValue{Key: name, Value: v})
		}
	}
	return e
}

func handleAlterClientQuotas(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AlterClientQuotasRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.AlterClientQuotasResponse)
		for i := range req.Entries {
			re := &req.Entries[i]
			resp.Entries = append(resp.Entries, quotaOutcome(re, s.alterQuota(ctx, re, req.ValidateOnly)))
		}
		return resp
	}
}

// quotaOutcome is the answer to one entry.
func quotaOutcome(re *kmsg.AlterClientQuotasRequestEntry, err error) kmsg.AlterClientQuotasResponseEntry {
	se := kmsg.NewAlterClientQuotasResponseEntry()
	for _, e := range re.Entity {
		se.Entity = append(se.Entity, kmsg.AlterClientQuotasResponseEntryEntity{Type: e.Type, Name: e.Name})
	}
	if err != nil {
		se.ErrorCode, se.ErrorMessage = kafkaError(err).Code, new(errorText(err))
	}
	return se
}

func (s *Server) alterQuota(ctx context.Context, re *kmsg.AlterClientQuotasRequestEntry, validateOnly bool) error {
	entity, err := quotaEntity(re)
	if err != nil {
		return err
	}
	set, seen := map[string]float64{}, map[string]bool{}
	var remove []string
	for _, op := range re.Ops {
		if seen[op.Key] {
			return invalid(kerr.InvalidRequest, "quota %q stands twice in the request", op.Key)
		}
		seen[op.Key] = true
		if op.Remove {
			remove = append(remove, op.Key)
		} else {
			set[op.Key] = op.Value
		}
	}
	q := auth.Quota{Entity: entity}
	for _, old := range s.access.now.Load().security.Quotas {
		if old.Entity.Same(entity) {
			q = old
		}
	}
	q = q.With(set, remove)
	if err := q.Check(); err != nil {
		return invalid(kerr.InvalidRequest, "%v", err)
	}
	if validateOnly {
		return nil
	}
	return s.cluster.AlterQuota(ctx, q)
}

func quotaEntity(re *kmsg.AlterClientQuotasRequestEntry) (e auth.Entity, err error) {
	for i := range re.Entity {
		part := &e.User
		switch re.Entity[i].Type {
		case entityUser:
		case entityClientID:
			part = &e.ClientID
		default:
			return e, invalid(kerr.InvalidRequest, "quotas for %q are not served", re.Entity[i].Type)
		}
		name := re.Entity[i].Name
		switch {
		case *part != nil:
			return e, invalid(kerr.InvalidRequest, "%s stands twice in the entity", re.Entity[i].Type)
		case name != nil && *name == "":
			return e, invalid(kerr.InvalidRequest, "an empty name of %s", re.Entity[i].Type)
		case name == nil:
			name = new("")
		}
		*part = name
	}
	return e, nil
}
