package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs, key 32: v0–4
//
//   - v1: sources and synonyms (KIP-226); v3: types and documentation (KIP-569); v4: flexible
//
// Topics, groups and this node are described; a node without a name is what is set for all nodes.

func handleDescribeConfigs(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	for i := range req.Resources {
		rr := &req.Resources[i]
		sr := kmsg.NewDescribeConfigsResponseResource()
		sr.ResourceType, sr.ResourceName = rr.ResourceType, rr.ResourceName
		entries, err := s.describe(rr.ResourceType, rr.ResourceName)
		if err != nil {
			sr.ErrorCode, sr.ErrorMessage = kafkaError(err).Code, new(errorText(err))
		}
		for i := range entries {
			if e := &entries[i]; rr.ConfigNames == nil || slices.Contains(rr.ConfigNames, e.name) {
				sr.Configs = append(sr.Configs, e.described(req))
			}
		}
		resp.Resources = append(resp.Resources, sr)
	}
	return answer(resp)
}

func (s *Server) describe(kind kmsg.ConfigResourceType, name string) ([]configEntry, error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !validTopicName(name) {
			return nil, kerr.InvalidTopicException
		}
		t := s.topics.set().byName[name]
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return s.topicEntries(t.Topic), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, notConfigurable(kind)
		}
		return s.groupEntries(name), nil
	case kmsg.ConfigResourceTypeBroker:
		switch name {
		case "":
			return s.sharedEntries(), nil
		case s.nodeName():
			return s.brokerEntries(), nil
		}
		return nil, invalid(kerr.InvalidRequest, "node %q is not this one, which is %s", name, s.nodeName())
	}
	return nil, notConfigurable(kind)
}

// notConfigurable says that a kind of resource has no configs here.
func notConfigurable(kind kmsg.ConfigResourceType) error {
	return invalid(kerr.InvalidRequest, "resources of type %v have no configuration here; topics, groups and brokers have", kind)
}

func (e *configEntry) described(req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.Source, c.ConfigType = e.name, new(e.value()), e.readOnly, e.source(), e.kind
	c.IsDefault = e.source() == kmsg.ConfigSourceDefaultConfig
	if req.IncludeDocumentation && e.doc != "" {
		c.Documentation = &e.doc
	}
	if req.IncludeSynonyms {
		for _, v := range e.values {
			sy := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			sy.Name, sy.Value, sy.Source = v.name, new(v.value), v.source
			c.ConfigSynonyms = append(c.ConfigSynonyms, sy)
		}
	}
	return c
}
