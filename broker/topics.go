package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
)

// The coordinators' topics. They are made at first use.
const (
	offsetsTopic   = "__consumer_offsets"
	txnStateTopic  = "__transaction_state"
	internalCount  = 16  // partitions of each
	topicsParallel = 256 // partitions that are opened at the same time, so that they share syncs
)

// topics is the partitions that this node holds, kept in step with group 0.
type topics struct {
	mu  sync.Mutex // held while partitions are opened or removed
	now atomic.Pointer[topicSet]

	once sync.Once
	wake chan struct{} // group 0 changed
}

// topicSet is immutable.
type topicSet struct {
	byName  map[string]*topic
	byID    map[cluster.TopicID]*topic
	version uint64 // of group 0's state
}

// topic is a topic with its open partitions; immutable but for what conf points to.
type topic struct {
	*cluster.Topic
	conf       *atomic.Pointer[topicConfig]
	partitions []*partition // by index; nil where this node has no replica
}

// partition is an open partition of this node.
type partition struct {
	*replica.Partition
	topic string
	id    cluster.TopicID
	index int32
	group replica.GroupID
	conf  *atomic.Pointer[topicConfig]
}

func (ts *topics) changes() chan struct{} {
	ts.once.Do(func() { ts.wake = make(chan struct{}, 1) })
	return ts.wake
}

// changed says that group 0 has a new state. It does not block.
func (ts *topics) changed() {
	select {
	case ts.changes() <- struct{}{}:
	default:
	}
}

func (ts *topics) set() *topicSet {
	if t := ts.now.Load(); t != nil {
		return t
	}
	return &topicSet{}
}

// followTopics opens and removes partitions as group 0 changes, until the server closes. What a request of this server changes
// is followed by the request itself.
func (s *Server) followTopics() {
	for {
		select {
		case <-s.topics.changes():
			if err := s.syncTopics(); err != nil && s.ctx.Err() == nil {
				s.log.Error("partitions do not follow the cluster's metadata", "error", err)
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// syncTopics makes the open partitions those of group 0's state: opens what is new, removes what was deleted, directories included. It
// blocks until that is done.
func (s *Server) syncTopics() error {
	s.topics.mu.Lock()
	defer s.topics.mu.Unlock()
	state := s.machine.State()
	old := s.topics.set()
	next := &topicSet{byName: make(map[string]*topic, len(state.Topics)), byID: make(map[cluster.TopicID]*topic, len(state.Topics)), version: state.Version}
	var opening errgroup.Group
	opening.SetLimit(topicsParallel)
	if err := s.makePartitionDirs(state, old); err != nil {
		return err
	}
	var failed error
	for name, ct := range state.Topics {
		t := s.nextTopic(old.byID[ct.ID], ct)
		if state.NodeConfigsAt > old.version {
			t.conf.Store(s.topicConfigOf(ct))
		}
		for i := range ct.Partitions {
			r, here := ct.Partitions[i].On(s.opts.NodeID)
			if t.partitions[i] != nil || !here {
				continue
			}
			opening.Go(func() (err error) {
				if t.partitions[i], err = s.openOrMark(t, int32(i), r); err != nil {
					return fmt.Errorf("partition %s/%d: %w", name, i, err)
				}
				return nil
			})
		}
		next.byName[name], next.byID[ct.ID] = t, t
	}
	failed = opening.Wait()
	s.topics.now.Store(next)
	for id, t := range old.byID {
		if next.byID[id] == nil {
			failed = errors.Join(failed, s.removeTopic(t))
		}
	}
	return errors.Join(failed, s.sweepDeleted(state, old))
}

// makePartitionDirs makes the directories of partitions that are not open yet, with one sync for all of them.
func (s *Server) makePartitionDirs(state *cluster.State, old *topicSet) error {
	fs, made := s.opts.FS, false
	for id, ct := range state.ByID {
		t := old.byID[id]
		for i := range ct.Partitions {
			r, here := ct.Partitions[i].On(s.opts.NodeID)
			if !here || t != nil && i < len(t.partitions) && t.partitions[i] != nil {
				continue
			}
			dir := s.partitionDir(id, int32(i), r.ReplicaID)
			if _, err := fs.Stat(dir); err == nil {
				continue
			}
			if !made {
				if err := fs.MkdirAll(filepath.Dir(dir)); err != nil {
					return err
				}
			}
			made = true
			if err := fs.Mkdir(dir); err != nil {
				return err
			}
		}
	}
	if !made {
		return nil
	}
	return fs.SyncDir(s.partitionBase())
}

// nextTopic returns the topic as of ct, with the partitions that are open already.
func (s *Server) nextTopic(old *topic, ct *cluster.Topic) *topic {
	t := &topic{Topic: ct, partitions: make([]*partition, len(ct.Partitions))}
	if old != nil {
		if old.Topic == ct && !hasNil(old.partitions) {
			return old
		}
		t.conf = old.conf
		copy(t.partitions, old.partitions)
	} else {
		t.conf = new(atomic.Pointer[topicConfig])
	}
	t.conf.Store(s.topicConfigOf(ct))
	return t
}

func hasNil(ps []*partition) bool {
	for _, p := range ps {
		if p == nil {
			return true
		}
	}
	return false
}

// openOrMark opens a partition. One whose own files are damaged is there all the same, marked, and answers with an error: the others are served.
// Nothing of it is deleted, neither its files nor what the checkpoint and the write-ahead log hold of it.
func (s *Server) openOrMark(t *topic, index int32, r cluster.Replica) (*partition, error) {
	p, err := s.openPartition(t, index, r)
	if err != nil && replica.Confined(err) && s.node.Err() == nil {
		p.MarkDamaged(err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (s *Server) openPartition(t *topic, index int32, r cluster.Replica) (*partition, error) {
	cp := t.Partitions[index]
	conf := t.conf
	rp := replica.NewPartition(replica.PartitionOptions{
		FS: s.opts.FS, Dir: s.partitionDir(t.ID, index, r.ReplicaID),
		TopicID: t.ID, Topic: t.Name, Index: index, Clock: s.clock, Logger: s.log,
		Config:   func() replica.TopicConfig { return conf.Load().replica },
		Observer: s.observerFor(t.Name, index),
	})
	voters := make([]uint64, len(cp.Replicas))
	for i, o := range cp.Replicas {
		voters[i] = o.ReplicaID
	}
	p := &partition{Partition: rp, topic: t.Name, id: t.ID, index: index, group: cp.Group, conf: conf}
	return p, s.node.AddGroup(cp.Group, rp, replica.GroupConf{ReplicaID: r.ReplicaID, Voters: voters})
}

func (s *Server) partitionDir(id cluster.TopicID, index int32, replicaID uint64) string {
	return replica.PartitionDir(s.partitionBase(), id, index, replicaID)
}

func (s *Server) partitionBase() string { return filepath.Join(s.opts.DataDir, "partitions") }

// removeTopic forgets the groups of a topic whose deletion is committed, and deletes their directories.
func (s *Server) removeTopic(t *topic) (err error) {
	for _, p := range t.partitions {
		if p == nil {
			continue
		}
		if e := s.node.RemoveGroup(p.group); e != nil {
			err = errors.Join(err, fmt.Errorf("partition %s/%d: %w", p.topic, p.index, e))
			continue
		}
		if e := p.Destroy(); e != nil {
			err = errors.Join(err, fmt.Errorf("partition %s/%d: %w", p.topic, p.index, e))
		}
	}
	return err
}

// sweepDeleted deletes the directories of topics whose deletion was committed but not carried out: the process ended
// in between. Only a tombstone in group 0 deletes; a directory that nobody knows stays.
func (s *Server) sweepDeleted(state *cluster.State, old *topicSet) (err error) {
	if old.byName != nil { // only at the start
		return nil
	}
	for _, d := range state.Deleted {
		for i, p := range d.Partitions {
			r, here := p.On(s.opts.NodeID)
			if !here {
				continue
			}
			// What the checkpoint and the write-ahead log still hold of it would keep the log from being recycled.
			if e := s.node.RemoveGroup(p.Group); e != nil {
				err = errors.Join(err, fmt.Errorf("deleted topic %s: %w", d.Name, e))
			}
			dir := s.partitionDir(d.ID, int32(i), r.ReplicaID)
			if _, e := s.opts.FS.Stat(dir); e != nil {
				continue
			}
			if e := s.opts.FS.RemoveAll(dir); e != nil {
				err = errors.Join(err, fmt.Errorf("deleted topic %s: %w", d.Name, e))
			}
		}
	}
	return err
}

// lookup returns an open partition, or the error that clients retry on. It may be damaged: what the coordinators append does not depend on what is on
// disk, and a transaction can end.
func (s *Server) lookup(name string, index int32) (*partition, *kerr.Error) {
	return s.topics.set().byName[name].partition(index)
}

func (t *topic) partition(index int32) (*partition, *kerr.Error) {
	if t == nil || index < 0 || int(index) >= len(t.partitions) {
		return nil, kerr.UnknownTopicOrPartition
	}
	p := t.partitions[index]
	switch {
	case p != nil && p.Leads():
		return p, nil
	case p != nil && p.Damage() != nil:
		return nil, kerr.KafkaStorageError
	}
	return nil, kerr.NotLeaderForPartition
}

// served is partition for clients: one that is damaged is refused with KAFKA_STORAGE_ERROR.
func (t *topic) served(index int32) (*partition, *kerr.Error) {
	p, err := t.partition(index)
	if err == nil && p.Damage() != nil {
		return nil, kerr.KafkaStorageError
	}
	return p, err
}

// damage says why a partition is refused; "" when it is not damaged.
func (t *topic) damage(index int32) string {
	if t == nil || index < 0 || int(index) >= len(t.partitions) || t.partitions[index] == nil {
		return ""
	}
	if err := t.partitions[index].Damage(); err != nil {
		return err.Error()
	}
	return ""
}

// lookupServed is lookup for clients.
func (s *Server) lookupServed(name string, index int32) (*partition, *kerr.Error) {
	return s.topics.set().byName[name].served(index)
}

// DamagedPartition is a partition that is not served, and why.
type DamagedPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Damage    string `json:"damage"` // with file, byte and offset, as `outrelay log verify` says it
}

// Damaged returns the partitions of this node whose files are not what was written, by name.
func (s *Server) Damaged() []DamagedPartition {
	var ds []DamagedPartition
	set := s.topics.set()
	for _, name := range sortedNames(set) {
		for _, p := range set.byName[name].partitions {
			if p == nil {
				continue
			}
			if err := p.Damage(); err != nil {
				ds = append(ds, DamagedPartition{Topic: p.topic, Partition: p.index, Damage: err.Error()})
			}
		}
	}
	return ds
}

// partition returns an open partition of this node. Errors are *kerr.Error.
func (s *Server) partition(topic string, index int32) (*replica.Partition, error) {
	p, err := s.lookup(topic, index)
	if err != nil {
		return nil, err
	}
	return p.Partition, nil
}

// ensureInternalTopic creates one of the coordinators' topics if it is not there. It blocks until the topic's partitions are open.
func (s *Server) ensureInternalTopic(ctx context.Context, name string) error {
	if s.topics.set().byName[name] != nil {
		return nil
	}
	_, err := s.createTopic(ctx, name, internalCount, map[string]string{"cleanup.policy": "compact"})
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

// createTopic creates a topic and opens its partitions. It blocks until the topic can be used.
func (s *Server) createTopic(ctx context.Context, name string, partitions int32, configs map[string]string) (*cluster.Topic, error) {
	ct, err := s.cluster.CreateTopic(ctx, name, partitions, configs, s.opts.NodeID)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return nil, err
	}
	// Who lost a race for the name waits for the winner's partitions to be open.
	return ct, errors.Join(err, s.syncTopics())
}

// isInternal reports whether only the coordinators write to the topic.
func isInternal(name string) bool { return name == offsetsTopic || name == txnStateTopic }

// internal is isInternal of a topic that may be nil.
func (t *topic) internal() bool { return t != nil && isInternal(t.Name) }

// validTopicName is Kafka's rule: 1 to 249 of a-z A-Z 0-9 . _ - and not "." or "..".
func validTopicName(name string) bool {
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func sortedNames(set *topicSet) []string { return slices.Sorted(maps.Keys(set.byName)) }
