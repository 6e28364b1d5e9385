package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// The guards of the APIs about the cluster, configurations and security.

// guardCluster makes a guard that wants one operation on the cluster, and answers with the error of the whole otherwise.
func guardCluster(g *gate, op auth.Operation, deny func() kmsg.Response) (kmsg.Response, func(kmsg.Response)) {
	if g.cluster(op) {
		return nil, nil
	}
	return deny(), nil
}

// mayConfigure decides about the configuration of one resource.
func (g *gate) mayConfigure(op auth.Operation, kind kmsg.ConfigResourceType, name string) *kerr.Error {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !g.may(op, auth.Topic, name) {
			return topicDenied
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		if !g.may(op, auth.Group, name) {
			return groupDenied
		}
	default: // nodes, loggers, metrics
		if !g.cluster(op) {
			return clusterDenied
		}
	}
	return nil
}

func guardDescribeConfigs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeConfigsRequest)
	var refused []kmsg.DescribeConfigsResponseResource
	req.Resources, _ = split(req.Resources, func(r *kmsg.DescribeConfigsRequestResource) bool {
		err := g.mayConfigure(auth.DescribeConfigs, r.ResourceType, r.ResourceName)
		if err != nil {
			sr := kmsg.NewDescribeConfigsResponseResource()
			sr.ResourceType, sr.ResourceName, sr.ErrorCode, sr.ErrorMessage = r.ResourceType, r.ResourceName, err.Code, &err.Description
			refused = append(refused, sr)
		}
		return err == nil
	})
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DescribeConfigsResponse)
		resp.Resources = append(resp.Resources, refused...)
	}
}

func guardAlterConfigs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AlterConfigsRequest)
	var refused []kmsg.AlterConfigsResponseResource
	req.Resources, _ = split(req.Resources, func(r *kmsg.AlterConfigsRequestResource) bool {
		err := g.mayConfigure(auth.AlterConfigs, r.ResourceType, r.ResourceName)
		if err != nil {
			refused = append(refused, kmsg.AlterConfigsResponseResource{ResourceType: r.ResourceType, ResourceName: r.ResourceName, ErrorCode: err.Code, ErrorMessage: &err.Description})
		}
		return err == nil
	})
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.AlterConfigsResponse)
		resp.Resources = append(resp.Resources, refused...)
	}
}

func guardIncrementalAlterConfigs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
	var refused []kmsg.IncrementalAlterConfigsResponseResource
	req.Resources, _ = split(req.Resources, func(r *kmsg.IncrementalAlterConfigsRequestResource) bool {
		err := g.mayConfigure(auth.AlterConfigs, r.ResourceType, r.ResourceName)
		if err != nil {
			refused = append(refused, kmsg.IncrementalAlterConfigsResponseResource{ResourceType: r.ResourceType, ResourceName: r.ResourceName, ErrorCode: err.Code, ErrorMessage: &err.Description})
		}
		return err == nil
	})
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.IncrementalAlterConfigsResponse)
		resp.Resources = append(resp.Resources, refused...)
	}
}

func guardListConfigResources(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.DescribeConfigs, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.ListConfigResourcesResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

func guardAlterReplicaLogDirs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AlterReplicaLogDirsRequest)
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
		for _, d := range req.Dirs {
			for _, t := range d.Topics {
				st := kmsg.AlterReplicaLogDirsResponseTopic{Topic: t.Topic}
				for _, p := range t.Partitions {
					st.Partitions = append(st.Partitions, kmsg.AlterReplicaLogDirsResponseTopicPartition{Partition: p, ErrorCode: clusterDenied.Code})
				}
				resp.Topics = append(resp.Topics, st)
			}
		}
		return resp
	})
}

func guardDescribeLogDirs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Describe, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.DescribeLogDirsResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

func guardElectLeaders(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.ElectLeadersRequest)
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
		resp.ErrorCode = clusterDenied.Code
		for _, t := range req.Topics {
			st := kmsg.ElectLeadersResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				st.Partitions = append(st.Partitions, kmsg.ElectLeadersResponseTopicPartition{Partition: p, ErrorCode: clusterDenied.Code})
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp
	})
}

func guardAlterPartitionReassignments(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

func guardListPartitionReassignments(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Describe, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

func guardDescribeQuorum(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Describe, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.DescribeQuorumResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

func guardUpdateFeatures(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.UpdateFeaturesResponse)
		resp.ErrorCode = clusterDenied.Code
		return resp
	})
}

// guardDescribeCluster lets everybody who is known see the nodes, as Metadata does; what may be done is said truly.
func guardDescribeCluster(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeClusterRequest)
	return nil, func(kresp kmsg.Response) {
		if resp := kresp.(*kmsg.DescribeClusterResponse); req.IncludeClusterAuthorizedOperations {
			resp.ClusterAuthorizedOperations = g.operations(auth.Cluster, auth.ClusterName)
		}
	}
}

func guardDescribeACLs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Describe, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.DescribeACLsResponse)
		resp.ErrorCode, resp.ErrorMessage = clusterDenied.Code, &clusterDenied.Description
		return resp
	})
}

func guardCreateACLs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.CreateACLsRequest)
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.CreateACLsResponse)
		for range req.Creations {
			resp.Results = append(resp.Results, kmsg.CreateACLsResponseResult{ErrorCode: clusterDenied.Code, ErrorMessage: &clusterDenied.Description})
		}
		return resp
	})
}

func guardDeleteACLs(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DeleteACLsRequest)
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.DeleteACLsResponse)
		for range req.Filters {
			resp.Results = append(resp.Results, kmsg.DeleteACLsResponseResult{ErrorCode: clusterDenied.Code, ErrorMessage: &clusterDenied.Description})
		}
		return resp
	})
}

func guardDescribeClientQuotas(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.DescribeConfigs, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
		resp.ErrorCode, resp.ErrorMessage = clusterDenied.Code, &clusterDenied.Description
		return resp
	})
}

func guardAlterClientQuotas(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AlterClientQuotasRequest)
	return guardCluster(g, auth.AlterConfigs, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.AlterClientQuotasResponse)
		for i := range req.Entries {
			resp.Entries = append(resp.Entries, quotaOutcome(&req.Entries[i], clusterDenied))
		}
		return resp
	})
}

func guardDescribeUserSCRAMCredentials(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return guardCluster(g, auth.Describe, func() kmsg.Response {
		resp := kreq.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
		resp.ErrorCode, resp.ErrorMessage = clusterDenied.Code, &clusterDenied.Description
		return resp
	})
}

func guardAlterUserSCRAMCredentials(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AlterUserSCRAMCredentialsRequest)
	return guardCluster(g, auth.Alter, func() kmsg.Response {
		resp := req.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
		for _, name := range scramUsers(req) {
			resp.Results = append(resp.Results, kmsg.AlterUserSCRAMCredentialsResponseResult{User: name, ErrorCode: clusterDenied.Code, ErrorMessage: &clusterDenied.Description})
		}
		return resp
	})
}
