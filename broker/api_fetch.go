package broker

import (
	"context"
	"reflect"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
)

// Fetch, key 1: v4–18
//
//   - v4: isolation level, last stable offset, aborted transactions (KIP-98)
//   - v5: log start offset (KIP-107)
//   - v7: sessions (KIP-227)
//   - v9: leader epoch of the client (KIP-320)
//   - v11: rack (KIP-392): one node has no nearer replica
//   - v12: flexible; last fetched epoch and diverging epoch (KIP-595)
//   - v13: topic ids (KIP-516)
//   - v15–18: fields of replicas, which are not served here
//
// A fetch waits in the connection's writer until it has min_bytes, max_wait has passed, or a partition has an error. The first batch
// of the first partition that has one is returned whatever its size (KIP-74). How much answers may hold over all connections
// is bounded by making them smaller, never by making them wait.

const isolationReadCommitted = 1

// While the answers being sent hold as much as Options.MemoryBytes, each further one may have a part of what is left of as much again, within these
// limits. So all of them hold at most twice that, and fetchShortBytesMin or one batch for each connection.
const (
	fetchShortPart     = 8
	fetchShortBytesMin = 64 << 10
	fetchShortBytesMax = 1 << 20
)

// fetchRead is one partition of a fetch.
type fetchRead struct {
	part      fetchPart
	p         *partition
	committed bool // read_committed
	code      int16
	res       replica.FetchResult
	diverging *divergence
	tried     bool
}

// divergence is where the client's log and ours part.
type divergence struct {
	epoch int32
	end   int64
}

// fetchCall is a fetch that waits for data.
type fetchCall struct {
	s     *Server
	c     *conn
	req   *kmsg.FetchRequest
	reads []*fetchRead
	held  int64 // of Server.fetchHeld
}

func handleFetch(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.FetchRequest)
	f := &fetchCall{s: s, c: c, req: req}
	return func() kmsg.Response { return f.run() }
}

func (f *fetchCall) run() kmsg.Response {
	resp := &fetchResponse{version: f.req.Version}
	session, parts, err := f.s.sessions.resolve(f.req, f.s.clock.Now())
	if err != nil {
		resp.code = err.Code
		return resp
	}
	f.resolve(parts)
	f.poll()
	resp.reads, resp.held = f.reads, f.held
	if session != nil {
		resp.session = session.id
		resp.reads = session.filter(f.reads, f.req.SessionEpoch == epochInitial)
	}
	return resp
}

// resolve finds the partitions that parts name.
func (f *fetchCall) resolve(parts []fetchPart) {
	set := f.s.topics.set()
	replicaFetch := f.req.ReplicaID >= 0 || f.req.ReplicaState.ID >= 0
	reads := make([]fetchRead, len(parts))
	f.reads = make([]*fetchRead, len(parts))
	var t *topic
	var unknown *kerr.Error
	for i := range parts {
		r := &reads[i]
		f.reads[i] = r
		r.part, r.committed = parts[i], f.req.IsolationLevel == isolationReadCommitted
		if k := &r.part.key; i == 0 || k.name != parts[i-1].key.name || k.id != parts[i-1].key.id {
			t, unknown = set.find(k.name, k.id, f.req.Version >= 13)
			if name := topicName(t, k.name); name != "" && !f.c.mayRead(name) {
				unknown = topicDenied
			}
		}
		err := unknown
		if err == nil {
			r.p, err = t.served(r.part.key.index)
		}
		if err == nil && replicaFetch {
			err = kerr.ClusterAuthorizationFailed // replicas do not speak Kafka's protocol to each other here
		}
		if err == nil {
			err = r.checkEpoch()
		}
		if err != nil {
			r.fail(err)
		}
	}
}

// topicName returns the name of a topic that was found, or else the one that was asked for: what may not be read is denied whether it exists or
// not.
func topicName(t *topic, asked string) string {
	if t != nil {
		return t.Name
	}
	return asked
}

// checkEpoch compares what the client knows of the leader (KIP-320) and of the log (KIP-595).
func (r *fetchRead) checkEpoch() *kerr.Error {
	if e, ours := r.part.leaderEpoch, r.p.LeaderEpoch(); e >= 0 && e != ours {
		if e < ours {
			return kerr.FencedLeaderEpoch
		}
		return kerr.UnknownLeaderEpoch
	}
	if e := r.part.lastFetchedEpoch; e >= 0 {
		epoch, end := r.p.OffsetForEpoch(e)
		if epoch >= 0 && (epoch < e || end < r.part.offset) {
			r.diverging = &divergence{epoch, end}
			r.marks()
		}
	}
	return nil
}

// marks sets what an answer without records says of the partition.
func (r *fetchRead) marks() {
	r.res = replica.FetchResult{HighWatermark: r.p.HighWatermark(), LastStable: r.p.LastStable(), LogStart: r.p.LogStart()}
}

func (r *fetchRead) fail(err *kerr.Error) {
	r.code = err.Code
	r.res = replica.FetchResult{HighWatermark: -1, LastStable: -1, LogStart: -1}
}

// poll reads until there is enough, the time is up or the connection ends.
func (f *fetchCall) poll() {
	var expired <-chan time.Time
	for {
		watch := f.watches()
		n, urgent := f.read()
		if urgent || n >= int(f.req.MinBytes) || f.req.MaxWaitMillis <= 0 || len(f.reads) == 0 {
			break
		}
		if expired == nil {
			t := f.s.clock.NewTimer(time.Duration(f.req.MaxWaitMillis) * time.Millisecond)
			defer t.Stop()
			expired = t.C()
		}
		if !waitAny(f.c.ctx, expired, watch) {
			break
		}
	}
	n, records, fromFiles := 0, 0, 0
	for _, r := range f.reads {
		n += r.res.Len()
		if r.res.Extent != nil {
			records += int(r.res.Extent.Records())
			fromFiles += r.res.Len()
		} else {
			records += countRecords(r.res.Bytes)
		}
	}
	f.s.metrics.fetchedBytes.Add(float64(n))
	f.s.metrics.fetchedFileBytes.Add(float64(fromFiles))
	f.s.metrics.fetchedRecords.Add(float64(records))
}

// countRecords returns the number of records that whole batches say they hold.
func countRecords(b []byte) (n int) {
	for len(b) >= record.HeaderBytes {
		batch := record.Batch(b)
		n += int(batch.Count())
		size := batch.Size()
		if size < record.HeaderBytes || size > int64(len(b)) {
			break
		}
		b = b[size:]
	}
	return n
}

// bytes returns the bytes of records in the answer.
func (r *fetchResponse) bytes() (n int) {
	for _, read := range r.reads {
		n += read.res.Len()
	}
	return n
}

// release implements piecesResponse.
func (r *fetchResponse) release(s *Server) {
	s.fetchHeld.Add(-r.held)
	for _, read := range r.reads {
		read.res.Release()
	}
}

// watches returns channels of which one closes when a partition has more than is read next. They are taken before reading, so
// that nothing falls between.
func (f *fetchCall) watches() []<-chan struct{} {
	chans := make([]<-chan struct{}, 0, len(f.reads))
	for _, r := range f.reads {
		if r.code == 0 && r.diverging == nil {
			chans = append(chans, r.p.Watch())
		}
	}
	return chans
}

// read reads what there is, and returns how many bytes the answer has. urgent says that it must go out now: with an
// error, or because it is full.
func (f *fetchCall) read() (total int, urgent bool) {
	room := f.room()
	defer f.settle()
	for _, r := range f.reads {
		if r.code != 0 || r.diverging != nil {
			urgent = true
			continue
		}
		if r.stale() {
			if err := r.read(min(int(r.part.maxBytes), room-total), total == 0, f.c.sendsFiles()); err != nil {
				r.fail(err)
				urgent = true
				continue
			}
		}
		total += r.res.Len()
	}
	return total, urgent || total > 0 && total >= room
}

// room returns how many bytes the answer may have, and holds them until the read is done: many may read at once.
func (f *fetchCall) room() int {
	want := int64(0)
	for _, r := range f.reads {
		want += max(int64(r.part.maxBytes), 0)
	}
	want = min(want, max(int64(f.req.MaxBytes), 0), int64(f.s.opts.FetchMaxBytes))
	for {
		all := f.s.fetchHeld.Load()
		others := all - f.held
		room := want
		if left := f.s.opts.MemoryBytes - others; left < want {
			more := (left + f.s.opts.MemoryBytes) / fetchShortPart
			room = min(want, max(left, min(max(more, fetchShortBytesMin), fetchShortBytesMax)))
		}
		if f.s.fetchHeld.CompareAndSwap(all, others+room) {
			f.held = room
			return int(room)
		}
	}
}

// settle makes what was read what this answer holds: bytes in memory alone, not those that go out from a file.
func (f *fetchCall) settle() {
	n := int64(0)
	for _, r := range f.reads {
		n += int64(len(r.res.Bytes))
	}
	f.s.fetchHeld.Add(n - f.held)
	f.held = n
}

// stale reports whether reading again could give more.
func (r *fetchRead) stale() bool {
	return !r.tried || r.res.HighWatermark != r.p.HighWatermark() || r.res.LastStable != r.p.LastStable()
}

func (r *fetchRead) read(bytesMax int, minOne, extents bool) *kerr.Error {
	r.tried = true
	r.res.Release()
	if bytesMax <= 0 && !minOne {
		r.marks()
		if r.part.offset < r.res.LogStart || r.part.offset > r.res.HighWatermark {
			return kerr.OffsetOutOfRange
		}
		return nil
	}
	res, err := r.p.Lend(r.part.offset, max(bytesMax, 0), r.committed, minOne, extents)
	if err != nil {
		return kafkaError(err)
	}
	r.res = res
	return nil
}

// waitAny waits until one of watch closes; false means that the time is up or the connection ended.
func waitAny(ctx context.Context, expired <-chan time.Time, watch []<-chan struct{}) bool {
	if len(watch) == 1 {
		select {
		case <-watch[0]:
			return true
		case <-expired:
		case <-ctx.Done():
		}
		return false
	}
	cases := make([]reflect.SelectCase, 2, 2+len(watch))
	cases[0] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())}
	cases[1] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(expired)}
	for _, w := range watch {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(w)})
	}
	at, _, _ := reflect.Select(cases)
	return at >= 2
}
