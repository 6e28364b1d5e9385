package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// piece is what goes over in one transaction: the committed records of [from, next).
type piece struct {
	from, next int64
	records    []*kgo.Record
	codec      uint8
	large      bool
}

// cut divides a run into pieces within the limits. Records of one piece have the same codec; a record that no ordinary batch holds has a piece of its own.
func (m *migration) cut(run kafka.Run) []piece {
	var out []piece
	cur := piece{from: run.From}
	bytes := 0
	end := func(next int64) {
		cur.next = next
		out = append(out, cur)
		cur, bytes = piece{from: next}, 0
	}
	for _, r := range run.Records {
		size, codec := sizeOf(r), r.Attrs.CompressionType()
		large := size > batchBytesMax*9/10
		if n := len(cur.records); n > 0 && (n >= m.o.ChunkRecords || bytes+size > m.o.ChunkBytes || codec != cur.codec || large || cur.large) {
			end(r.Offset)
		}
		cur.codec, cur.large = codec, large
		cur.records = append(cur.records, r)
		bytes += size
	}
	end(run.Next)
	return out
}

// recordOverheadBytes is above what the varints and the framing of a record take.
const recordOverheadBytes = 64

func sizeOf(r *kgo.Record) int {
	n := recordOverheadBytes + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10
	}
	return n
}

// copyTopics copies what is committed and not copied yet.
func (m *migration) copyTopics(ctx context.Context) error {
	total, err := m.setLimits(ctx, m.topics)
	if err != nil {
		return err
	}
	m.o.Say(fmt.Sprintf("copying %d topics", len(m.topics)))
	done := int64(0)
	for _, t := range m.topics {
		if err := m.copyTopic(ctx, t, func(n int64) {
			done += n
			m.o.Progress("copying", done, total)
		}, plain); err != nil {
			return err
		}
	}
	return nil
}

// setLimits notes how far each partition is committed, which is how far it is copied now, and returns how many offsets that is beyond what was copied.
func (m *migration) setLimits(ctx context.Context, topics []*topic) (total int64, err error) {
	for _, t := range topics {
		if t.limits, err = kafka.StableOffsets(ctx, m.from.cl, t.name); err != nil {
			return 0, err
		}
		starts, err := kafka.StartOffsets(ctx, m.from.cl, t.name)
		if err != nil {
			return 0, err
		}
		for p, n := range t.limits {
			total += max(0, n-max(starts[p], m.part(t, p).next()))
		}
	}
	return total, nil
}

// change makes the record of the new log from that of the old one; nil leaves it out. The record it is given is the caller's.
type change func(context.Context, *kgo.Record) (*kgo.Record, error)

// plain takes everything of a record as it is.
func plain(_ context.Context, r *kgo.Record) (*kgo.Record, error) {
	return &kgo.Record{Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, nil
}

func (m *migration) copyTopic(ctx context.Context, t *topic, moved func(n int64), via change) error {
	for p := range t.partitions {
		if err := m.copyPartition(ctx, t, p, t.limits[p], moved, via); err != nil {
			return fmt.Errorf("copy %s/%d: %w", t.name, p, err)
		}
	}
	return nil
}

// copyPartition copies a partition from where its copy ends up to limit. While one piece is written the next is read.
func (m *migration) copyPartition(ctx context.Context, t *topic, p int32, limit int64, moved func(n int64), via change) (err error) {
	from := m.part(t, p).next()
	if from >= limit {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	runs, read := make(chan kafka.Run, 1), make(chan error, 1)
	go func() {
		defer close(runs)
		read <- kafka.ReadRuns(ctx, m.from.cl, t.name, p, from, limit, func(r kafka.Run) error {
			select {
			case runs <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for run := range runs {
		for _, pc := range m.cut(run) {
			if err = m.put(ctx, t, p, pc, via); err != nil {
				break
			}
			moved(pc.next - pc.from)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		cancel()
	}
	rerr := <-read // the reader has ended, whoever ended it
	cancel()
	if err == nil {
		err = rerr
	}
	return err
}

// put writes a piece, and the note of it, in one transaction.
func (m *migration) put(ctx context.Context, t *topic, p int32, pc piece, via change) error {
	batchMax := int32(batchBytesMax)
	if pc.large {
		batchMax = largeBatchBytesMax
	}
	if len(pc.records) > 0 {
		if err := m.w.suit(ctx, pc.codec, batchMax); err != nil {
			return err
		}
	}
	recs := make([]*kgo.Record, 0, len(pc.records))
	old := make([]int64, 0, len(pc.records))
	for _, r := range pc.records {
		n, err := via(ctx, r)
		if err != nil {
			return err
		}
		if n != nil {
			n.Topic, n.Partition = t.toName, p
			recs, old = append(recs, n), append(old, r.Offset)
		}
	}
	pt := m.part(t, p)
	c := &chunkRecord{header: header{V: migrationVersion, Kind: kindChunk, FromLog: m.from.id}, Topic: t.toName, Partition: p,
		FromID: hexID(t.fromID), ToID: hexID(t.toID), From: pc.from, Next: pc.next, To: pt.end(), End: pt.end(), Records: int64(len(recs)), Runs: []int64{}}
	at, err := m.w.commit(ctx, recs, func() any {
		if len(recs) > 0 {
			then := make([]int64, len(recs))
			for i, r := range recs {
				then[i] = r.Offset
			}
			c.To, c.End, c.Runs = then[0], then[len(then)-1]+1, runsOf(pc.from, old, then)
		}
		return c
	})
	if err != nil {
		return err
	}
	m.progress.add(c, at)
	return nil
}

// copyIndex copies the index of positions, with the offsets that its pairs have in the new log. It comes after the topics, when those are known.
func (m *migration) copyIndex(ctx context.Context) error {
	if m.index == nil {
		return nil
	}
	m.o.Say("copying the index of positions")
	total, err := m.setLimits(ctx, []*topic{m.index})
	if err != nil {
		return err
	}
	byName := map[string]*topic{}
	for _, t := range m.topics {
		byName[t.name] = t
	}
	done := int64(0)
	return m.copyTopic(ctx, m.index, func(n int64) {
		done += n
		m.o.Progress("copying the index", done, total)
	}, func(ctx context.Context, r *kgo.Record) (*kgo.Record, error) { return m.translateIndex(ctx, byName, r) })
}

// translateIndex makes the index record of the new log. What it says of topics that are not copied is left out, and so is a record that nobody can read.
// Below what was copied, the first copied record is as good: what the index promises is a lower bound.
func (m *migration) translateIndex(ctx context.Context, topics map[string]*topic, r *kgo.Record) (*kgo.Record, error) {
	x, err := relay.ParseIndex(r.Value)
	if errors.Is(err, outrelay.ErrDataHalt) {
		m.report.note("the index of the old log holds a record that is none, at %s/%d offset %d: it was left out", r.Topic, r.Partition, r.Offset)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	next, topicIDs := map[outrelay.TopicPartition]int64{}, map[string][16]byte{}
	for tp, n := range x.Next {
		t := topics[tp.Topic]
		if t == nil || tp.Partition >= t.partitions || x.IDs[tp.Topic] != [16]byte{} && x.IDs[tp.Topic] != t.fromID {
			continue // the topic is not copied, or was created anew since
		}
		then, err := m.progress.translate(ctx, m.part(t, tp.Partition), n)
		if err != nil && !errors.Is(err, errGone) {
			return nil, err
		}
		next[tp], topicIDs[tp.Topic] = then, t.toID
	}
	x.Next, x.IDs = next, topicIDs
	out, err := plain(ctx, r)
	out.Value = x.Append(nil)
	return out, err
}
