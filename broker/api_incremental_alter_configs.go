package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// IncrementalAlterConfigs, key 44: v0–1
//
//   - v0: KIP-339; v1: flexible
//
// What can be set is what AlterConfigs can.

func handleIncrementalAlterConfigs(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
		for i := range req.Resources {
			rr := &req.Resources[i]
			sr := kmsg.NewIncrementalAlterConfigsResponseResource()
			sr.ResourceType, sr.ResourceName = rr.ResourceType, rr.ResourceName
			if err := s.alterSome(ctx, rr, req.ValidateOnly); err != nil {
				sr.ErrorCode, sr.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			}
			resp.Resources = append(resp.Resources, sr)
		}
		s.configsChanged()
		return resp
	}
}

func (s *Server) alterSome(ctx context.Context, rr *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) error {
	t, err := s.configTarget(rr.ResourceType, rr.ResourceName)
	if err != nil {
		return err
	}
	set, unset := map[string]string{}, []string(nil)
	seen := map[string]bool{}
	for i := range rr.Configs {
		cf := &rr.Configs[i]
		if seen[cf.Name] {
			return invalid(kerr.InvalidRequest, "%s stands twice in the request", cf.Name)
		}
		seen[cf.Name] = true
		if cf.Op == kmsg.IncrementalAlterConfigOpDelete {
			unset = append(unset, cf.Name)
			continue
		}
		if cf.Value == nil {
			return invalid(kerr.InvalidRequest, "null value for %s", cf.Name)
		}
		d, err := t.def(cf.Name)
		if err != nil {
			return err
		}
		if set[cf.Name], err = alteredValue(cf, d, t); err != nil {
			return err
		}
	}
	if err := t.check(set, unset); err != nil {
		return err
	}
	if t.group {
		if err := s.checkGroup(t.name, set, unset, false); err != nil || validateOnly {
			return err
		}
		return s.cluster.AlterGroupConfigs(ctx, t.name, set, unset)
	}
	if validateOnly {
		return nil
	}
	if t.node {
		return s.cluster.AlterNodeConfigs(ctx, t.name, set, unset)
	}
	return s.cluster.AlterConfigs(ctx, t.name, set, unset)
}

// alteredValue returns what a config becomes: append and subtract are for lists.
func alteredValue(cf *kmsg.IncrementalAlterConfigsRequestResourceConfig, d cluster.ConfigDef, t *configTarget) (string, error) {
	switch cf.Op {
	case kmsg.IncrementalAlterConfigOpSet:
		return *cf.Value, nil
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
	default:
		return "", invalid(kerr.InvalidRequest, "%s: there is no operation %d", cf.Name, cf.Op)
	}
	if d.Type != cluster.ConfigList {
		return "", invalid(kerr.InvalidConfig, "%s is not a list", cf.Name)
	}
	var list []string
	if now := t.effective(cf.Name); now != "" {
		list = strings.Split(now, ",")
	}
	for _, v := range strings.Split(*cf.Value, ",") {
		at := slices.Index(list, v)
		switch {
		case cf.Op == kmsg.IncrementalAlterConfigOpAppend && at < 0:
			list = append(list, v)
		case cf.Op == kmsg.IncrementalAlterConfigOpSubtract && at >= 0:
			list = slices.Delete(list, at, at+1)
		}
	}
	return strings.Join(list, ","), nil
}
