package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster, key 60: v0–2
//
//   - v0: KIP-700
//   - v1: endpoint type (KIP-919): only brokers are served
//   - v2: fenced brokers (KIP-1073): there are none

func handleDescribeCluster(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	if req.Version >= 1 && req.EndpointType != 1 {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		if req.EndpointType != 2 {
			resp.ErrorCode = kerr.InvalidRequest.Code
		}
		resp.EndpointType = req.EndpointType
		return answer(resp)
	}
	host, port := c.advertised()
	b := kmsg.NewDescribeClusterResponseBroker()
	b.NodeID, b.Host, b.Port = s.opts.NodeID, host, port
	resp.Brokers = append(resp.Brokers, b)
	resp.ClusterID, resp.ControllerID, resp.EndpointType = s.ClusterID(), s.opts.NodeID, 1
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	return answer(resp)
}
