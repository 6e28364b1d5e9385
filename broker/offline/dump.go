package offline

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/broker/wal"
)

// DumpOptions says what Dump shows. Either File, or Topic and Partition of the data directory.
type DumpOptions struct {
	Options
	File      string // a segment (.log) or a file of the write-ahead log (.wal)
	Topic     string
	Partition int32
	From      int64 // first offset
	Limit     int64 // so many items; 0: all
	Records   bool  // the records of each batch too
}

// Item is one batch, or one record of the write-ahead log.
type Item struct {
	File     string `json:"file"`
	Byte     int64  `json:"byte"`
	Kind     string `json:"kind"` // batch, control; in the write-ahead log what the record is
	Group    uint64 `json:"group,omitempty"`
	Index    uint64 `json:"index,omitempty"`
	Term     uint64 `json:"term,omitempty"`
	TimeMs   int64  `json:"time_ms,omitempty"`
	LogStart *int64 `json:"log_start,omitempty"`
	Batch    *Batch `json:"batch,omitempty"`
}

// Batch is the header of a batch, and its records where they were asked for.
type Batch struct {
	BaseOffset    int64    `json:"base_offset"`
	LastOffset    int64    `json:"last_offset"`
	LeaderEpoch   int32    `json:"leader_epoch"`
	Bytes         int64    `json:"bytes"`
	Records       int32    `json:"records"`
	Codec         string   `json:"codec"`
	ProducerID    int64    `json:"producer_id"`
	ProducerEpoch int16    `json:"producer_epoch"`
	Sequence      int32    `json:"sequence"`
	Transactional bool     `json:"transactional"`
	Control       bool     `json:"control"`
	LogAppendTime bool     `json:"log_append_time"`
	DeleteHorizon *int64   `json:"delete_horizon,omitempty"`
	MaxTimestamp  int64    `json:"max_timestamp"`
	Contents      []Record `json:"contents,omitempty"`
}

// Record is one record. A nil key or value is null; bytes are base64 in JSON.
type Record struct {
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers,omitempty"`
}

// Header is one header of a record.
type Header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// errEnough ends a dump.
var errEnough = errors.New("enough")

// Dump calls fn for each item, in order. It changes nothing. Damage is an error that wraps outrelay.ErrDataHalt, after what stands before it. It blocks for as
// long as reading takes. A file may be read while a process uses it; a data directory may not.
func Dump(ctx context.Context, o DumpOptions, fn func(Item) error) error {
	n := int64(0)
	emit := func(i Item) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Limit > 0 && n >= o.Limit {
			return errEnough
		}
		n++
		return fn(i)
	}
	var err error
	switch {
	case o.File == "":
		err = dumpPartition(o, emit)
	case strings.HasSuffix(o.File, ".wal"):
		err = wal.ScanFile(o.FS, o.File, func(r wal.Record, p wal.Pos) error { return emit(walItem(o, r, p)) })
	default:
		err = segment.Walk(o.FS, o.File, func(pos int64, b record.Batch) error { return dumpBatch(o, o.File, pos, b, emit) })
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	if errors.Is(err, segment.ErrCorrupt) || errors.Is(err, wal.ErrCorrupt) || errors.Is(err, record.ErrCorrupt) {
		return fmt.Errorf("%w: %w", err, outrelay.ErrDataHalt)
	}
	return err
}

func dumpPartition(o DumpOptions, emit func(Item) error) error {
	d, err := open(o.FS, o.Dir)
	if err != nil {
		return err
	}
	defer d.close()
	c := d.read(nil)
	for _, p := range d.partitions(c) {
		if p.topic.Name != o.Topic || p.index != o.Partition {
			continue
		}
		st, _, err := c.image.Groups[p.group].Segments()
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		fs, err := segment.Inspect(o.FS, p.dir, st, segment.Inspection{Batch: func(file string, pos int64, b record.Batch) error {
			return dumpBatch(o, file, pos, b, emit)
		}})
		for i := range fs {
			if err == nil && !fs[i].Index {
				err = fmt.Errorf("%s: %w", p, &fs[i].CorruptError)
			}
		}
		return err
	}
	return &outrelay.Error{Class: outrelay.ErrConfig, Code: "no-partition", Place: o.Dir, Cause: fmt.Sprintf("no partition %s/%d", o.Topic, o.Partition),
		Err: errors.Join(c.errs...), Fix: "`outrelay log verify` counts what there is"}
}

func dumpBatch(o DumpOptions, file string, pos int64, b record.Batch, emit func(Item) error) error {
	if b.LastOffset() < o.From {
		return nil
	}
	kind := "batch"
	if b.Control() {
		kind = "control"
	}
	x, err := describe(b, o.Records)
	if err != nil {
		return fmt.Errorf("%s at byte %d: %w", file, pos, err)
	}
	return emit(Item{File: file, Byte: pos, Kind: kind, Batch: x})
}

func walItem(o DumpOptions, r wal.Record, p wal.Pos) Item {
	e := replica.DescribeRecord(r)
	i := Item{File: path.Base(o.File), Byte: p.Offset, Kind: e.Kind, Group: r.Group, Index: r.Index, Term: r.Term, TimeMs: e.TimeMs}
	if e.Kind == "log_start" {
		i.LogStart = &e.LogStart
	}
	if e.Batch != nil {
		i.Batch, _ = describe(e.Batch, false) // without records nothing is decoded
		i.Batch.BaseOffset, i.Batch.LastOffset = -1, -1
		if o.Records {
			if x, err := describe(e.Batch, true); err == nil {
				i.Batch.Contents = x.Contents
			}
		}
	}
	return i
}

func describe(b record.Batch, records bool) (*Batch, error) {
	x := &Batch{
		BaseOffset: b.BaseOffset(), LastOffset: b.LastOffset(), LeaderEpoch: b.LeaderEpoch(), Bytes: b.Size(), Records: b.Count(), Codec: b.Codec().String(),
		ProducerID: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(), Sequence: b.BaseSequence(), Transactional: b.Transactional(), Control: b.Control(),
		LogAppendTime: b.LogAppendTime(), MaxTimestamp: b.MaxTimestamp(),
	}
	if h, ok := b.DeleteHorizon(); ok {
		x.DeleteHorizon = &h
	}
	if !records {
		return x, nil
	}
	return x, record.Records(b, func(r record.Record) error {
		c := Record{Offset: b.Offset(r), Timestamp: b.Timestamp(r), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			c.Headers = append(c.Headers, Header{Key: h.Key, Value: h.Value})
		}
		x.Contents = append(x.Contents, c)
		return nil
	})
}
