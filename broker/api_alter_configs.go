package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// AlterConfigs, key 33: v0–2
//
//   - v0: KIP-133; v2: flexible
//
// It replaces all that is set, as it always did. A topic and a group can be configured, and of nodes the defaults of topics, for one node or for all of them; the rest is in the node's file.

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
	t, err := s.configTarget(rr.ResourceType, rr.ResourceName)
	if err != nil {
		return err
	}
	set := make(map[string]string, len(rr.Configs))
	for _, cf := range rr.Configs {
		if _, twice := set[cf.Name]; twice {
			return invalid(kerr.InvalidRequest, "%s stands twice in the request", cf.Name)
		}
		if cf.Value == nil {
			return invalid(kerr.InvalidRequest, "null value for %s", cf.Name)
		}
		set[cf.Name] = *cf.Value
	}
	if err := t.check(set, nil); err != nil {
		return err
	}
	if t.group {
		if err := s.checkGroup(t.name, set, nil, true); err != nil || validateOnly {
			return err
		}
		return s.cluster.SetGroupConfigs(ctx, t.name, set)
	}
	if validateOnly {
		return nil
	}
	if t.node {
		return s.cluster.SetNodeConfigs(ctx, t.name, set)
	}
	return s.cluster.SetConfigs(ctx, t.name, set)
}

// configsChanged makes the open partitions follow new configurations.
func (s *Server) configsChanged() {
	if err := s.syncTopics(); err != nil {
		s.log.Error("partitions do not follow the cluster's metadata", "error", err)
	}
}

// configTarget is what a request wants to configure: a topic, a group, this node, or all nodes.
type configTarget struct {
	s       *Server
	node    bool
	group   bool
	missing bool   // it is a topic that is not there; said after what is wrong with the configs, as in Kafka
	name    string // of the topic, group or node; "" for all nodes
}

func (s *Server) configTarget(kind kmsg.ConfigResourceType, name string) (*configTarget, error) {
	switch {
	case kind == kmsg.ConfigResourceTypeGroupConfig && name != "":
		return &configTarget{s: s, group: true, name: name}, nil
	case kind == kmsg.ConfigResourceTypeBroker && name != "" && name != s.nodeName():
		return nil, invalid(kerr.InvalidRequest, "node %q is not this one, which is %s", name, s.nodeName())
	case kind != kmsg.ConfigResourceTypeTopic && kind != kmsg.ConfigResourceTypeBroker:
		return nil, notConfigurable(kind)
	}
	node := kind == kmsg.ConfigResourceTypeBroker
	return &configTarget{s: s, node: node, missing: !node && s.topics.set().byName[name] == nil, name: name}, nil
}

// def returns the definition of a config that can be set.
func (t *configTarget) def(name string) (cluster.ConfigDef, error) {
	if t.group {
		if d, ok := cluster.GroupConfigDefOf(name); ok {
			return d, nil
		}
		return cluster.ConfigDef{}, invalid(kerr.InvalidConfig, "unknown group config %q", name)
	}
	if !t.node {
		if d, ok := cluster.ConfigDefOf(name); ok {
			return d, nil
		}
		return cluster.ConfigDef{}, invalid(kerr.InvalidConfig, "unknown topic config %q", name)
	}
	if d, ok := cluster.NodeConfigDefOf(name); ok {
		return d, nil
	}
	if t.static(name) {
		return cluster.ConfigDef{}, invalid(kerr.InvalidRequest, "%s cannot be changed while the node runs: it is set in the node's file, or fixed", name)
	}
	return cluster.ConfigDef{}, invalid(kerr.InvalidConfig, "unknown broker config %q", name)
}

// static reports whether a node has the config and keeps it while it runs.
func (t *configTarget) static(name string) bool {
	for _, b := range t.s.brokerConfigs() {
		if b.name == name {
			return true
		}
	}
	return false
}

// check says what is wrong with what is to be set and taken back. Taking back what a node has fixed changes nothing, and is no error:
// tools that end a move of replicas do it.
func (t *configTarget) check(set map[string]string, unset []string) error {
	for name, v := range set {
		d, err := t.def(name)
		if err == nil {
			err = d.Check(v)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range unset {
		if _, err := t.def(name); err != nil && !(t.node && t.static(name)) {
			return err
		}
	}
	if t.missing {
		return kerr.UnknownTopicOrPartition
	}
	return nil
}

// effective returns the value that counts now.
func (t *configTarget) effective(name string) string {
	entries := t.s.brokerEntries
	switch {
	case t.group:
		entries = func() []configEntry { return t.s.groupEntries(t.name) }
	case !t.node:
		topic := t.s.topics.set().byName[t.name]
		if topic == nil {
			return ""
		}
		entries = func() []configEntry { return t.s.topicEntries(topic.Topic) }
	}
	for _, e := range entries() {
		if e.name == name {
			return e.value()
		}
	}
	return ""
}
