package broker

import (
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterReplicaLogDirs, key 34: v1–2
//
//   - v1: KIP-113; v2: flexible
//
// A node has one directory, and every partition of it is there already: asking for that is granted, since nothing is left to do, and
// any other directory is LOG_DIR_NOT_FOUND.

func handleAlterReplicaLogDirs(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.AlterReplicaLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
	at := map[string]int{} // a topic's place in the answer, which is by topic and not by directory
	for i := range req.Dirs {
		rd := &req.Dirs[i]
		for j := range rd.Topics {
			rt := &rd.Topics[j]
			k, ok := at[rt.Topic]
			if !ok {
				k = len(resp.Topics)
				at[rt.Topic] = k
				st := kmsg.NewAlterReplicaLogDirsResponseTopic()
				st.Topic = rt.Topic
				resp.Topics = append(resp.Topics, st)
			}
			for _, index := range rt.Partitions {
				sp := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				sp.Partition = index
				if err := s.moveToDir(rd.Dir, rt.Topic, index); err != nil {
					sp.ErrorCode = err.Code
				}
				resp.Topics[k].Partitions = append(resp.Topics[k].Partitions, sp)
			}
		}
	}
	return answer(resp)
}

func (s *Server) moveToDir(dir, topic string, index int32) *kerr.Error {
	if filepath.Clean(dir) != s.logDir() {
		return kerr.LogDirNotFound
	}
	if s.ctx.Err() != nil {
		return kerr.KafkaStorageError
	}
	_, err := s.lookup(topic, index)
	return err
}

// logDir returns the directory that holds everything, as it is shown to clients.
func (s *Server) logDir() string {
	if abs, err := filepath.Abs(s.opts.DataDir); err == nil {
		return abs
	}
	return s.opts.DataDir
}
