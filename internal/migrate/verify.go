package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/outrelay/outrelay/internal/kafka"
)

// sum is what verification compares: how many records there are, and a hash that runs over all of each, in their order.
type sum struct {
	records int64
	hash    hash.Hash
	buf     []byte
}

func newSum() *sum { return &sum{hash: sha256.New()} }

func (s *sum) add(r *kgo.Record) {
	s.records++
	s.buf = appendRecord(s.buf[:0], r)
	s.hash.Write(s.buf)
}

func (s *sum) hex() string { return hex.EncodeToString(s.hash.Sum(nil)) }

// appendRecord appends all that a record must keep: nothing of two different records is the same.
func appendRecord(b []byte, r *kgo.Record) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Timestamp.UnixMilli()))
	b = appendField(b, r.Key)
	b = appendField(b, r.Value)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendField(b, []byte(h.Key))
		b = appendField(b, h.Value)
	}
	return b
}

// appendField tells nil from empty.
func appendField(b, field []byte) []byte {
	if field == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// verify reads both logs once more, and compares every partition.
func (m *migration) verify(ctx context.Context) error {
	m.o.Say("comparing both logs")
	total, done := int64(0), int64(0)
	for _, t := range m.topics {
		for p := range t.partitions {
			total += m.part(t, p).records()
		}
	}
	for _, t := range m.topics {
		for p := range t.partitions {
			r, err := m.verifyPartition(ctx, t, p)
			if err != nil {
				return fmt.Errorf("compare %s/%d: %w", t.name, p, err)
			}
			m.report.verified(t, r)
			done += m.part(t, p).records()
			m.o.Progress("comparing", done, total)
		}
	}
	return m.stillWritten(ctx)
}

// verifyPartition compares what the old log still holds of a partition with its copy.
func (m *migration) verifyPartition(ctx context.Context, t *topic, p int32) (PartitionReport, error) {
	pt := m.part(t, p)
	for {
		start, err := m.startOf(ctx, t, p)
		if err != nil {
			return PartitionReport{}, err
		}
		from, err := m.progress.translate(ctx, pt, start)
		if err != nil && !errors.Is(err, errGone) {
			return PartitionReport{}, err
		}
		report, err := m.compare(ctx, t, p, start, from)
		now, serr := m.startOf(ctx, t, p)
		if serr != nil {
			return PartitionReport{}, serr
		}
		if now == start {
			return report, err
		}
		// Retention has taken from the old log what the copy was compared with: once more, above it.
	}
}

func (m *migration) startOf(ctx context.Context, t *topic, p int32) (int64, error) {
	starts, err := kafka.StartOffsets(ctx, m.from.cl, t.name)
	return starts[p], err
}

func (m *migration) compare(ctx context.Context, t *topic, p int32, start, from int64) (PartitionReport, error) {
	pt := m.part(t, p)
	out := PartitionReport{Partition: p, Copied: pt.records(), Next: pt.next(), End: pt.end()}
	read := sums
	if t.compacted {
		read = latest
	}
	var old, then map[string]string
	var oldSum, thenSum *sum
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		oldSum, old, err = read(gctx, m.from.cl, t.name, p, start, pt.next())
		return err
	})
	g.Go(func() (err error) {
		thenSum, then, err = read(gctx, m.to.cl, t.toName, p, from, pt.end())
		return err
	})
	if err := g.Wait(); err != nil {
		return out, err
	}
	out.Compared, out.SHA256 = oldSum.records, oldSum.hex()
	if t.compacted {
		out.Compared, out.SHA256 = int64(len(old)), ""
		if maps.Equal(old, then) {
			return out, nil
		}
		return out, errDiffers(t, p, "%d keys of the old log stand otherwise than the %d of the new one", len(old), len(then))
	}
	if oldSum.records != thenSum.records || oldSum.hex() != thenSum.hex() {
		return out, errDiffers(t, p, "%d records with hash %s in the old log, %d with %s in the new one", oldSum.records, oldSum.hex(), thenSum.records, thenSum.hex())
	}
	return out, nil
}

func errDiffers(t *topic, p int32, format string, args ...any) error {
	return halt("copy-differs", fmt.Sprintf("%s/%d", t.name, p), "somebody has written to, or deleted from, one of the logs: see that nobody does; delete the topic in the new log and run the migration again, which copies it anew",
		"the copy is not what was copied: "+format, args...)
}

// sums hashes the committed records of [from, limit).
func sums(ctx context.Context, cl *kgo.Client, topic string, p int32, from, limit int64) (*sum, map[string]string, error) {
	s := newSum()
	err := kafka.ReadCommitted(ctx, cl, topic, p, from, limit, func(r *kgo.Record) error {
		s.add(r)
		return nil
	})
	return s, nil, err
}

// latest keeps the last record of each key, by digests: what compaction keeps too. Tombstones are left out, which it removes in time.
func latest(ctx context.Context, cl *kgo.Client, topic string, p int32, from, limit int64) (*sum, map[string]string, error) {
	last := map[string]string{}
	err := kafka.ReadCommitted(ctx, cl, topic, p, from, limit, func(r *kgo.Record) error {
		k := sha256.Sum256(appendField(nil, r.Key))
		if r.Value == nil {
			delete(last, string(k[:16]))
			return nil
		}
		v := sha256.Sum256(appendRecord(nil, r))
		last[string(k[:16])] = string(v[:16])
		return nil
	})
	return newSum(), last, err
}

// stillWritten refuses to go on where the old log has grown since it was copied: somebody else writes into it.
func (m *migration) stillWritten(ctx context.Context) error {
	for _, t := range m.topics {
		high, err := kafka.HighWatermarks(ctx, m.from.cl, t.name)
		if err != nil {
			return err
		}
		for p, hw := range high {
			if limit := t.limits[p]; hw > limit {
				return wrong("still-written", fmt.Sprintf("%s/%d", t.name, p), "stop whoever writes it (kafka-get-offsets.sh shows the growth), or leave the topic out, and run the migration again: it goes on where it is",
					"somebody writes into it: the old log ends at %d, and ended at %d when it was copied", hw, limit)
			}
		}
	}
	return nil
}
