package cluster

import (
	"maps"
	"slices"

	"github.com/outrelay/outrelay/broker/replica"
)

// TopicID is a topic's UUID; it names the topic for ever, its name only while it exists (KIP-516).
type TopicID = [16]byte

// Replica places one replica of a partition. ReplicaID is the raft id: allocated once and never used again, so that a node that
// lost its disk cannot vote for what it no longer knows.
type Replica struct {
	Node      int32  `json:"node"`
	ReplicaID uint64 `json:"replica_id"`
}

// Partition is one partition's raft group and where its replicas are; the first is the preferred leader.
type Partition struct {
	Group    replica.GroupID `json:"group"`
	Replicas []Replica       `json:"replicas"`
}

// On returns the replica that stands on node.
func (p Partition) On(node int32) (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return Replica{}, false
}

// Topic is a topic as of one state. It is never changed: a change makes a new one.
type Topic struct {
	Name       string            `json:"name"`
	ID         TopicID           `json:"id"`
	Internal   bool              `json:"internal,omitempty"`
	Configs    map[string]string `json:"configs,omitempty"` // what was set; see Effective
	Partitions []Partition       `json:"partitions"`
	CreatedMs  int64             `json:"created_ms"`
}

// Node is a registered node.
type Node struct {
	ID          int32             `json:"id"`
	Incarnation [16]byte          `json:"incarnation"` // of its data directory
	Endpoints   map[string]string `json:"endpoints,omitempty"`
	Rack        string            `json:"rack,omitempty"`
}

// State is the cluster's metadata as of one applied command: immutable, safe to share.
type State struct {
	ClusterID string
	Nodes     map[int32]*Node
	Topics    map[string]*Topic
	ByID      map[TopicID]*Topic
	Deleted   []Deleted        // tombstones: groups that will never be used again
	Features  map[string]int16 // levels that were set (KIP-584); who serves a feature knows what counts when there is none
	Version   uint64           // grows with every change
	Security  Security

	// NodeConfigs are what was set of nodes' configs while they ran, by node id; "" for all of them. NodeConfigsAt is the version at
	// which they changed last since the start.
	NodeConfigs   map[string]map[string]string
	NodeConfigsAt uint64
	GroupConfigs  map[string]map[string]string // what was set of groups' configs, by group, whether there is such a group or not

	nextGroup      replica.GroupID
	nextReplica    uint64
	nextProducerID int64
}

// Deleted is the tombstone of a topic: its replicas' directories may be deleted, and its groups never come back.
type Deleted struct {
	ID         TopicID     `json:"id"`
	Name       string      `json:"name"`
	Partitions []Partition `json:"partitions"`
}

// NextProducerID is the first producer id that was not handed out.
func (s *State) NextProducerID() int64 { return s.nextProducerID }

// Groups returns the number of partitions over all topics.
func (s *State) Groups() int {
	n := 0
	for _, t := range s.Topics {
		n += len(t.Partitions)
	}
	return n
}

// TopicNames returns the names of all topics, sorted.
func (s *State) TopicNames() []string { return slices.Sorted(maps.Keys(s.Topics)) }

func emptyState() *State {
	return &State{
		Nodes: map[int32]*Node{}, Topics: map[string]*Topic{}, ByID: map[TopicID]*Topic{},
		nextGroup:   1,    // group 0 is this one
		nextReplica: 1000, // below: replicas of group 0 that bootstrap by node id
	}
}

// clone copies s so that one command can change the copy's maps; topics and nodes themselves are shared and immutable.
func (s *State) clone() *State {
	c := *s
	c.Nodes, c.Topics, c.ByID = maps.Clone(s.Nodes), maps.Clone(s.Topics), maps.Clone(s.ByID)
	c.Deleted, c.Features = slices.Clip(s.Deleted), maps.Clone(s.Features)
	c.Version++
	return &c
}

func (s *State) put(t *Topic) {
	s.Topics[t.Name] = t
	s.ByID[t.ID] = t
}
