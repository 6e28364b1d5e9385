package broker

import "github.com/twmb/franz-go/pkg/kmsg"

const fetchSessionSlots = 1000

type fetchSessions struct{}

func newFetchSessions(int) *fetchSessions { return &fetchSessions{} }

type produceRequest struct{ kmsg.ProduceRequest }

func stub(_ *Server, _ *conn, req kmsg.Request) pending { return answer(req.ResponseKind()) }

var (
	handleProduce, handleFetch, handleListOffsets, handleMetadata, handleAPIVersions, handleCreateTopics, handleDeleteTopics = stub, stub, stub, stub, stub, stub, stub
	handleDeleteRecords, handleOffsetForLeaderEpoch, handleDescribeConfigs, handleAlterConfigs, handleDescribeLogDirs        = stub, stub, stub, stub, stub
	handleCreatePartitions, handleIncrementalAlterConfigs, handleDescribeCluster                                             = stub, stub, stub
)

func (s *Server) unsupported(*api, header) pending { return nil }
