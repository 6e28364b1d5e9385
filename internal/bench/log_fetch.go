package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	fetchConns       = 4
	fetchBytes       = 16 << 20 // of a response
	fetchPartBytes   = 1 << 20  // of a partition in it: a consumer's default
	fetchVersion     = 12
	batchLengthAt    = 8  // in a record batch: int32, what follows it
	batchLastDeltaAt = 23 // int32, last offset minus base offset
	batchHeaderBytes = 61
	batchFrameBytes  = 12 // base offset and length
)

// fetchAll reads a topic from beginning to end, again and again, over fetchConns connections that share its partitions, and decodes no record: from each batch it
// takes only where the next begins. The figure is what the broker can send.
func fetchAll(ctx context.Context, seed, topic string, partitions int, length time.Duration) (logSample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	warm := time.Now().Add(warmUp(length))
	end := warm.Add(length)
	var mu sync.Mutex // guards what follows
	var timed, all int64
	var errs []error
	var wg sync.WaitGroup
	for i := range fetchConns {
		wg.Go(func() {
			var own []int32
			for p := i; p < partitions; p += fetchConns {
				own = append(own, int32(p))
			}
			t, n, err := fetchUntil(ctx, seed, topic, own, warm, end)
			mu.Lock()
			defer mu.Unlock()
			timed, all = timed+t, all+n
			if err != nil {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return logSample{}, err
	}
	return logSample{perSec: float64(timed) / length.Seconds(), n: int(all)}, nil
}

// fetchUntil is one connection's part: how many records came after warm, and how many in all.
func fetchUntil(ctx context.Context, seed, topic string, partitions []int32, warm, end time.Time) (timed, all int64, err error) {
	f, err := dialFetcher(ctx, seed, topic)
	if err != nil {
		return 0, 0, err
	}
	defer f.conn.Close()
	next := map[int32]int64{}
	for {
		for _, p := range partitions {
			if _, ok := next[p]; !ok {
				next[p] = 0
			}
		}
		n, err := f.fetch(next)
		if err != nil {
			return timed, all, fmt.Errorf("fetch from %s: %w", seed, err)
		}
		now := time.Now()
		if now.After(end) {
			return timed, all, nil
		}
		all += n
		if now.After(warm) {
			timed += n
		}
	}
}

// fetcher is a bare connection that fetches, or whatever it is asked to.
type fetcher struct {
	conn  net.Conn
	topic string
	req   []byte
	buf   []byte
	corr  int32
}

func dialFetcher(ctx context.Context, seed, topic string) (*fetcher, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", seed)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a read that is under way
	return &fetcher{conn: conn, topic: topic}, nil
}

// fetch asks for what is at next, moves next on and returns how many records came. A partition that is at its end begins again.
func (f *fetcher) fetch(next map[int32]int64) (records int64, err error) {
	resp, err := f.ask(next)
	if err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return 0, err
			}
			to := batchesEnd(p.RecordBatches, next[p.Partition])
			records += to - next[p.Partition]
			next[p.Partition] = to
			if to >= p.HighWatermark {
				next[p.Partition] = 0
			}
		}
	}
	return records, nil
}

func (f *fetcher) ask(next map[int32]int64) (*kmsg.FetchResponse, error) {
	req := kmsg.NewPtrFetchRequest()
	req.Version = fetchVersion
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 100, 1, fetchBytes, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = f.topic
	for p, at := range next {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = p, at, fetchPartBytes, -1
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	return resp, f.exchange(req, resp)
}

// flexibleHeader is the length of an answer's header: correlation id, no tags.
const flexibleHeader = 5

// exchange sends a request of a flexible version and decodes its answer, which refers to the connection's buffer.
func (f *fetcher) exchange(req kmsg.Request, resp kmsg.Response) error {
	f.corr++
	f.req = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(f.req[:0], req, f.corr)
	body, err := f.roundTrip(f.req)
	if err != nil {
		return err
	}
	return resp.(interface{ UnsafeReadFrom([]byte) error }).UnsafeReadFrom(body[flexibleHeader:])
}

// roundTrip sends a frame and returns the answer's, without its size; it lies in the connection's buffer.
func (f *fetcher) roundTrip(frame []byte) ([]byte, error) {
	if _, err := f.conn.Write(frame); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(f.conn, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n < flexibleHeader || n > 2*fetchBytes {
		return nil, fmt.Errorf("answer of %d bytes", n)
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	_, err := io.ReadFull(f.conn, f.buf)
	return f.buf, err
}

// batchesEnd returns the offset after the last whole batch of b; from when there is none.
func batchesEnd(b []byte, from int64) int64 {
	for len(b) >= batchHeaderBytes {
		size := batchFrameBytes + int(binary.BigEndian.Uint32(b[batchLengthAt:]))
		if size > len(b) {
			break
		}
		from = int64(binary.BigEndian.Uint64(b)) + int64(binary.BigEndian.Uint32(b[batchLastDeltaAt:])) + 1
		b = b[size:]
	}
	return from
}
