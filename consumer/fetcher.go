package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
)

// fetcher reads the partitions of one group from where their claims say, by a client of its own that is in no group: what is fetched, and
// from which offset, follows from the sink alone (S1). One goroutine polls and changes positions, so that no record from before
// a seek can arrive after it.
type fetcher struct {
	cl     *kgo.Client
	log    *slog.Logger
	expect func(n int) // tells the combiner of workers that are about to submit; nil without one

	mu     sync.Mutex // guards what follows
	queues map[outrelay.TopicPartition]*queue
	ids    map[string][16]byte // of topics, at their last seek: the client knows them by these
	todo   []func()            // for the polling goroutine
	wake   context.CancelFunc  // ends the poll that is under way
}

func newFetcher(cl *kgo.Client, log *slog.Logger) *fetcher {
	return &fetcher{cl: cl, log: log, queues: map[outrelay.TopicPartition]*queue{}, ids: map[string][16]byte{}}
}

// run polls until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		poll, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		todo := f.todo
		f.todo, f.wake = nil, cancel
		f.mu.Unlock()
		for _, fn := range todo {
			fn()
		}
		fetches := f.cl.PollFetches(poll)
		cancel()
		f.deliver(fetches)
	}
}

// deliver hands out what a poll returned. All that rest are expected before the first is woken, so that what arrived together is applied together.
func (f *fetcher) deliver(fetches kgo.Fetches) {
	var got []*queue
	fetches.EachTopic(func(t kgo.FetchTopic) {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			tp := outrelay.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			f.mu.Lock()
			q := f.queues[tp]
			f.mu.Unlock()
			if q == nil {
				if p.Err != nil && !errors.Is(p.Err, context.Canceled) && !errors.Is(p.Err, kgo.ErrClientClosed) {
					f.log.Warn("fetch", "partition", tp.String(), "err", p.Err)
				}
				continue
			}
			if q.put(t.TopicID, p) {
				f.cl.PauseFetchPartitions(map[string][]int32{tp.Topic: {tp.Partition}})
			}
			got = append(got, q)
		}
	})
	if f.expect != nil {
		for _, q := range got {
			q.await(f.expect)
		}
	}
	for _, q := range got {
		q.signal()
	}
}

// do runs fn in the polling goroutine, soon.
func (f *fetcher) do(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.todo = append(f.todo, fn)
	if f.wake != nil {
		f.wake()
	}
}

// seek makes q receive the partition's records from offset on, and nothing else. It waits until that holds.
func (f *fetcher) seek(ctx context.Context, tp outrelay.TopicPartition, q *queue, offset int64, topicID [16]byte) error {
	done := make(chan struct{})
	f.do(func() {
		f.mu.Lock()
		f.queues[tp] = q
		old, known := f.ids[tp.Topic]
		f.ids[tp.Topic] = topicID
		f.mu.Unlock()
		if known && old != topicID {
			// The topic was deleted and created again. The client would ask for the old one for ever; the topic's other partitions are claimed again
			// too, and come here one by one.
			f.cl.PurgeTopicsFromConsuming(tp.Topic)
		}
		f.cl.RemoveConsumePartitions(map[string][]int32{tp.Topic: {tp.Partition}})
		f.cl.ResumeFetchPartitions(map[string][]int32{tp.Topic: {tp.Partition}})
		q.reset(offset, topicID)
		f.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{tp.Topic: {tp.Partition: kgo.NewOffset().At(offset)}})
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drop ends the fetching of a partition for q.
func (f *fetcher) drop(tp outrelay.TopicPartition, q *queue) {
	f.do(func() {
		f.mu.Lock()
		mine := f.queues[tp] == q
		if mine {
			delete(f.queues, tp)
		}
		f.mu.Unlock()
		if mine {
			f.cl.RemoveConsumePartitions(map[string][]int32{tp.Topic: {tp.Partition}})
		}
	})
}

// resume goes on with a partition whose fetching was paused.
func (f *fetcher) resume(tp outrelay.TopicPartition) {
	f.do(func() { f.cl.ResumeFetchPartitions(map[string][]int32{tp.Topic: {tp.Partition}}) })
}
