package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
)

// Proposer is what of a replica.Node a Client needs.
type Proposer interface {
	Propose(g replica.GroupID, payload []byte, done func(result any, err error))
}

// Client proposes changes to group 0 and awaits them. It may be used concurrently. Every method blocks until the change is applied here,
// that is on disk at a majority, or ctx ends: then the change may still come. Refusals are an *Error with the Kafka code
// inside; where group 0 is led elsewhere it is NOT_CONTROLLER.
type Client struct {
	p     Proposer
	m     *Machine
	clock clock.Clock
}

// NewClient returns a client for the machine that p runs as group 0.
func NewClient(p Proposer, m *Machine) *Client { return &Client{p: p, m: m, clock: clock.Real{}} }

// WithClock makes the client stamp topics by c, and returns it.
func (c *Client) WithClock(cl clock.Clock) *Client {
	c.clock = cl
	return c
}

// State returns the state as of the last applied command.
func (c *Client) State() *State { return c.m.State() }

// Bootstrap gives the cluster its id, when it has none yet.
func (c *Client) Bootstrap(ctx context.Context, clusterID string) error {
	if c.m.State().ClusterID != "" {
		return nil
	}
	_, err := c.do(ctx, command{Op: opBootstrap, ClusterID: clusterID})
	return err
}

// RegisterNode registers a node, or what is new about it.
func (c *Client) RegisterNode(ctx context.Context, n Node) error {
	_, err := c.do(ctx, command{Op: opRegisterNode, Node: &n})
	return err
}

// CreateTopic creates a topic with one replica of each partition on every one of nodes. TOPIC_ALREADY_EXISTS comes with the topic that
// exists. Other refusals: INVALID_TOPIC_EXCEPTION, INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR, INVALID_CONFIG.
func (c *Client) CreateTopic(ctx context.Context, name string, partitions int32, configs map[string]string, nodes ...int32) (*Topic, error) {
	if err := ValidateConfigs(configs); err != nil {
		return nil, err
	}
	id := newTopicID()
	o, err := c.do(ctx, command{
		Op: opCreateTopic, Name: name, ID: &id, Internal: IsInternal(name), Partitions: partitions, Nodes: nodes,
		Configs: configs, TimeMs: c.clock.Now().UnixMilli(),
	})
	return o.topic, err
}

// DeleteTopic deletes a topic and returns it as it was. Refusal: UNKNOWN_TOPIC_OR_PARTITION.
func (c *Client) DeleteTopic(ctx context.Context, name string) (*Topic, error) {
	o, err := c.do(ctx, command{Op: opDeleteTopic, Name: name})
	return o.topic, err
}

// CreatePartitions grows a topic to total partitions, placed like its first. Refusals: UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS.
func (c *Client) CreatePartitions(ctx context.Context, name string, total int32) (*Topic, error) {
	t := c.m.State().Topics[name]
	if t == nil {
		return nil, errorf(kerr.UnknownTopicOrPartition, "no topic %q", name)
	}
	var nodes []int32
	for _, r := range t.Partitions[0].Replicas {
		nodes = append(nodes, r.Node)
	}
	o, err := c.do(ctx, command{Op: opCreatePartitions, Name: name, Partitions: total, Nodes: nodes})
	return o.topic, err
}

// SetConfigs replaces all of a topic's configs (AlterConfigs). Refusals: UNKNOWN_TOPIC_OR_PARTITION, INVALID_CONFIG.
func (c *Client) SetConfigs(ctx context.Context, name string, configs map[string]string) error {
	if err := ValidateConfigs(configs); err != nil {
		return err
	}
	_, err := c.do(ctx, command{Op: opSetConfigs, Name: name, Configs: configs})
	return err
}

// AlterConfigs sets some of a topic's configs and puts others back to their defaults (IncrementalAlterConfigs). Refusals as for SetConfigs.
func (c *Client) AlterConfigs(ctx context.Context, name string, set map[string]string, unset []string) error {
	after := map[string]string{}
	if t := c.m.State().Topics[name]; t != nil {
		for k, v := range t.Configs {
			if d, ok := ConfigDefOf(k); ok && d.Check(v) == nil { // what an older version accepted is no reason to refuse now
				after[k] = v
			}
		}
	}
	maps.Copy(after, set)
	for _, u := range unset {
		delete(after, u)
	}
	if err := errors.Join(ValidateConfigs(set), ValidateConfigs(after)); err != nil {
		return err
	}
	for _, u := range unset {
		if _, ok := ConfigDefOf(u); !ok {
			return errorf(kerr.InvalidConfig, "unknown topic config %q", u)
		}
	}
	_, err := c.do(ctx, command{Op: opAlterConfigs, Name: name, Configs: set, Unset: slices.Clone(unset)})
	return err
}

// SetNodeConfigs replaces all that is set of a node's configs, or of all nodes' for "" (AlterConfigs). Refusal: INVALID_CONFIG.
func (c *Client) SetNodeConfigs(ctx context.Context, node string, configs map[string]string) error {
	if err := ValidateNodeConfigs(configs); err != nil {
		return err
	}
	_, err := c.do(ctx, command{Op: opSetNodeConfigs, Name: node, Configs: configs})
	return err
}

// AlterNodeConfigs sets some of a node's configs and takes others back (IncrementalAlterConfigs). Refusal: INVALID_CONFIG.
func (c *Client) AlterNodeConfigs(ctx context.Context, node string, set map[string]string, unset []string) error {
	if err := ValidateNodeConfigs(set); err != nil {
		return err
	}
	_, err := c.do(ctx, command{Op: opAlterNodeConfigs, Name: node, Configs: set, Unset: slices.Clone(unset)})
	return err
}

// AllocateProducerIDs returns the first of n consecutive producer ids that nobody else ever gets.
func (c *Client) AllocateProducerIDs(ctx context.Context, n int64) (first int64, err error) {
	o, err := c.do(ctx, command{Op: opAllocate, Count: n})
	return o.first, err
}

// SetFeatures sets the levels of features (UpdateFeatures), all of them or none. Which levels there are is the caller's to know.
func (c *Client) SetFeatures(ctx context.Context, levels map[string]int16) error {
	_, err := c.do(ctx, command{Op: opSetFeatures, Features: levels})
	return err
}

func (c *Client) do(ctx context.Context, cmd command) (outcome, error) {
	b, err := cmd.encode()
	if err != nil {
		return outcome{}, err
	}
	type answer struct {
		o   outcome
		err error
	}
	ch := make(chan answer, 1)
	c.p.Propose(replica.MetadataGroup, b, func(result any, err error) {
		if err != nil {
			ch <- answer{err: proposalError(cmd.Op, err)}
			return
		}
		o := result.(outcome)
		ch <- answer{o: o, err: o.err}
	})
	select {
	case a := <-ch:
		return a.o, a.err
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("%s: %w", cmd.Op, ctx.Err())
	}
}

func proposalError(op string, err error) error {
	k := kerr.NotController
	if errors.Is(err, replica.ErrTooManyInFlight) {
		k = kerr.RequestTimedOut
	}
	return errorf(k, "%s: %v", op, err)
}

// IsInternal reports whether the topic is one of Kafka's own, which clients may not produce to or delete.
func IsInternal(name string) bool {
	return name == "__consumer_offsets" || name == "__transaction_state"
}

// newTopicID returns a random UUID, version 4, which is never one of the reserved ones.
func newTopicID() TopicID {
	var id TopicID
	_, _ = rand.Read(id[:]) // crypto/rand never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
