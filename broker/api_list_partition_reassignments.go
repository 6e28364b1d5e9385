package broker

import "github.com/twmb/franz-go/pkg/kmsg"

// ListPartitionReassignments, key 46: v0 (KIP-455)
//
// The answer names what moves now. Nothing does: replicas have one node to be on. Topics that do not exist are no error, as in Kafka.

func handleListPartitionReassignments(_ *Server, _ *conn, kreq kmsg.Request) pending {
	return answer(kreq.ResponseKind())
}
