package broker

import (
	"sort"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// api is one Kafka API key as it is served: the versions and the handler.
type api struct {
	key, min, max int16
	// handle starts a request. It is called by the connection's reader, in the order of requests, and must not block on anything
	// that a later request of the connection could be needed for. What it returns is called by the connection's writer, in the
	// same order, and blocks until the answer is there. A nil answer sends nothing (Produce with acks=0).
	handle func(s *Server, c *conn, req kmsg.Request) pending
	// late says that the writer starts the request, when those before it are answered: it only reads, and its answer may be large. Else many of them
	// would be held for a client that asks for more and reads none.
	late bool
	// request makes the value that the body is decoded into; nil means kmsg's own.
	request func() kmsg.Request

	guard    guard // what of it a client may have that is no super user; nil: nothing. Set by apiTable
	flexible int16 // the first version with flexible headers (KIP-482); max+1 when there is none. Set by apiTable.
}

// pending waits for the answer of a request that was started. It returns early when the connection's context ends; what it
// returns then is not sent.
type pending func() kmsg.Response

// answer is a pending whose answer is there already.
func answer(r kmsg.Response) pending { return func() kmsg.Response { return r } }

// apiTable returns the APIs served, by key.
func (s *Server) apiTable() map[int16]*api {
	rows := append([]api{
		{key: 0, min: 0, max: 13, handle: handleProduce, request: func() kmsg.Request { return new(produceRequest) }},
		{key: 1, min: 4, max: 18, handle: handleFetch},
		{key: 2, min: 0, max: 11, handle: handleListOffsets, late: true},
		{key: 3, min: 0, max: 13, handle: handleMetadata, late: true},
		{key: 17, min: 0, max: 1, handle: handleSaslHandshake},
		{key: 18, min: 0, max: 4, handle: handleAPIVersions},
		{key: 19, min: 0, max: 7, handle: handleCreateTopics},
		{key: 20, min: 0, max: 6, handle: handleDeleteTopics},
		{key: 21, min: 0, max: 2, handle: handleDeleteRecords},
		{key: 23, min: 2, max: 4, handle: handleOffsetForLeaderEpoch},
		{key: 27, min: 1, max: 2, handle: handleWriteTxnMarkers},
		{key: 29, min: 0, max: 3, handle: handleDescribeACLs, late: true},
		{key: 30, min: 0, max: 3, handle: handleCreateACLs},
		{key: 31, min: 0, max: 3, handle: handleDeleteACLs},
		{key: 32, min: 0, max: 4, handle: handleDescribeConfigs, late: true},
		{key: 33, min: 0, max: 2, handle: handleAlterConfigs},
		{key: 34, min: 1, max: 2, handle: handleAlterReplicaLogDirs},
		{key: 35, min: 0, max: 5, handle: handleDescribeLogDirs, late: true},
		{key: 36, min: 0, max: 2, handle: handleSaslAuthenticate},
		{key: 37, min: 0, max: 3, handle: handleCreatePartitions},
		{key: 43, min: 0, max: 2, handle: handleElectLeaders},
		{key: 44, min: 0, max: 1, handle: handleIncrementalAlterConfigs},
		{key: 45, min: 0, max: 1, handle: handleAlterPartitionReassignments},
		{key: 46, min: 0, max: 0, handle: handleListPartitionReassignments},
		{key: 48, min: 0, max: 1, handle: handleDescribeClientQuotas, late: true},
		{key: 49, min: 0, max: 1, handle: handleAlterClientQuotas},
		{key: 50, min: 0, max: 0, handle: handleDescribeUserSCRAMCredentials, late: true},
		{key: 51, min: 0, max: 0, handle: handleAlterUserSCRAMCredentials},
		{key: 55, min: 0, max: 2, handle: handleDescribeQuorum},
		{key: 57, min: 0, max: 2, handle: handleUpdateFeatures},
		{key: 60, min: 0, max: 2, handle: handleDescribeCluster, late: true},
		{key: 61, min: 0, max: 0, handle: handleDescribeProducers, late: true},
		{key: 65, min: 0, max: 0, handle: handleDescribeTransactions, late: true},
		{key: 66, min: 0, max: 2, handle: handleListTransactions, late: true},
		{key: 74, min: 0, max: 1, handle: handleListConfigResources, late: true},
		{key: 75, min: 0, max: 0, handle: handleDescribeTopicPartitions, late: true},
	}, s.coordinatorAPIs()...)
	m, guarded := make(map[int16]*api, len(rows)), guards()
	for i := range rows {
		a := &rows[i]
		a.guard = guarded[a.key]
		for a.flexible = a.min; a.flexible <= a.max && !requestFlexible(a.key, a.flexible); a.flexible++ {
		}
		m[a.key] = a
	}
	return m
}

// sortedAPIs returns the table's rows in the order of their keys.
func sortedAPIs(m map[int16]*api) []*api {
	rows := make([]*api, 0, len(m))
	for _, a := range m {
		rows = append(rows, a)
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].key < rows[j].key })
	return rows
}
