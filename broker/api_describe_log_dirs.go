package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeLogDirs, key 35: v0–5
//
//   - v0: KIP-113; v2: flexible; v3: an error for the whole answer; v4: sizes of the volume (KIP-827), which are not told
//   - v5: whether the directory is cordoned (KIP-1066), which one of one cannot be
//
// There is one directory.

func handleDescribeLogDirs(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.TotalBytes, dir.UsableBytes = -1, -1
	dir.Dir = s.logDir()
	set := s.topics.set()
	add := func(t *topic, want func(int32) bool) {
		dt := kmsg.NewDescribeLogDirsResponseDirTopic()
		dt.Topic = t.Name
		for _, p := range t.partitions {
			if p == nil || !want(p.index) {
				continue
			}
			dp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			dp.Partition, dp.Size = p.index, p.Size()
			dt.Partitions = append(dt.Partitions, dp)
		}
		if len(dt.Partitions) > 0 {
			dir.Topics = append(dir.Topics, dt)
		}
	}
	if req.Topics == nil {
		for _, name := range sortedNames(set) {
			add(set.byName[name], func(int32) bool { return true })
		}
	}
	for i := range req.Topics {
		rt := &req.Topics[i]
		asked := make(map[int32]bool, len(rt.Partitions))
		for _, index := range rt.Partitions {
			asked[index] = true
		}
		if t := set.byName[rt.Topic]; t != nil {
			add(t, func(index int32) bool { return asked[index] })
		}
	}
	if s.ctx.Err() != nil {
		dir.ErrorCode = kerr.KafkaStorageError.Code
	}
	resp.Dirs = append(resp.Dirs, dir)
	return answer(resp)
}
