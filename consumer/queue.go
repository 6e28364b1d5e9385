package consumer

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// queue is what was fetched for one partition and not yet taken by its worker. The fetcher puts, the worker takes.
type queue struct {
	ready chan struct{} // one token when there is something to take

	mu       sync.Mutex // guards what follows; held briefly, only the combiner's lock is taken under it
	resting  bool       // the worker waits for ready
	expected bool       // and was told to the combiner as one that is about to submit
	topicID  [16]byte   // of the claim; records of another id are not taken
	records  []*kgo.Record
	bytes    int   // of records
	held     int   // bytes that the worker has taken and not yet applied
	position int64 // everything below was put or holds no record
	stable   int64 // last stable offset as last seen
	err      error // the log no longer has our place
	paused   bool  // fetching is paused: too much is here
	limit    int   // bytes
}

func newQueue(limit int) *queue {
	return &queue{ready: make(chan struct{}, 1), limit: limit, position: -1}
}

// reset forgets what was put: fetching begins at offset of the topic with that id.
func (q *queue) reset(offset int64, topicID [16]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.records, q.bytes, q.held, q.err, q.paused = nil, 0, 0, nil, false
	q.position, q.topicID = offset, topicID
}

// put adds what a poll returned, which the worker learns by signal. pause says that the partition's fetching is to be paused.
func (q *queue) put(topicID [16]byte, p *kgo.FetchPartition) (pause bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stable = max(q.stable, p.LastStableOffset)
	switch {
	case q.position < 0:
		return false // between an assignment and its first seek
	case q.isOther(topicID):
		q.err = errTopicChanged
	case p.Err != nil:
		q.err = &outrelay.Error{Class: outrelay.ErrTransient, Code: "fetch", Place: "fetch", Err: p.Err}
	default:
		for _, r := range p.Records {
			if r.Offset < q.position {
				continue
			}
			q.position = r.Offset + 1
			if !r.Attrs.IsControl() {
				q.records = append(q.records, r)
				q.bytes += recordBytes(r)
			}
		}
	}
	if q.bytes+q.held > q.limit && !q.paused {
		q.paused = true
		return true
	}
	return false
}

var errTopicChanged = &outrelay.Error{Class: outrelay.ErrTransient, Code: "topic-changed", Place: "fetch", Cause: "the topic has another id than when it was claimed"}

// isOther reports whether id is known, and another topic's than the claim's.
func (q *queue) isOther(id [16]byte) bool {
	var none [16]byte
	return id != none && q.topicID != none && id != q.topicID
}

// rest says that the worker waits for ready, until rouse.
func (q *queue) rest() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.resting = true
}

// rouse says that the worker has ended its wait. expected: the combiner was told to expect it.
func (q *queue) rouse() (expected bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	expected = q.expected
	q.resting, q.expected = false, false
	return expected
}

// await tells by expect that a worker which rests is about to be signalled.
func (q *queue) await(expect func(n int)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.resting && !q.expected {
		q.expected = true
		expect(1)
	}
}

// signal wakes the worker, now or when it rests next.
func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// sawTopic says which topic has the name now.
func (q *queue) sawTopic(id [16]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.position >= 0 && q.isOther(id) {
		q.err = errTopicChanged
		q.signal()
	}
}

func recordBytes(r *kgo.Record) int {
	n := 64 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 32 + len(h.Key) + len(h.Value)
	}
	return n
}

// take returns what was put. held is what the worker still has from before.
func (q *queue) take(held int) (records []*kgo.Record, position int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	records, err = q.records, q.err
	q.held = held + q.bytes
	q.records, q.bytes, q.err = nil, 0, nil
	return records, q.position, err
}

// release says how much the worker holds now; resume says that the partition's fetching is to go on.
func (q *queue) release(held int) (resume bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = held
	if q.paused && q.bytes+q.held <= q.limit/2 {
		q.paused = false
		return true
	}
	return false
}

// depth is what status shows.
func (q *queue) depth() (records int, oldest *kgo.Record, position, stable int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.records) > 0 {
		oldest = q.records[0]
	}
	return len(q.records), oldest, q.position, q.stable
}

func (q *queue) sawStable(offset int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stable = max(q.stable, offset)
}

// convert makes records of the contract from the client's. They share memory.
func convert(in []*kgo.Record, topicID [16]byte) []sinks.Record {
	out := make([]sinks.Record, len(in))
	for i, r := range in {
		out[i] = sinks.Record{
			Topic: r.Topic, TopicID: topicID, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value,
		}
		if len(r.Headers) > 0 {
			hs := make([]outrelay.Header, len(r.Headers))
			for j, h := range r.Headers {
				hs[j] = outrelay.Header{Key: h.Key, Value: h.Value}
			}
			out[i].Headers = hs
		}
	}
	return out
}
