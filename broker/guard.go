package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// A guard stands before the handler of an API and decides what of a request its client may have. It either answers itself, or takes out of the request what is
// denied and returns how the handler's answer gets the denials. So the handlers know nothing of access control, and an API without a guard is not
// served at all to a client that is no super user: forgetting one denies.
//
// What is denied is answered as Apache Kafka does, key by key; whether a denied thing exists is not revealed. Produce and Fetch decide at the
// partition itself, since sessions and topic ids name it only there.
type guard func(g *gate, req kmsg.Request) (denial kmsg.Response, patch func(kmsg.Response))

// gate is one request of one session, at the guard.
type gate struct {
	s    *Server
	c    *conn
	sess *session
	key  int16
}

// may decides, and writes what is denied into the audit log.
func (g *gate) may(op auth.Operation, t auth.ResourceType, name string) bool {
	if g.can(op, t, name) {
		return true
	}
	g.s.audit.denied(g.c, g.sess, kmsg.NameForKey(g.key), op, t, name)
	return false
}

// can decides without a trace: for what is left out of a list, which is no attempt at anything.
func (g *gate) can(op auth.Operation, t auth.ResourceType, name string) bool {
	return g.s.access.allows(g.sess, op, t, name)
}

func (g *gate) cluster(op auth.Operation) bool { return g.may(op, auth.Cluster, auth.ClusterName) }

// topic decides about a topic, by name or, where byID is set, by id. known is false for an id that names nothing: there is nothing to decide, and the
// handler says so.
func (g *gate) topic(op auth.Operation, name string, id [16]byte, byID bool) (allowed, known bool) {
	if byID {
		t := g.s.topics.set().byID[id]
		if t == nil {
			return true, false
		}
		name = t.Name
	}
	return g.may(op, auth.Topic, name), true
}

// guarded starts a request: through its guard where access control applies to the client.
func (c *conn) guarded(a *api, req kmsg.Request) pending {
	sess := c.session.Load()
	if sess == nil || !c.s.access.enforced || c.s.access.super(sess.who) || c.s.greetings[a.key] != nil {
		return a.handle(c.s, c, req)
	}
	if a.guard == nil {
		c.close(&frameError{reason: "unguarded api", hint: kmsg.NameForKey(a.key) + " is for super users only"})
		return func() kmsg.Response { return nil }
	}
	denial, patch := a.guard(&gate{s: c.s, c: c, sess: sess, key: a.key}, req)
	switch {
	case denial != nil:
		return answer(denial)
	case patch == nil:
		return a.handle(c.s, c, req)
	}
	next := a.handle(c.s, c, req)
	return func() kmsg.Response {
		resp := next()
		if resp != nil {
			patch(resp)
		}
		return resp
	}
}

// guards returns the guard of every API that has one. Those of SaslHandshake, ApiVersions and SaslAuthenticate are not needed: they come before.
func guards() map[int16]guard {
	return map[int16]guard{
		0: guardProduce, 1: guardFetch, 2: guardListOffsets, 3: guardMetadata,
		8: guardOffsetCommit, 9: guardOffsetFetch, 10: guardFindCoordinator,
		11: guardJoinGroup, 12: guardHeartbeat, 13: guardLeaveGroup, 14: guardSyncGroup, 15: guardDescribeGroups, 16: guardListGroups,
		19: guardCreateTopics, 20: guardDeleteTopics, 21: guardDeleteRecords, 22: guardInitProducerID, 23: guardOffsetForLeaderEpoch,
		24: guardAddPartitionsToTxn, 25: guardAddOffsetsToTxn, 26: guardEndTxn, 27: guardWriteTxnMarkers, 28: guardTxnOffsetCommit,
		29: guardDescribeACLs, 30: guardCreateACLs, 31: guardDeleteACLs,
		32: guardDescribeConfigs, 33: guardAlterConfigs, 34: guardAlterReplicaLogDirs, 35: guardDescribeLogDirs, 37: guardCreatePartitions,
		42: guardDeleteGroups, 43: guardElectLeaders, 44: guardIncrementalAlterConfigs,
		45: guardAlterPartitionReassignments, 46: guardListPartitionReassignments, 47: guardOffsetDelete,
		48: guardDescribeClientQuotas, 49: guardAlterClientQuotas, 50: guardDescribeUserSCRAMCredentials, 51: guardAlterUserSCRAMCredentials,
		55: guardDescribeQuorum, 57: guardUpdateFeatures, 60: guardDescribeCluster, 61: guardDescribeProducers,
		65: guardDescribeTransactions, 66: guardListTransactions, 68: guardConsumerGroupHeartbeat, 69: guardConsumerGroupDescribe,
		74: guardListConfigResources, 75: guardDescribeTopicPartitions,
	}
}

// split parts items by ok. What is allowed is never nil: for some requests nil means everything.
func split[T any](items []T, ok func(*T) bool) (allowed, denied []T) {
	allowed = make([]T, 0, len(items))
	for i := range items {
		if ok(&items[i]) {
			allowed = append(allowed, items[i])
		} else {
			denied = append(denied, items[i])
		}
	}
	return allowed, denied
}

// operations returns the bit field of what the client may do to a resource (KIP-430), of those that exist for its type.
func (g *gate) operations(t auth.ResourceType, name string) (bits int32) {
	for _, op := range auth.Operations(t) {
		if g.can(op, t, name) {
			bits |= 1 << op
		}
	}
	return bits
}

// Codes that denials carry.
var (
	topicDenied   = kerr.TopicAuthorizationFailed
	groupDenied   = kerr.GroupAuthorizationFailed
	clusterDenied = kerr.ClusterAuthorizationFailed
	txnIDDenied   = kerr.TransactionalIDAuthorizationFailed
)
