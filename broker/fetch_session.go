package broker

import (
	"container/list"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Fetch sessions (KIP-227): the server remembers a consumer's partitions, so that a request names only what changed and the
// answer holds only what is new.
const (
	fetchSessionSlots      = 1000            // max.incremental.fetch.session.cache.slots
	fetchSessionPartitions = 200_000         // over all sessions; beyond it fetches go without
	fetchSessionIdle       = 2 * time.Minute // a session unused for so long gives up its slot to a new one
)

// Session epochs with a meaning of their own.
const (
	epochInitial = 0  // full fetch, make a session
	epochFinal   = -1 // full fetch, no session
)

// fetchKey names a partition in a session: by id from v13 on, by name before.
type fetchKey struct {
	name  string
	id    [16]byte
	index int32
}

// fetchPart is what a consumer asked of one partition.
type fetchPart struct {
	key              fetchKey
	offset           int64
	maxBytes         int32
	leaderEpoch      int32 // -1: not said
	lastFetchedEpoch int32 // -1: not said

	// What the last answer said, so that an incremental one can leave the partition out when nothing changed.
	toldHigh, toldStable, toldStart int64
}

// fetchSession is one consumer's partitions, in the order in which they are read: those that gave data go to the back, so that
// a busy one cannot starve the others.
type fetchSession struct {
	id   int32
	ids  bool       // keys carry topic ids
	mu   sync.Mutex // guards the rest; sessions' lock is never taken under it
	next int32      // the epoch that the next request must carry
	list *list.List // of *fetchPart
	at   map[fetchKey]*list.Element

	used time.Time // guarded by fetchSessions.mu
	size int       // partitions, as counted in fetchSessions.partitions; guarded by fetchSessions.mu
}

// fetchSessions is the cache of sessions.
type fetchSessions struct {
	mu         sync.Mutex
	slots      int
	byID       map[int32]*fetchSession
	partitions int
}

func newFetchSessions(slots int) *fetchSessions {
	return &fetchSessions{slots: slots, byID: make(map[int32]*fetchSession)}
}

// resolve returns the partitions that a request is about, in reading order, and its session: nil for a full fetch that keeps none.
func (fs *fetchSessions) resolve(req *kmsg.FetchRequest, now time.Time) (*fetchSession, []fetchPart, *kerr.Error) {
	if req.Version < 7 || req.SessionEpoch == epochFinal {
		fs.drop(req.SessionID)
		return nil, requestParts(req), nil
	}
	if req.SessionEpoch == epochInitial {
		fs.drop(req.SessionID)
		parts := requestParts(req)
		return fs.create(parts, req.Version >= 13, now), parts, nil
	}
	return fs.update(req, now)
}

// requestParts returns the partitions that a request names, once each.
func requestParts(req *kmsg.FetchRequest) []fetchPart {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	parts := make([]fetchPart, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			parts = append(parts, fetchPart{
				key:    fetchKey{name: t.Topic, id: t.TopicID, index: p.Partition},
				offset: p.FetchOffset, maxBytes: p.PartitionMaxBytes,
				leaderEpoch: p.CurrentLeaderEpoch, lastFetchedEpoch: lastFetchedEpoch(req.Version, p),
				toldHigh: -1, toldStable: -1, toldStart: -1,
			})
		}
	}
	return parts
}

func lastFetchedEpoch(version int16, p *kmsg.FetchRequestTopicPartition) int32 {
	if version < 12 {
		return -1
	}
	return p.LastFetchedEpoch
}

// create makes a session of parts, or returns nil when the cache has no room.
func (fs *fetchSessions) create(parts []fetchPart, ids bool, now time.Time) *fetchSession {
	if len(parts) == 0 {
		return nil
	}
	s := &fetchSession{ids: ids, next: 1, list: list.New(), at: make(map[fetchKey]*list.Element, len(parts)), used: now}
	for i := range parts {
		s.put(&parts[i])
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.byID) >= fs.slots && !fs.evict(now) || fs.partitions+s.list.Len() > fetchSessionPartitions {
		return nil
	}
	for s.id == 0 || fs.byID[s.id] != nil {
		s.id = rand.Int32()
	}
	s.size = s.list.Len()
	fs.partitions += s.size
	fs.byID[s.id] = s
	return s
}

// evict removes the session that was unused for longest, if that was long enough. fs.mu is held.
func (fs *fetchSessions) evict(now time.Time) bool {
	var oldest *fetchSession
	for _, s := range fs.byID {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	if oldest == nil || now.Sub(oldest.used) < fetchSessionIdle {
		return false
	}
	fs.remove(oldest)
	return true
}

func (fs *fetchSessions) remove(s *fetchSession) {
	delete(fs.byID, s.id)
	fs.partitions -= s.size
	s.size = 0
}

func (fs *fetchSessions) drop(id int32) {
	if id == 0 {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if s := fs.byID[id]; s != nil {
		fs.remove(s)
	}
}

func (fs *fetchSessions) count() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.byID)
}

// update applies an incremental request to its session.
func (fs *fetchSessions) update(req *kmsg.FetchRequest, now time.Time) (*fetchSession, []fetchPart, *kerr.Error) {
	fs.mu.Lock()
	s := fs.byID[req.SessionID]
	if s != nil {
		s.used = now
	}
	fs.mu.Unlock()
	if s == nil {
		return nil, nil, kerr.FetchSessionIDNotFound
	}
	parts, err := s.update(req)
	if err != nil {
		return nil, nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byID[s.id] == s {
		fs.partitions += len(parts) - s.size
		s.size = len(parts)
		if fs.partitions > fetchSessionPartitions {
			fs.remove(s) // the client makes a new one, or goes without
			return nil, nil, kerr.FetchSessionIDNotFound
		}
	}
	return s, parts, nil
}

func (s *fetchSession) update(req *kmsg.FetchRequest) ([]fetchPart, *kerr.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.SessionEpoch != s.next {
		return nil, kerr.InvalidFetchSessionEpoch
	}
	if s.ids != (req.Version >= 13) {
		return nil, kerr.FetchSessionTopicIDError
	}
	if s.next++; s.next <= 0 {
		s.next = 1
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, index := range t.Partitions {
			s.forget(fetchKey{name: t.Topic, id: t.TopicID, index: index})
		}
	}
	named := requestParts(req)
	for i := range named {
		s.put(&named[i])
	}
	parts := make([]fetchPart, 0, s.list.Len())
	for e := s.list.Front(); e != nil; e = e.Next() {
		parts = append(parts, *e.Value.(*fetchPart))
	}
	return parts, nil
}

// put adds a partition at the back, or changes what is asked of it where it stands. s.mu is held, or s is not shared yet.
func (s *fetchSession) put(p *fetchPart) {
	if e := s.at[p.key]; e != nil {
		old := e.Value.(*fetchPart)
		old.offset, old.maxBytes = p.offset, p.maxBytes
		old.leaderEpoch, old.lastFetchedEpoch = p.leaderEpoch, p.lastFetchedEpoch
		return
	}
	c := *p
	s.at[p.key] = s.list.PushBack(&c)
}

func (s *fetchSession) forget(k fetchKey) {
	if e := s.at[k]; e != nil {
		s.list.Remove(e)
		delete(s.at, k)
	}
}

// filter keeps of an answer what the client does not know yet, unless all is set (the session's first answer), and remembers what
// is told. Partitions with data go to the back of the order.
func (s *fetchSession) filter(reads []*fetchRead, all bool) []*fetchRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := reads[:0]
	for _, r := range reads {
		e := s.at[r.part.key]
		if e == nil {
			keep = append(keep, r)
			continue
		}
		p := e.Value.(*fetchPart)
		tell := all || r.res.Len() > 0 || r.code != 0 || r.diverging != nil ||
			p.toldHigh != r.res.HighWatermark || p.toldStable != r.res.LastStable || p.toldStart != r.res.LogStart
		p.toldHigh, p.toldStable, p.toldStart = r.res.HighWatermark, r.res.LastStable, r.res.LogStart
		if r.code != 0 {
			p.toldHigh = -1 // the end of the error is news
		}
		if r.res.Len() > 0 {
			s.list.MoveToBack(e)
		}
		if tell {
			keep = append(keep, r)
		}
	}
	return keep
}
