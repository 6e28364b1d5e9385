package cluster

import (
	"context"

	"github.com/outrelay/outrelay/broker/replica"
)

// Machine is group 0's state machine.
type Machine struct{}

// New returns an empty machine.
func New() *Machine { return &Machine{} }

// State returns the state as of the last applied command.
func (m *Machine) State() *State { return nil }

// OnChange sets fn to be called after every change, from the goroutine that applies; fn must not block.
func (m *Machine) OnChange(fn func(*State)) {}

// Apply implements replica.StateMachine.
func (m *Machine) Apply(e replica.Entry) any { return nil }

// Checkpoint implements replica.StateMachine.
func (m *Machine) Checkpoint() func() ([]byte, error) { return nil }

// Restore implements replica.StateMachine.
func (m *Machine) Restore(blob []byte) error { return nil }

// Client proposes changes to group 0 and awaits them.
type Client struct{}

// NewClient returns a client for the machine that n runs as group 0.
func NewClient(n *replica.Node, m *Machine) *Client { return &Client{} }

// Bootstrap gives the cluster its id when it has none, and registers the node.
func (c *Client) Bootstrap(ctx context.Context, clusterID string) error { return nil }

// RegisterNode registers a node, or its new endpoints.
func (c *Client) RegisterNode(ctx context.Context, n Node) error { return nil }

// CreateTopic creates a topic on the given nodes (one replica per partition on each of them).
func (c *Client) CreateTopic(ctx context.Context, name string, partitions int32, configs map[string]string, nodes ...int32) (*Topic, error) {
	return nil, nil
}

// DeleteTopic deletes a topic.
func (c *Client) DeleteTopic(ctx context.Context, name string) (*Topic, error) { return nil, nil }

// CreatePartitions grows a topic to total partitions.
func (c *Client) CreatePartitions(ctx context.Context, name string, total int32) (*Topic, error) {
	return nil, nil
}

// SetConfigs replaces all of a topic's configs.
func (c *Client) SetConfigs(ctx context.Context, name string, configs map[string]string) error {
	return nil
}

// AlterConfigs sets some of a topic's configs and deletes others (back to their defaults).
func (c *Client) AlterConfigs(ctx context.Context, name string, set map[string]string, del []string) error {
	return nil
}

// AllocateProducerIDs returns the first of n producer ids that nobody else gets.
func (c *Client) AllocateProducerIDs(ctx context.Context, n int64) (int64, error) { return 0, nil }
