package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/replica"
)

// Limits of one cluster.
const (
	// TopicPartitionsMax bounds the partitions of one topic, PartitionsMax those of all.
	TopicPartitionsMax = 10_000
	PartitionsMax      = 100_000
	producerIDsMax     = 1 << 20 // of one block
)

// Machine is group 0's state machine. State may be called from anywhere; the rest is for the Node.
type Machine struct {
	state    atomic.Pointer[State]
	onChange atomic.Pointer[func(*State)]
}

// New returns a machine with an empty state.
func New() *Machine {
	m := &Machine{}
	m.state.Store(emptyState())
	return m
}

// State returns the state as of the last applied command.
func (m *Machine) State() *State { return m.state.Load() }

// OnChange sets fn to be called after every change, from the goroutine that applies; fn must not block, nor wait for a Client.
func (m *Machine) OnChange(fn func(*State)) { m.onChange.Store(&fn) }

// Apply implements replica.StateMachine. The result is an outcome.
func (m *Machine) Apply(e replica.Entry) any {
	c, err := decodeCommand(e.Payload)
	if err != nil {
		return replica.Fatal{Err: err}
	}
	old := m.state.Load()
	next := old.clone()
	o, known := next.apply(c)
	if !known {
		return replica.Fatal{Err: fmt.Errorf("cluster command %q: %w", c.Op, replica.ErrVersion)}
	}
	if o.err != nil || o.unchanged {
		return o
	}
	m.state.Store(next)
	if fn := m.onChange.Load(); fn != nil {
		(*fn)(next)
	}
	return o
}

// outcome is what a command came to. err is a refusal; nothing was changed then.
type outcome struct {
	topic     *Topic
	first     int64
	unchanged bool
	err       error
}

func refuse(k *kerr.Error, format string, args ...any) outcome {
	return outcome{err: errorf(k, format, args...)}
}

// apply changes s, which nobody else holds yet. It decides from s and c alone: the same on every node and at every replay.
func (s *State) apply(c command) (o outcome, known bool) {
	switch c.Op {
	case opBootstrap:
		if s.ClusterID != "" {
			return outcome{unchanged: true}, true
		}
		s.ClusterID = c.ClusterID
	case opRegisterNode:
		return s.register(c), true
	case opCreateTopic:
		return s.createTopic(c), true
	case opDeleteTopic:
		return s.deleteTopic(c), true
	case opCreatePartitions:
		return s.createPartitions(c), true
	case opSetConfigs, opAlterConfigs:
		return s.setConfigs(c), true
	case opSetNodeConfigs, opAlterNodeConfigs:
		return s.setNodeConfigs(c), true
	case opSetGroupConfigs, opAlterGroupConfigs:
		return s.setGroupConfigs(c), true
	case opSetFeatures:
		return s.setFeatures(c), true
	case opAllocate:
		if c.Count < 1 || c.Count > producerIDsMax {
			return refuse(kerr.InvalidRequest, "%d producer ids, want 1 to %d", c.Count, producerIDsMax), true
		}
		o.first = s.nextProducerID
		s.nextProducerID += c.Count
	default:
		return s.applySecurity(c)
	}
	return o, true
}

func (s *State) register(c command) outcome {
	if c.Node == nil {
		return refuse(kerr.InvalidRequest, "no node in the command")
	}
	if old := s.Nodes[c.Node.ID]; old != nil && old.Incarnation == c.Node.Incarnation && old.Rack == c.Node.Rack && maps.Equal(old.Endpoints, c.Node.Endpoints) {
		return outcome{unchanged: true}
	}
	n := *c.Node
	s.Nodes[n.ID] = &n
	return outcome{}
}

func (s *State) createTopic(c command) outcome {
	switch {
	case s.Topics[c.Name] != nil:
		return outcome{topic: s.Topics[c.Name], err: errorf(kerr.TopicAlreadyExists, "topic %q already exists", c.Name)}
	case !ValidTopicName(c.Name):
		return refuse(kerr.InvalidTopicException, "topic name %q: want 1 to 249 of a-z A-Z 0-9 . _ -", c.Name)
	case c.ID == nil || *c.ID == TopicID{} || s.ByID[*c.ID] != nil:
		return refuse(kerr.InvalidRequest, "topic %q: topic id missing or in use", c.Name)
	}
	t := &Topic{Name: c.Name, ID: *c.ID, Internal: c.Internal, Configs: c.Configs, CreatedMs: c.TimeMs}
	if err := s.grow(t, c.Partitions, c.Nodes); err != nil {
		return outcome{err: err}
	}
	s.put(t)
	return outcome{topic: t}
}

// grow adds partitions to t, which nobody else holds yet, until there are total.
func (s *State) grow(t *Topic, total int32, nodes []int32) error {
	switch {
	case total < 1 || total > TopicPartitionsMax:
		return errorf(kerr.InvalidPartitions, "topic %q: %d partitions, want 1 to %d", t.Name, total, TopicPartitionsMax)
	case s.Groups()+int(total)-len(t.Partitions) > PartitionsMax:
		return errorf(kerr.InvalidPartitions, "topic %q: the cluster would have more than %d partitions", t.Name, PartitionsMax)
	case len(nodes) < 1 || len(nodes) > 9:
		return errorf(kerr.InvalidReplicationFactor, "topic %q: %d replicas, want 1 to 9", t.Name, len(nodes))
	}
	for len(t.Partitions) < int(total) {
		p := Partition{Group: s.nextGroup}
		s.nextGroup++
		for _, n := range nodes {
			p.Replicas = append(p.Replicas, Replica{Node: n, ReplicaID: s.nextReplica})
			s.nextReplica++
		}
		t.Partitions = append(t.Partitions, p)
	}
	return nil
}

func (s *State) deleteTopic(c command) outcome {
	t := s.Topics[c.Name]
	if t == nil || c.ID != nil && *c.ID != t.ID {
		return refuse(kerr.UnknownTopicOrPartition, "no topic %q", c.Name)
	}
	delete(s.Topics, t.Name)
	delete(s.ByID, t.ID)
	s.Deleted = append(s.Deleted, Deleted{ID: t.ID, Name: t.Name, Partitions: t.Partitions})
	return outcome{topic: t}
}

func (s *State) createPartitions(c command) outcome {
	t := s.Topics[c.Name]
	if t == nil {
		return refuse(kerr.UnknownTopicOrPartition, "no topic %q", c.Name)
	}
	if int(c.Partitions) <= len(t.Partitions) {
		return refuse(kerr.InvalidPartitions, "topic %q has %d partitions; %d is not more", t.Name, len(t.Partitions), c.Partitions)
	}
	n := *t
	n.Partitions = slices.Clone(t.Partitions)
	if err := s.grow(&n, c.Partitions, c.Nodes); err != nil {
		return outcome{err: err}
	}
	s.put(&n)
	return outcome{topic: &n}
}

func (s *State) setConfigs(c command) outcome {
	t := s.Topics[c.Name]
	if t == nil {
		return refuse(kerr.UnknownTopicOrPartition, "no topic %q", c.Name)
	}
	n := *t
	n.Configs = c.Configs
	if c.Op == opAlterConfigs {
		n.Configs = altered(t.Configs, c)
	}
	if maps.Equal(n.Configs, t.Configs) {
		return outcome{topic: t, unchanged: true}
	}
	s.put(&n)
	return outcome{topic: &n}
}

func (s *State) setFeatures(c command) outcome {
	for _, name := range slices.Sorted(maps.Keys(c.Features)) {
		if l := c.Features[name]; l < 0 {
			return refuse(kerr.InvalidUpdateVersion, "feature %s: level %d", name, l)
		}
	}
	if s.Features == nil {
		s.Features = map[string]int16{}
	}
	maps.Copy(s.Features, c.Features)
	return outcome{}
}

// ValidTopicName reports whether Kafka allows the name. It is also safe as a file name.
func ValidTopicName(name string) bool {
	if len(name) < 1 || len(name) > 249 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// snapshotVersion is the version that is written. Version 1 had no users, ACLs and quotas, and is read.
const snapshotVersion = 2

// snapshot is the state as the checkpoint holds it, after one byte of version.
type snapshot struct {
	ClusterID      string          `json:"cluster_id"`
	Nodes          []*Node         `json:"nodes"`
	Topics         []*Topic        `json:"topics"`
	Deleted        []Deleted       `json:"deleted"`
	Version        uint64          `json:"version"`
	NextGroup      replica.GroupID `json:"next_group"`
	NextReplica    uint64          `json:"next_replica"`
	NextProducerID int64           `json:"next_producer_id"`

	Features    map[string]int16             `json:"features,omitempty"`
	NodeConfigs map[string]map[string]string `json:"node_configs,omitempty"`

	// Since version 2.
	GroupConfigs map[string]map[string]string `json:"group_configs,omitempty"`

	Mask   auth.Mask       `json:"mask,omitempty"`
	Users  map[string]User `json:"users,omitempty"`
	ACLs   []auth.ACL      `json:"acls,omitempty"`
	Quotas []auth.Quota    `json:"quotas,omitempty"`
}

// Checkpoint implements replica.StateMachine: the state is immutable, so freezing it is taking a pointer.
func (m *Machine) Checkpoint() func() ([]byte, error) {
	s := m.state.Load()
	return func() ([]byte, error) {
		sn := snapshot{
			ClusterID: s.ClusterID, Deleted: s.Deleted, Version: s.Version,
			NextGroup: s.nextGroup, NextReplica: s.nextReplica, NextProducerID: s.nextProducerID, Features: s.Features, NodeConfigs: s.NodeConfigs,
			GroupConfigs: s.GroupConfigs,
			Mask:         s.Security.Mask, Users: s.Security.Users, ACLs: s.Security.ACLs, Quotas: s.Security.Quotas,
		}
		for _, id := range slices.Sorted(maps.Keys(s.Nodes)) {
			sn.Nodes = append(sn.Nodes, s.Nodes[id])
		}
		for _, name := range s.TopicNames() {
			sn.Topics = append(sn.Topics, s.Topics[name])
		}
		b, err := json.Marshal(sn)
		return append([]byte{snapshotVersion}, b...), err
	}
}

// Restore implements replica.StateMachine.
func (m *Machine) Restore(blob []byte) error {
	s := emptyState()
	if blob != nil {
		var err error
		if s, err = decodeSnapshot(blob); err != nil {
			return err
		}
	}
	m.state.Store(s)
	return nil
}

// StateOf returns the state that a checkpoint's blob (nil: none) and the entries behind it amount to, for who reads a data directory without opening it.
func StateOf(blob []byte, entries []replica.Entry) (*State, error) {
	m := New()
	if err := m.Restore(blob); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if f, ok := m.Apply(e).(replica.Fatal); ok {
			return m.State(), fmt.Errorf("cluster metadata, entry %d: %w", e.Index, f.Err)
		}
	}
	return m.State(), nil
}

func decodeSnapshot(blob []byte) (*State, error) {
	if len(blob) == 0 || blob[0] < 1 || blob[0] > snapshotVersion {
		return nil, fmt.Errorf("cluster state version %v, this program reads 1 to %d: %w", blob[:min(1, len(blob))], snapshotVersion, replica.ErrVersion)
	}
	var sn snapshot
	if err := json.Unmarshal(blob[1:], &sn); err != nil {
		return nil, fmt.Errorf("cluster state: %w: %w", replica.ErrCorrupt, err)
	}
	s := emptyState()
	s.ClusterID, s.Deleted, s.Version, s.Features = sn.ClusterID, sn.Deleted, sn.Version, sn.Features
	s.NodeConfigs, s.GroupConfigs = sn.NodeConfigs, sn.GroupConfigs
	s.nextGroup, s.nextReplica, s.nextProducerID = sn.NextGroup, sn.NextReplica, sn.NextProducerID
	s.Security = Security{Mask: sn.Mask, Users: sn.Users, ACLs: sn.ACLs, Quotas: sn.Quotas}
	if !s.Security.valid() {
		return nil, fmt.Errorf("cluster state: a user, an ACL or a quota is not whole: %w", replica.ErrCorrupt)
	}
	for _, n := range sn.Nodes {
		if n == nil {
			return nil, fmt.Errorf("cluster state: a node is null: %w", replica.ErrCorrupt)
		}
		s.Nodes[n.ID] = n
	}
	for _, t := range sn.Topics {
		if t == nil || !ValidTopicName(t.Name) || s.Topics[t.Name] != nil || s.ByID[t.ID] != nil {
			return nil, fmt.Errorf("cluster state: a topic is null, named wrongly or twice there: %w", replica.ErrCorrupt)
		}
		s.put(t)
	}
	return s, nil
}
