package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
)

// Produce, key 0: v0–13
//
// v0–2 carry message sets, which are turned into a batch of v2. Advertised from v0, since librdkafka before its fix of #4956
// stops compressing otherwise (KAFKA-18659 does the same in Apache Kafka, but refuses them).
//
//   - v1: throttle time
//   - v2: log append time
//   - v3: record batches of v2, transactional id (KIP-98)
//   - v5: log start offset in the answer (KIP-107)
//   - v7: zstd (KIP-110)
//   - v8: record errors and a message (KIP-467)
//   - v9: flexible (KIP-482)
//   - v10: leader hints (KIP-951); one node has none to give
//   - v11: TRANSACTION_ABORTABLE (KIP-890)
//   - v12: partitions join the transaction by themselves (KIP-890)
//   - v13: topic ids (KIP-516)
//
// acks=1 is served as acks=all: the answer comes after the fsync. acks=0 is not answered; an error closes the connection.

// produceCall gathers the outcomes of one request. Partitions complete in any order, from the shards' goroutines.
type produceCall struct {
	s    *Server
	req  *produceRequest
	mu   sync.Mutex    // guards left, results and what produce_join.go adds
	left int           // partitions and joins without an outcome
	done chan struct{} // closed when left is 0

	results []produceResult
	guards  []replica.TxnGuard // of each partition, where clients add partitions to their transactions themselves; else nil
	sent    bool               // results are the answer's
	joining                    // of a transactional producer
}

func handleProduce(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*produceRequest)
	call := &produceCall{s: s, req: req, done: make(chan struct{})}
	for i := range req.topics {
		call.left += len(req.topics[i].partitions)
	}
	call.results = make([]produceResult, call.left)
	if call.left == 0 {
		close(call.done)
	}
	call.refuse()
	switch {
	case req.txnID != nil:
		call.startInTxn(c.ctx)
	case len(call.results) > 1:
		s.node.Together(call.start)
	default:
		call.start()
	}
	if req.acks == 0 {
		return func() kmsg.Response {
			call.wait(c.ctx, 0)
			if code := call.firstError(); code != 0 {
				c.close(&frameError{reason: "produce without acks", hint: kerr.ErrorForCode(code).Error()})
			}
			return nil
		}
	}
	return func() kmsg.Response {
		call.wait(c.ctx, time.Duration(req.timeoutMs)*time.Millisecond)
		return call.answer()
	}
}

// refuse completes the partitions of topics that are denied.
func (call *produceCall) refuse() {
	slot := 0
	for i := range call.req.topics {
		t := &call.req.topics[i]
		for range t.partitions {
			if t.denied != nil {
				call.fail(slot, t.denied, "", -1)
			}
			slot++
		}
	}
}

// start proposes every partition's batch, in the request's order, or completes it with why not.
func (call *produceCall) start() {
	set := call.s.topics.set()
	slot := 0
	for i := range call.req.topics {
		rt := &call.req.topics[i]
		t, unknown := set.find(rt.name, rt.id, call.req.version >= 13)
		for j := range rt.partitions {
			if !call.finished(slot) { // it did not fail to join the transaction
				call.startPartition(slot, t, unknown, &rt.partitions[j])
			}
			slot++
		}
	}
}

// find returns a topic by name, or by id where requests carry ids, and the error of one that is not there.
func (ts *topicSet) find(name string, id [16]byte, byID bool) (*topic, *kerr.Error) {
	t, unknown := ts.byName[name], kerr.UnknownTopicOrPartition
	if byID {
		t, unknown = ts.byID[id], kerr.UnknownTopicID
	}
	if t == nil {
		return nil, unknown
	}
	return t, nil
}

func (call *produceCall) startPartition(slot int, t *topic, err *kerr.Error, rp *producePartition) {
	var p *partition
	if err == nil {
		p, err = t.served(rp.index)
	}
	if err == nil && (call.req.acks < -1 || call.req.acks > 1) {
		err = kerr.InvalidRequiredAcks
	}
	if err == nil && t.internal() {
		err = kerr.InvalidTopicException // the coordinators write there, nobody else
	}
	if err != nil {
		call.fail(slot, err, t.damage(rp.index), -1)
		return
	}
	batch, code, message, bad := call.check(t, rp.records)
	if code != nil {
		call.fail(slot, code, message, bad)
		return
	}
	if full := call.s.space.admit(len(batch)); full != "" {
		call.fail(slot, kerr.KafkaStorageError, full, -1)
		return
	}
	bytes, records := len(batch), int(record.Batch(batch).Count())
	var opts replica.ProduceOptions
	switch {
	case call.guards != nil:
		opts.Guard = call.guards[slot]
	case call.req.txnID != nil:
		opts.OwnEpoch = record.Batch(batch).Transactional()
	}
	p.Produce(batch, opts, func(r replica.ProduceResult) {
		if r.Err != nil {
			call.fail(slot, kafkaError(r.Err), "", -1)
			return
		}
		if !r.Duplicate {
			call.s.metrics.producedBytes.Add(float64(bytes))
			call.s.metrics.producedRecords.Add(float64(records))
		}
		call.complete(slot, produceResult{base: r.Base, logAppendTime: r.LogAppendTime, logStart: r.LogStart, badRecord: -1})
	})
}

// check returns the one batch of v2 that records holds, or why it may not enter the topic.
func (call *produceCall) check(t *topic, records []byte) (batch []byte, code *kerr.Error, message string, bad int32) {
	conf := t.conf.Load()
	if len(records) == 0 {
		return nil, kerr.InvalidRecord, "no records", -1
	}
	if call.req.version < 3 && len(records) > record.PrefixBytes && records[record.PrefixBytes] < record.Magic {
		var err error
		if records, err = record.Upconvert(records); err != nil {
			code, message, bad = recordError(err)
			return nil, code, message, bad
		}
	}
	err := record.Validate(records, record.ValidateOptions{
		BytesMax: conf.maxMessageBytes, RequireKeys: conf.replica.Compact, Codecs: &call.s.codecs,
	})
	if err != nil {
		code, message, bad = recordError(err)
		return nil, code, message, bad
	}
	b := record.Batch(records)
	switch {
	case b.Codec() == record.CodecZstd && call.req.version < 7:
		return nil, kerr.UnsupportedCompressionType, "zstd needs Produce v7", -1
	case b.Transactional() && call.req.txnID == nil:
		return nil, kerr.TransactionalIDAuthorizationFailed, "a transactional batch without a transactional id", -1
	}
	b, err = call.s.conform(b, conf)
	if err != nil {
		code, message, bad = recordError(err)
		return nil, code, message, bad
	}
	return b, nil, "", -1
}

// recordError maps the classes of package record to Kafka's errors.
func recordError(err error) (code *kerr.Error, message string, bad int32) {
	bad = -1
	var re *record.RecordError
	if errors.As(err, &re) {
		bad = re.Index
	}
	switch {
	case errors.Is(err, record.ErrTooLarge):
		return kerr.MessageTooLarge, err.Error(), bad
	case errors.Is(err, record.ErrTimestamp):
		return kerr.InvalidTimestamp, err.Error(), bad
	case errors.Is(err, record.ErrUnsupportedMagic):
		return kerr.UnsupportedForMessageFormat, err.Error(), bad
	case errors.Is(err, record.ErrInvalid):
		return kerr.InvalidRecord, err.Error(), bad
	}
	return kerr.CorruptMessage, err.Error(), bad
}

// kafkaError returns the error that a client is told. What is not Kafka's own never becomes UNKNOWN_SERVER_ERROR: an idempotent
// producer would take that for a definite failure and write the batch again (KAFKA-14034).
func kafkaError(err error) *kerr.Error {
	var ke *kerr.Error
	switch {
	case errors.As(err, &ke):
		return ke
	case errors.Is(err, replica.ErrTooLarge):
		return kerr.MessageTooLarge
	case errors.Is(err, context.DeadlineExceeded):
		return kerr.RequestTimedOut
	}
	return kerr.NotLeaderForPartition
}

func (call *produceCall) finished(slot int) bool {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.results[slot].done
}

func (call *produceCall) fail(slot int, err *kerr.Error, message string, bad int32) {
	call.complete(slot, refused(err, message, bad))
}

// refused is the outcome of a batch that is not in the log, as far as is known.
func refused(err *kerr.Error, message string, bad int32) produceResult {
	if message == "" {
		message = err.Description
	}
	return produceResult{base: -1, logAppendTime: -1, logStart: -1, code: err.Code, message: message, badRecord: bad, done: true}
}

// complete sets a partition's outcome, unless the request was answered without it.
func (call *produceCall) complete(slot int, r produceResult) {
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.results[slot].done {
		return
	}
	r.done = true
	call.results[slot] = r
	call.settled()
}

// settled counts one outcome. Called with mu held.
func (call *produceCall) settled() {
	if call.left--; call.left == 0 {
		close(call.done)
	}
}

// wait blocks until every partition is done, the timeout (0: none) has passed or the connection ended.
func (call *produceCall) wait(ctx context.Context, timeout time.Duration) {
	select {
	case <-call.done:
		return
	default:
	}
	var expired <-chan time.Time
	if timeout > 0 {
		t := call.s.clock.NewTimer(timeout)
		defer t.Stop()
		expired = t.C()
	}
	select {
	case <-call.done:
	case <-expired:
	case <-ctx.Done():
	}
}

// answer returns the response. Partitions that are not done get REQUEST_TIMED_OUT: they may still enter the log, which an idempotent
// producer's retry finds out.
func (call *produceCall) answer() *produceResponse {
	call.mu.Lock()
	defer call.mu.Unlock()
	for i := range call.results {
		if !call.results[i].done {
			call.results[i] = refused(kerr.RequestTimedOut, "", -1)
		}
	}
	for _, j := range call.joins {
		if !j.answered {
			call.refuseAll(j, kerr.RequestTimedOut)
		}
	}
	call.sent = true
	return &produceResponse{version: call.req.version, req: call.req, results: call.results}
}

func (call *produceCall) firstError() int16 {
	call.mu.Lock()
	defer call.mu.Unlock()
	for i := range call.results {
		if code := call.results[i].code; code != 0 {
			return code
		}
	}
	return 0
}
