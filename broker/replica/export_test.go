package replica

import pb "go.etcd.io/raft/v3/raftpb"

// What the scripted tests of several nodes need and no caller may have: messages in and out, time, and an election on demand, so that no
// timeout of raft's own decides.

func (o *Options) SetSend(fn func(GroupID, *pb.Message)) { o.send = fn }

func (n *Node) StepMessage(g GroupID, m *pb.Message) { n.step(g, m) }

func (n *Node) Tick() { n.tick() }

func (n *Node) Campaign(g GroupID) {
	n.shardOf(g).push(event{call: func(s *shard) {
		_ = s.groups[g].rn.Campaign()
		s.touch(s.groups[g])
	}}, false)
}

// ForgetLeader makes the node believe that it has not heard of its leader for long enough to vote for another.
func (n *Node) ForgetLeader(g GroupID) {
	n.shardOf(g).push(event{call: func(s *shard) {
		_ = s.groups[g].rn.ForgetLeader()
		s.touch(s.groups[g])
	}}, false)
}

// Applied returns the group's term, whether it leads and is ready, and the last applied index.
func (n *Node) Applied(g GroupID) (term uint64, leads, ready bool, applied uint64) {
	gr := n.groups[g].g
	return gr.term, gr.leader, gr.ready, gr.applied
}

// Decoders, for the fuzz targets.

func DecodeEntry(b []byte) error { _, err := decodeEntry(b); return err }

// ReencodeCheckpoint decodes a checkpoint and encodes it again.
func ReencodeCheckpoint(b []byte) ([]byte, error) {
	c, err := decodeCheckpoint(b)
	if err != nil {
		return nil, err
	}
	return c.encode(), nil
}

// SealCheckpoint gives b the checkpoint's header, version and CRC, so that a fuzzer gets past them.
func SealCheckpoint(b []byte) []byte {
	c := append([]byte(checkpointMagic), 0, 0, 0, checkpointVersion)
	c = append(c, b...)
	return be32(c, crcOf(c))
}

// ReencodePartition decodes a partition's blob and encodes it again.
func ReencodePartition(b []byte) ([]byte, error) {
	ps := newProducers(1)
	p, err := decodePartitionBlob(b, &ps)
	if err != nil {
		return nil, err
	}
	out := p.encode(&ps)
	return append(be32(out, uint32(len(p.observed))), p.observed...), nil
}

func EncodeBatchEntry(timeMs int64, b []byte) []byte {
	return appendBatchEntry(nil, entryBatch, 0, timeMs, 0, b)
}

func EncodeGuardedEntry(timeMs int64, guard TxnGuard, b []byte) []byte {
	return appendBatchEntry(nil, entryBatch, 0, timeMs, guard, b)
}

func EncodeLogStartEntry(timeMs, offset int64) []byte { return encodeLogStartEntry(0, timeMs, offset) }
