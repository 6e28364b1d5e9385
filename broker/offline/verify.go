package offline

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Options configures what this package does. FS and Dir are needed.
type Options struct {
	FS  vfs.FS
	Dir string // the data directory
	// Progress is called now and then with how many of how many bytes have been read. It may be nil.
	Progress func(done, total int64)
}

// Damage is one place that is not what was written.
type Damage struct {
	Kind      string `json:"kind"` // identity, checkpoint, wal, metadata, segment, partition
	File      string `json:"file"`
	Byte      int64  `json:"byte"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	Offset    *int64 `json:"offset,omitempty"` // the first one that cannot be trusted
	Text      string `json:"text"`             // as the broker says it
}

// Notice is something that is out of the ordinary and costs nothing.
type Notice struct {
	File string `json:"file"`
	Text string `json:"text"`
}

// Report is what Verify found.
type Report struct {
	Dir        string   `json:"dir"`
	Clean      bool     `json:"clean"`
	NodeID     int32    `json:"node_id"`
	ClusterID  string   `json:"cluster_id"`
	Topics     int      `json:"topics"`
	Partitions int      `json:"partitions"`
	WALRecords int64    `json:"wal_records"`
	Batches    int64    `json:"batches"`
	Records    int64    `json:"records"`
	Bytes      int64    `json:"bytes"`   // read of segments
	Damages    []Damage `json:"damages"` // empty when clean
	Notices    []Notice `json:"notices"`
}

// Verify reads everything in a data directory and checks it: identity, checkpoint, write-ahead log, the cluster's metadata, and of each partition
// the segments with their CRCs, offsets and indexes. It changes nothing, and deletes nothing. Damage is in the report; the error is ctx's, the disk's, or
// outrelay.ErrEnvironment where there is no log or a process has it open. It blocks for as long as reading takes.
func Verify(ctx context.Context, o Options) (*Report, error) {
	d, err := open(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	v := &verifier{directory: d, ctx: ctx, o: o, total: d.bytes(path.Join(o.Dir, dirPartitions)),
		r: &Report{Dir: o.Dir, Damages: []Damage{}, Notices: []Notice{}}}
	c := d.read(func(wal.Record, wal.Pos) { v.r.WALRecords++ })
	v.r.NodeID, v.r.ClusterID = c.image.NodeID, c.state.ClusterID
	for _, err := range c.errs {
		v.unreadable(err)
	}
	if c.state.ClusterID == "" && v.total > 0 {
		v.r.Notices = append(v.r.Notices, Notice{File: path.Join(o.Dir, dirPartitions),
			Text: "segments were not checked: what they hold stands in the checkpoint and the write-ahead log, which are not readable"})
	}
	ps := d.partitions(c)
	topics := map[string]bool{}
	for _, p := range ps {
		topics[p.topic.Name] = true
		if err := v.partition(p, c.image.Groups[p.group]); err != nil {
			return v.r, err
		}
	}
	for _, dir := range d.strangers(c, ps) {
		if c.state.ClusterID != "" {
			v.r.Notices = append(v.r.Notices, Notice{File: dir, Text: "no topic has this directory; it is left alone"})
		}
	}
	v.r.Topics, v.r.Partitions, v.r.Bytes = len(topics), len(ps), v.done
	v.r.Clean = len(v.r.Damages) == 0
	return v.r, nil
}

type verifier struct {
	*directory
	ctx         context.Context //nolint:containedctx // lives no longer than the call it belongs to
	o           Options
	r           *Report
	done, total int64
}

// unreadable reports a file of the node itself.
func (v *verifier) unreadable(err error) {
	dm := Damage{Kind: "metadata", File: v.dir, Text: err.Error()}
	var fe *replica.FileError
	if errors.As(err, &fe) {
		dm.File = fe.File
		switch path.Base(fe.File) {
		case fileIdentity:
			dm.Kind = "identity"
		case fileCheckpoint:
			dm.Kind = "checkpoint"
		case dirWAL:
			dm.Kind = "wal"
		}
	}
	var we *wal.CorruptError
	if errors.As(err, &we) {
		dm.File, dm.Byte = we.File, we.Offset
	}
	v.r.Damages = append(v.r.Damages, dm)
}

// partition checks one partition.
func (v *verifier) partition(p placed, g *replica.GroupImage) error {
	st, _, err := g.Segments()
	if err != nil {
		v.damaged(p, "partition", path.Join(v.dir, fileCheckpoint), 0, -1, err)
		return nil
	}
	if g != nil && g.Err != nil {
		v.damaged(p, "partition", path.Join(v.dir, dirWAL), 0, -1, g.Err)
	}
	fs, err := segment.Inspect(v.fs, p.dir, st, segment.Inspection{Progress: v.progress, Batch: func(_ string, _ int64, b record.Batch) error {
		v.r.Batches++
		v.r.Records += int64(b.Count())
		return nil
	}})
	for i := range fs {
		f := &fs[i]
		if f.Index {
			v.r.Notices = append(v.r.Notices, Notice{File: f.File, Text: fmt.Sprintf("%s: %s; it is made again from the log", p, f.Cause)})
			continue
		}
		v.damaged(p, "segment", f.File, f.Byte, f.Offset, &f.CorruptError)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

func (v *verifier) damaged(p placed, kind, file string, at, offset int64, err error) {
	dm := Damage{Kind: kind, File: file, Byte: at, Topic: p.topic.Name, Partition: new(p.index), Text: fmt.Sprintf("%s: %v", p, err)}
	if offset >= 0 {
		dm.Offset = &offset
	}
	v.r.Damages = append(v.r.Damages, dm)
}

func (v *verifier) progress(n int64) error {
	v.done += n
	if v.o.Progress != nil {
		v.o.Progress(v.done, v.total)
	}
	return v.ctx.Err()
}
