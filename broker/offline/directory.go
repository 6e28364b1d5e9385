package offline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Names in a data directory (docs/format/checkpoint.md).
const (
	fileLock       = "lock"
	fileIdentity   = "node.json"
	fileCheckpoint = "checkpoint"
	dirWAL         = "wal"
	dirPartitions  = "partitions"
	dirDamaged     = "damaged"
)

// directory is a data directory whose lock is held.
type directory struct {
	fs   vfs.FS
	dir  string
	lock io.Closer // nil on a file system that cannot be written
}

// open takes the lock of a data directory. Errors: outrelay.ErrEnvironment when there is none, or a process has it open.
func open(fsys vfs.FS, dir string) (*directory, error) {
	for _, name := range []string{fileIdentity, fileCheckpoint, dirWAL} {
		if _, err := fsys.Stat(path.Join(dir, name)); err == nil {
			return lock(fsys, dir)
		}
	}
	return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "no-data-directory", Place: dir, Cause: "no data directory of a log",
		Fix: "name the directory that `outrelay run` was given with --data, or data: in the file"}
}

func lock(fsys vfs.FS, dir string) (*directory, error) {
	l, err := fsys.Lock(path.Join(dir, fileLock))
	switch {
	case err == nil:
		return &directory{fs: fsys, dir: dir, lock: l}, nil
	case errors.Is(err, vfs.ErrLocked):
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "data-locked", Place: dir, Cause: "a process has it open", Err: err,
			Fix: "stop it first; a log that runs is backed up with `outrelay log backup`"}
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return &directory{fs: fsys, dir: dir}, nil // nobody can have it open to write
	}
	return nil, fmt.Errorf("lock of %s: %w", dir, err)
}

func (d *directory) close() {
	if d.lock != nil {
		_ = d.lock.Close() // the file stays
	}
}

// contents is what a data directory says of itself.
type contents struct {
	image *replica.Image
	state *cluster.State // as far as it is known; never nil
	errs  []error        // what of identity, checkpoint, write-ahead log and metadata cannot be read
}

// read reads all but the segments.
func (d *directory) read(replay func(wal.Record, wal.Pos)) contents {
	im, errs := replica.ReadImage(d.fs, d.dir, func(g replica.GroupID) bool { return g == replica.MetadataGroup }, replay)
	c := contents{image: im, errs: errs}
	var blob []byte
	var entries []replica.Entry
	if g := im.Groups[replica.MetadataGroup]; g != nil {
		blob, entries = g.Blob, g.Entries
		if g.Err != nil {
			c.errs = append(c.errs, &replica.FileError{File: path.Join(d.dir, dirWAL), Err: g.Err})
		}
	}
	st, err := cluster.StateOf(blob, entries)
	if err != nil {
		c.errs = append(c.errs, &replica.FileError{File: path.Join(d.dir, fileCheckpoint), Err: err})
	}
	if st == nil {
		st, _ = cluster.StateOf(nil, nil) // an empty state has nothing to be wrong
	}
	c.state = st
	return c
}

// placed is one partition that this node holds.
type placed struct {
	topic *cluster.Topic
	index int32
	group replica.GroupID
	dir   string
}

func (p placed) String() string { return fmt.Sprintf("%s/%d", p.topic.Name, p.index) }

// partitions lists the partitions that the metadata places on this node, by topic and number.
func (d *directory) partitions(c contents) (ps []placed) {
	for _, name := range c.state.TopicNames() {
		t := c.state.Topics[name]
		for i, p := range t.Partitions {
			r, here := p.On(c.image.NodeID)
			if !here {
				continue
			}
			ps = append(ps, placed{topic: t, index: int32(i), group: p.Group,
				dir: replica.PartitionDir(path.Join(d.dir, dirPartitions), t.ID, int32(i), r.ReplicaID)})
		}
	}
	return ps
}

// bytes returns how many bytes the files below a directory have.
func (d *directory) bytes(dir string) (n int64) {
	infos, err := d.fs.List(dir)
	if err != nil {
		return 0
	}
	for _, i := range infos {
		if i.Dir {
			n += d.bytes(path.Join(dir, i.Name))
		} else {
			n += i.Size
		}
	}
	return n
}

// strangers lists the directories under partitions/ that the metadata does not know.
func (d *directory) strangers(c contents, ps []placed) (names []string) {
	infos, err := d.fs.List(path.Join(d.dir, dirPartitions))
	if err != nil {
		return nil
	}
	for _, i := range infos {
		dir := path.Join(d.dir, dirPartitions, i.Name)
		if i.Dir && !slices.ContainsFunc(ps, func(p placed) bool { return p.dir == dir }) && !deleted(c, d.dir, dir) {
			names = append(names, dir)
		}
	}
	return names
}

// deleted reports whether a directory is of a topic whose deletion is committed: the next start removes it.
func deleted(c contents, base, dir string) bool {
	for _, t := range c.state.Deleted {
		for i, p := range t.Partitions {
			if r, here := p.On(c.image.NodeID); here && replica.PartitionDir(path.Join(base, dirPartitions), t.ID, int32(i), r.ReplicaID) == dir {
				return true
			}
		}
	}
	return false
}
