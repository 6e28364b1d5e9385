package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// AlterConfigs, key 33: v0–2, and IncrementalAlterConfigs, key 44: v0–1 (KIP-339)
//
// Topics can be configured. A node cannot, while it runs. AlterConfigs replaces all that is set, as it always did.

func handleAlterConfigs(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AlterConfigsRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, 0)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
		for i := range req.Resources {
			rr := &req.Resources[i]
			sr := kmsg.NewAlterConfigsResponseResource()
			sr.ResourceType, sr.ResourceName = rr.ResourceType, rr.ResourceName
			if err := s.alterAll(ctx, rr, req.ValidateOnly); err != nil {
				sr.ErrorCode, sr.ErrorMessage = kafkaError(err).Code, new(errorText(err))
			}
			resp.Resources = append(resp.Resources, sr)
		}
		s.configsChanged()
		return resp
	}
}

func (s *Server) alterAll(ctx context.Context, rr *kmsg.AlterConfigsRequestResource, validateOnly bool) error {
	if _, err := s.alterable(rr.ResourceType, rr.ResourceName); err != nil {
		return err
	}
	set := make(map[string]string, len(rr.Configs))
	for _, cf := range rr.Configs {
		if cf.Value != nil {
			set[cf.Name] = *cf.Value
		}
	}
	if err := cluster.ValidateConfigs(set); err != nil || validateOnly {
		return err
	}
	return s.cluster.SetConfigs(ctx, rr.ResourceName, set)
}

// alterable returns the topic that a request wants to configure.
func (s *Server) alterable(kind kmsg.ConfigResourceType, name string) (*topic, error) {
	if kind != kmsg.ConfigResourceTypeTopic {
		if _, err := s.describe(kind, name); err != nil {
			return nil, err
		}
		return nil, invalid(kerr.InvalidRequest, "a node is configured in its file, not while it runs")
	}
	t := s.topics.set().byName[name]
	if t == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	return t, nil
}

// configsChanged makes the open partitions follow new configurations.
func (s *Server) configsChanged() {
	if err := s.syncTopics(); err != nil {
		s.log.Error("partitions do not follow the cluster's metadata", "error", err)
	}
}

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
	t, err := s.alterable(rr.ResourceType, rr.ResourceName)
	if err != nil {
		return err
	}
	set, unset := map[string]string{}, []string(nil)
	effective := cluster.Effective(t.Configs, s.topicDefaults())
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
		if set[cf.Name], err = alteredValue(cf, effective[cf.Name]); err != nil {
			return err
		}
	}
	if err := cluster.ValidateConfigs(set); err != nil || validateOnly {
		return err
	}
	return s.cluster.AlterConfigs(ctx, rr.ResourceName, set, unset)
}

// alteredValue returns what a configuration becomes: append and subtract are for lists.
func alteredValue(cf *kmsg.IncrementalAlterConfigsRequestResourceConfig, now string) (string, error) {
	if cf.Op == kmsg.IncrementalAlterConfigOpSet {
		return *cf.Value, nil
	}
	d, ok := cluster.ConfigDefOf(cf.Name)
	if !ok {
		return "", invalid(kerr.InvalidConfig, "unknown topic config %q", cf.Name)
	}
	if d.Type != cluster.ConfigList {
		return "", invalid(kerr.InvalidConfig, "%s is not a list", cf.Name)
	}
	var list []string
	if now != "" {
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
