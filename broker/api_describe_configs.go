package broker

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs, key 32: v0–4
//
//   - v1: sources and synonyms (KIP-226); v3: types and documentation (KIP-569); v4: flexible
//
// Topics and this node are described.

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
		for _, e := range entries {
			if rr.ConfigNames == nil || slices.Contains(rr.ConfigNames, e.name) {
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
	case kmsg.ConfigResourceTypeBroker:
		if name == "" { // the defaults of all nodes: nothing is set there
			return nil, nil
		}
		if name != strconv.Itoa(int(s.opts.NodeID)) {
			return nil, invalid(kerr.InvalidRequest, "node %q is not this one, which is %d", name, s.opts.NodeID)
		}
		return s.brokerEntries(), nil
	}
	return nil, invalid(kerr.InvalidRequest, "resource type %v is not served", kind)
}

func (e *configEntry) described(req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.Source, c.ConfigType = e.name, &e.value, e.readOnly, e.source, e.kind
	c.IsDefault = e.source == kmsg.ConfigSourceDefaultConfig
	if req.IncludeDocumentation && e.doc != "" {
		c.Documentation = &e.doc
	}
	if req.IncludeSynonyms {
		synonym := func(value string, source kmsg.ConfigSource) {
			sy := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			sy.Name, sy.Value, sy.Source = e.name, &value, source
			c.ConfigSynonyms = append(c.ConfigSynonyms, sy)
		}
		synonym(e.value, e.source)
		if e.fallback != nil {
			synonym(*e.fallback, kmsg.ConfigSourceDefaultConfig)
		}
	}
	return c
}
