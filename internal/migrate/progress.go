package migrate

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// The records of the migration topic: docs/format/migration-record.md.
const (
	migrationVersion = 1
	kindChunk        = "chunk"
	kindTopic        = "topic"
	kindDone         = "done"
)

// header is what all of them begin with.
type header struct {
	V       int    `json:"v"`
	Kind    string `json:"kind"`
	FromLog string `json:"from_log"`
}

// chunkRecord says that the records of [From, Next) of a partition of the old log stand in the new one. It is in the transaction that put them there.
type chunkRecord struct {
	header
	Topic     string  `json:"topic"` // in the new log
	Partition int32   `json:"partition"`
	FromID    string  `json:"from_id"` // ids of the topic in both logs
	ToID      string  `json:"to_id"`
	From      int64   `json:"from"`
	Next      int64   `json:"next"`
	To        int64   `json:"to"` // offset of the first of them in the new log
	End       int64   `json:"end"`
	Records   int64   `json:"records"`
	Runs      []int64 `json:"runs"` // triples: offsets to leave out in the old log, in the new one, then so many records one after the other in both
}

// topicRecord says how a topic of the new log stood before the copy.
type topicRecord struct {
	header
	Topic   string            `json:"topic"`
	ToID    string            `json:"to_id"` // empty: it did not exist, and the migration makes it
	Created bool              `json:"created"`
	Configs map[string]string `json:"configs"` // that the topic itself had
}

type doneRecord struct {
	header
	ToLog string    `json:"to_log"`
	At    time.Time `json:"at"`
}

// key returns the key under which a record stands. They are for people: nothing is compacted.
func key(rec any) string {
	switch r := rec.(type) {
	case *chunkRecord:
		return r.FromLog + "/" + r.Topic + "/" + strconv.Itoa(int(r.Partition))
	case *topicRecord:
		return r.FromLog + "/" + r.Topic
	case *doneRecord:
		return r.FromLog
	}
	panic(fmt.Sprintf("BUG: no record of the migration topic: %T", rec))
}

// chunk is what is held in memory of a chunkRecord.
type chunk struct {
	from, next int64 // [from, next) in the old log
	to, end    int64 // [to, end) in the new one
	records    int64
	at         int64 // the record's offset in the migration topic
}

// part is how far a partition has been copied. Chunks are in the order of their offsets; they overlap nowhere, and between two of them is only what the old log
// no longer held.
type part struct{ chunks []chunk }

func (p *part) next() int64 {
	if len(p.chunks) == 0 {
		return 0
	}
	return p.chunks[len(p.chunks)-1].next
}

// end returns the offset in the new log behind the last copied record.
func (p *part) end() int64 {
	if len(p.chunks) == 0 {
		return 0
	}
	return p.chunks[len(p.chunks)-1].end
}

func (p *part) records() (n int64) {
	for _, c := range p.chunks {
		n += c.records
	}
	return n
}

// ids tell a topic from another of the same name.
type ids struct{ from, to string }

// progress is what the new log says of the copy from one old log. One goroutine owns it.
type progress struct {
	cl    *kgo.Client
	topic string
	log   string // id of the old log
	seen  int64  // offsets below it have been read
	notes int    // records of this migration that were read

	chunks map[outrelay.TopicPartition]map[ids]*part
	topics map[string]*topicRecord
	done   *doneRecord

	// The last chunk that was looked into.
	cached   int64 // its offset; -1: none
	cachedIn []int64
}

func newProgress(cl *kgo.Client, topic, log string) *progress {
	return &progress{cl: cl, topic: topic, log: log, cached: -1, chunks: map[outrelay.TopicPartition]map[ids]*part{}, topics: map[string]*topicRecord{}}
}

// load reads what has been written since the last load, up to the end that ends says: the last stable offset, where a process that was killed may have left
// a transaction open, or the high watermark, once that has been ended. Nothing was where the topic does not exist.
func (p *progress) load(ctx context.Context, ends func(context.Context, *kgo.Client, string) (map[int32]int64, error)) error {
	limits, err := ends(ctx, p.cl, p.topic)
	if errors.Is(err, kafka.ErrNoTopic) {
		return nil
	}
	if err != nil {
		return err
	}
	err = kafka.ReadCommitted(ctx, p.cl, p.topic, 0, p.seen, limits[0], func(r *kgo.Record) error {
		if k := string(r.Key); k != p.log && !strings.HasPrefix(k, p.log+"/") {
			return nil // of another old log
		}
		p.notes++
		if err := p.take(r.Value, r.Offset); err != nil {
			return fmt.Errorf("%s offset %d: %w", p.topic, r.Offset, err)
		}
		return nil
	})
	p.seen = max(p.seen, limits[0])
	return err
}

func (p *progress) take(value []byte, at int64) error {
	var h header
	if err := json.Unmarshal(value, &h); err != nil {
		return fmt.Errorf("migration record: %w: %w", outrelay.ErrDataHalt, err)
	}
	if h.V > migrationVersion {
		return fmt.Errorf("migration record of version %d, this outrelay reads up to %d: %w: run the newer release", h.V, migrationVersion, outrelay.ErrEnvironment)
	}
	var err error
	switch h.Kind {
	case kindChunk:
		var c chunkRecord
		if err = json.Unmarshal(value, &c); err == nil {
			p.add(&c, at)
		}
	case kindTopic:
		var t topicRecord
		if err = json.Unmarshal(value, &t); err == nil {
			p.topics[t.Topic] = &t
		}
	case kindDone:
		var d doneRecord
		if err = json.Unmarshal(value, &d); err == nil {
			p.done = &d
		}
	}
	if err != nil {
		return fmt.Errorf("migration record: %w: %w", outrelay.ErrDataHalt, err)
	}
	return nil
}

// add takes in a chunk that stands in the migration topic at the offset at.
func (p *progress) add(c *chunkRecord, at int64) {
	tp := outrelay.TopicPartition{Topic: c.Topic, Partition: c.Partition}
	part := p.part(tp, ids{c.FromID, c.ToID})
	part.chunks = append(part.chunks, chunk{from: c.From, next: c.Next, to: c.To, end: c.End, records: c.Records, at: at})
}

// part returns how far a partition of the topics with these ids has been copied.
func (p *progress) part(tp outrelay.TopicPartition, of ids) *part {
	if p.chunks[tp] == nil {
		p.chunks[tp] = map[ids]*part{}
	}
	if p.chunks[tp][of] == nil {
		p.chunks[tp][of] = &part{}
	}
	return p.chunks[tp][of]
}

// errGone: the old log did not hold the record at an offset any more when its turn came.
var errGone = errors.New("was not copied: the old log did not hold it any more")

// translate returns the offset in the new log of the first copied record at or above an offset of the old one; behind the last one where there is
// none. errGone where records at the offset may have been lost before they could be copied; the offset is then that of the first one copied after them.
func (p *progress) translate(ctx context.Context, pt *part, offset int64) (int64, error) {
	i, err := pt.find(offset)
	switch {
	case i == len(pt.chunks):
		return pt.end(), nil
	case err != nil:
		return pt.chunks[i].to, err
	}
	runs, err := p.runs(ctx, pt.chunks[i].at)
	if err != nil {
		return 0, err
	}
	return pt.chunks[i].place(runs, offset), nil
}

// find returns the chunk that an offset of the old log is in; len(chunks) behind the last. errGone: it is in none, the next one is returned.
func (p *part) find(offset int64) (int, error) {
	i := sort.Search(len(p.chunks), func(i int) bool { return p.chunks[i].next > offset })
	if i < len(p.chunks) && offset < p.chunks[i].from {
		return i, errGone
	}
	return i, nil
}

// place walks the chunk's runs to an offset of the old log in it.
func (c *chunk) place(runs []int64, offset int64) int64 {
	src, dst := c.from, c.to
	for ; len(runs) >= 3; runs = runs[3:] {
		src, dst = src+runs[0], dst+runs[1]
		if offset < src+runs[2] {
			return dst + max(0, offset-src)
		}
		src, dst = src+runs[2], dst+runs[2]
	}
	return dst
}

// runs returns the runs of the chunk at an offset of the migration topic.
func (p *progress) runs(ctx context.Context, at int64) ([]int64, error) {
	if p.cached == at {
		return p.cachedIn, nil
	}
	p.cached = -1
	err := kafka.ReadCommitted(ctx, p.cl, p.topic, 0, at, at+1, func(r *kgo.Record) error {
		var c chunkRecord
		if err := json.Unmarshal(r.Value, &c); err != nil {
			return fmt.Errorf("%s offset %d: %w: %w", p.topic, at, outrelay.ErrDataHalt, err)
		}
		p.cached, p.cachedIn = at, c.Runs
		return nil
	})
	if err == nil && p.cached != at {
		err = halt("migration-record-gone", p.topic, "delete the topics of the new log and migrate again", "its record at offset %d is gone: nothing may be deleted from it before the migration is done", at)
	}
	return p.cachedIn, err
}

// runsOf describes where records of the old log, which begin at from, stand in the new one.
func runsOf(from int64, old, then []int64) []int64 {
	runs := []int64{}
	for i := range old {
		if i > 0 && old[i] == old[i-1]+1 && then[i] == then[i-1]+1 {
			runs[len(runs)-1]++
			continue
		}
		if i == 0 {
			runs = append(runs, old[0]-from, 0, 1)
		} else {
			runs = append(runs, old[i]-old[i-1]-1, then[i]-then[i-1]-1, 1)
		}
	}
	return runs
}

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }
