package broker

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListConfigResources, key 74: v0–1
//
//   - v0: client metrics resources only (KIP-1000): telemetry is not served, so there are none
//   - v1: any kind of resource (KIP-1142)
//
// Topics and this node have configurations, and so have groups of which something was set. Loggers and client metrics have none that could be set.

func handleListConfigResources(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ListConfigResourcesRequest)
	resp := req.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	kinds := []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeGroupConfig}
	switch {
	case req.Version == 0:
		kinds = nil
	case len(req.ResourceTypes) > 0:
		kinds = nil
		for _, k := range req.ResourceTypes {
			kinds = append(kinds, kmsg.ConfigResourceType(k))
		}
	}
	for _, kind := range kinds {
		switch kind {
		case kmsg.ConfigResourceTypeTopic:
			for _, name := range sortedNames(s.topics.set()) {
				resp.ConfigResources = append(resp.ConfigResources, configResource(kind, name))
			}
		case kmsg.ConfigResourceTypeBroker:
			resp.ConfigResources = append(resp.ConfigResources, configResource(kind, strconv.Itoa(int(s.opts.NodeID))))
		case kmsg.ConfigResourceTypeGroupConfig:
			for _, name := range slices.Sorted(maps.Keys(s.machine.State().GroupConfigs)) {
				resp.ConfigResources = append(resp.ConfigResources, configResource(kind, name))
			}
		case kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics:
		default:
			resp.ConfigResources, resp.ErrorCode = nil, kerr.UnsupportedVersion.Code // as Kafka says of a kind it does not know
			return answer(resp)
		}
	}
	return answer(resp)
}

func configResource(kind kmsg.ConfigResourceType, name string) kmsg.ListConfigResourcesResponseConfigResource {
	r := kmsg.NewListConfigResourcesResponseConfigResource()
	r.Name, r.Type = name, int8(kind)
	return r
}
