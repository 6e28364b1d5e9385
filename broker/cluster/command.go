package cluster

import (
	"encoding/json"
	"fmt"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/replica"
)

// commandVersion is the version that this program writes. A command of a newer one stops the node: its state would differ from the others'.
const commandVersion = 1

// The operations.
const (
	opBootstrap        = "bootstrap"
	opRegisterNode     = "register_node"
	opCreateTopic      = "create_topic"
	opDeleteTopic      = "delete_topic"
	opCreatePartitions = "create_partitions"
	opSetConfigs       = "set_configs"
	opAlterConfigs     = "alter_configs"
	opAllocate         = "allocate_producer_ids"
	opSetMask          = "set_mask"
	opAlterUser        = "alter_user"
	opCreateACLs       = "create_acls"
	opDeleteACLs       = "delete_acls"
	opAlterQuota       = "alter_quota"
	opSetFeatures      = "set_features"
	opSetNodeConfigs   = "set_node_configs"
	opAlterNodeConfigs = "alter_node_configs"

	opSetGroupConfigs   = "set_group_configs"
	opAlterGroupConfigs = "alter_group_configs"
)

// command is an entry of group 0. Fields that an operation does not use are absent.
type command struct {
	V          int               `json:"v"`
	Op         string            `json:"op"`
	ClusterID  string            `json:"cluster_id,omitempty"`
	Node       *Node             `json:"node,omitempty"`
	Name       string            `json:"name,omitempty"`
	ID         *TopicID          `json:"id,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Partitions int32             `json:"partitions,omitempty"`
	Nodes      []int32           `json:"nodes,omitempty"` // of each new partition's replicas, the preferred leader first
	Configs    map[string]string `json:"configs,omitempty"`
	Unset      []string          `json:"unset,omitempty"`
	Features   map[string]int16  `json:"features,omitempty"`
	Count      int64             `json:"count,omitempty"`
	TimeMs     int64             `json:"time_ms,omitempty"`
	Mask       auth.Mask         `json:"mask,omitempty"`
	UserChange *UserChange       `json:"user_change,omitempty"`
	ACLs       []auth.ACL        `json:"acls,omitempty"`
	Quota      *auth.Quota       `json:"quota,omitempty"`
}

func (c command) encode() ([]byte, error) {
	c.V = commandVersion
	return json.Marshal(c)
}

// decodeCommand reads an entry of group 0. Errors wrap replica.ErrCorrupt or replica.ErrVersion.
func decodeCommand(b []byte) (command, error) {
	var c command
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("cluster command of %d bytes: %w: %w", len(b), replica.ErrCorrupt, err)
	}
	if c.V != commandVersion {
		return c, fmt.Errorf("cluster command version %d, this program reads %d: %w", c.V, commandVersion, replica.ErrVersion)
	}
	return c, nil
}
