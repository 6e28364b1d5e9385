package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/vfs"
)

// checkpoint is the node's checkpoint file (docs/format/checkpoint.md): what of every group is durable outside the write-ahead log.
type checkpoint struct {
	nodeID      int32
	incarnation [16]byte
	createdMs   int64
	wal         wal.Expect // what the write-ahead log must hold beside it; zero in one of version 1
	groups      []section
}

// section is one group in a checkpoint.
type section struct {
	group         GroupID
	replicaID     uint64
	applied, term uint64
	hs            hardState
	cs            *pb.ConfState
	blob          []byte // the state machine's
}

const (
	checkpointMagic   = "ORLYCKPT"
	checkpointVersion = 2
	checkpointHead    = 8 + 4 + 4 + 16 + 8 + 4 // of version 1; 2 has 24 more
	checkpointMax     = 1 << 30
)

func (c *checkpoint) encode() []byte {
	n := checkpointHead + 24 + 4
	for _, s := range c.groups {
		n += 256 + len(s.blob)
	}
	b := make([]byte, 0, n)
	b = append(b, checkpointMagic...)
	b = be32(b, checkpointVersion)
	b = be32(b, uint32(c.nodeID))
	b = append(b, c.incarnation[:]...)
	b = be64(b, uint64(c.createdMs))
	b = be64(b, c.wal.First)
	b = be64(b, c.wal.Tail.File)
	b = be64(b, uint64(c.wal.Tail.Offset))
	b = be32(b, uint32(len(c.groups)))
	for i := range c.groups {
		b = c.groups[i].encode(b)
	}
	return be32(b, crcOf(b))
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (s *section) encode(b []byte) []byte {
	for _, v := range []uint64{uint64(s.group), s.replicaID, s.applied, s.term, s.hs.term, s.hs.vote, s.hs.commit} {
		b = be64(b, v)
	}
	for _, ids := range [][]uint64{s.cs.GetVoters(), s.cs.GetLearners(), s.cs.GetVotersOutgoing(), s.cs.GetLearnersNext()} {
		b = be32(b, uint32(len(ids)))
		for _, id := range ids {
			b = be64(b, id)
		}
	}
	auto := byte(0)
	if s.cs.GetAutoLeave() {
		auto = 1
	}
	b = append(b, auto)
	b = be32(b, uint32(len(s.blob)))
	return append(b, s.blob...)
}

// decodeCheckpoint reads a checkpoint file. Blobs alias b.
func decodeCheckpoint(b []byte) (checkpoint, error) {
	var c checkpoint
	if len(b) < checkpointHead+4 || string(b[:8]) != checkpointMagic {
		return c, fmt.Errorf("no checkpoint header in %d bytes: %w", len(b), ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v == 0 || v > checkpointVersion {
		return c, fmt.Errorf("checkpoint version %d, this program reads up to %d: %w", v, checkpointVersion, ErrVersion)
	}
	body := b[:len(b)-4]
	if crcOf(body) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return c, fmt.Errorf("checkpoint of %d bytes: CRC: %w", len(b), ErrCorrupt)
	}
	d := decoder{b: body, at: 12}
	c.nodeID = int32(d.u32())
	copy(c.incarnation[:], d.bytes(16))
	c.createdMs = int64(d.u64())
	if binary.BigEndian.Uint32(b[8:]) > 1 {
		c.wal = wal.Expect{First: d.u64(), Tail: wal.Pos{File: d.u64(), Offset: int64(d.u64())}}
	}
	n := d.count(7*8 + 4*4 + 1 + 4)
	for range n {
		s := section{
			group: GroupID(d.u64()), replicaID: d.u64(), applied: d.u64(), term: d.u64(),
			hs: hardState{term: d.u64(), vote: d.u64(), commit: d.u64()},
		}
		s.cs = &pb.ConfState{Voters: d.ids(), Learners: d.ids(), VotersOutgoing: d.ids(), LearnersNext: d.ids()}
		s.cs.AutoLeave = new(d.u8() == 1)
		s.blob = d.bytes(int(d.u32()))
		c.groups = append(c.groups, s)
	}
	if err := d.end(); err != nil {
		return c, fmt.Errorf("checkpoint: %w", err)
	}
	return c, nil
}

// loadCheckpoint reads dir's checkpoint; the error wraps fs.ErrNotExist when there is none.
func loadCheckpoint(f vfs.FS, dir string) (checkpoint, error) {
	name := path.Join(dir, fileCheckpoint)
	info, err := f.Stat(name)
	if err != nil {
		return checkpoint{}, err
	}
	if info.Size > checkpointMax {
		return checkpoint{}, fmt.Errorf("%s: %d bytes: %w", name, info.Size, ErrCorrupt)
	}
	b, err := readFile(f, name)
	if err != nil {
		return checkpoint{}, err
	}
	c, err := decodeCheckpoint(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (c *checkpoint) write(f vfs.FS, dir string) error {
	err := writeFile(f, dir, fileCheckpoint, c.encode(), func() { failpoint.Hit("replica.beforeCheckpointRename") })
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	failpoint.Hit("replica.afterCheckpoint")
	return nil
}

// openCheckpoint loads the checkpoint of a directory whose identity is known.
func openCheckpoint(f vfs.FS, dir string, id identity) (checkpoint, error) {
	c, err := loadCheckpoint(f, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s: missing; without it the write-ahead log does not say which records were applied; restore the directory from a backup: %w",
			path.Join(dir, fileCheckpoint), ErrCorrupt)
	}
	if err != nil {
		return c, err
	}
	if c.incarnation != id.incarnation || c.nodeID != id.NodeID {
		return c, fmt.Errorf("%s: of node %d, incarnation %x: %w", path.Join(dir, fileCheckpoint), c.nodeID, c.incarnation, ErrIdentity)
	}
	return c, nil
}

func be16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func be32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func be64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// decoder reads big-endian fields; after the first that is not there it yields zeros and end says where.
type decoder struct {
	b   []byte
	at  int
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b)-d.at {
		d.bad = true
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at : d.at]
}

func (d *decoder) u8() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count reads a number of items that take at least size bytes each: no more than the bytes left can hold.
func (d *decoder) count(size int) int {
	n := int(d.u32())
	if n > (len(d.b)-d.at)/size {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) ids() []uint64 {
	n := d.count(8)
	var ids []uint64
	for range n {
		ids = append(ids, d.u64())
	}
	return ids
}

func (d *decoder) end() error {
	if d.bad || d.at != len(d.b) {
		return fmt.Errorf("at byte %d of %d: %w", d.at, len(d.b), ErrCorrupt)
	}
	return nil
}
