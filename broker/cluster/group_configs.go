package cluster

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Configs of groups (KIP-848): what a consumer group does otherwise than the node's settings say.
const (
	GroupSession   = "consumer.session.timeout.ms"
	GroupHeartbeat = "consumer.heartbeat.interval.ms"
)

// GroupConfigDefs returns every config that a group may have, by name. The caller owns the slice.
func GroupConfigDefs() []ConfigDef {
	return []ConfigDef{
		{
			Name: GroupHeartbeat, Type: ConfigInt, Default: "5000", Served: true, min: 100, max: 60_000,
			Doc: "How often members of a consumer group are asked to be heard of.",
		},
		{
			Name: GroupSession, Type: ConfigInt, Default: "45000", Served: true, min: 1000, max: 1_800_000,
			Doc: "A member of a consumer group that was not heard of for so long is fenced.",
		},
	}
}

// GroupConfigDefOf returns the definition of the named group config.
func GroupConfigDefOf(name string) (ConfigDef, bool) {
	for _, d := range GroupConfigDefs() {
		if d.Name == name {
			return d, true
		}
	}
	return ConfigDef{}, false
}

// ValidateGroupConfigs says what is wrong with a set of group configs, or nil. The error wraps kerr.InvalidConfig and names the config.
func ValidateGroupConfigs(configs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		d, ok := GroupConfigDefOf(name)
		if !ok {
			return errorf(kerr.InvalidConfig, "unknown group config %q; there are %s", name, strings.Join([]string{GroupHeartbeat, GroupSession}, " and "))
		}
		if err := d.Check(configs[name]); err != nil {
			return err
		}
	}
	return nil
}

// SetGroupConfigs replaces all that is set of a group's configs, whether there is such a group or not (AlterConfigs). Refusal: INVALID_CONFIG.
func (c *Client) SetGroupConfigs(ctx context.Context, group string, configs map[string]string) error {
	if err := ValidateGroupConfigs(configs); err != nil {
		return err
	}
	_, err := c.do(ctx, command{Op: opSetGroupConfigs, Name: group, Configs: configs})
	return err
}

// AlterGroupConfigs sets some of a group's configs and takes others back (IncrementalAlterConfigs). Refusal: INVALID_CONFIG.
func (c *Client) AlterGroupConfigs(ctx context.Context, group string, set map[string]string, unset []string) error {
	if err := ValidateGroupConfigs(set); err != nil {
		return err
	}
	_, err := c.do(ctx, command{Op: opAlterGroupConfigs, Name: group, Configs: set, Unset: slices.Clone(unset)})
	return err
}

func (s *State) setGroupConfigs(c command) outcome {
	all, changed := withConfigs(s.GroupConfigs, c, c.Op == opAlterGroupConfigs)
	s.GroupConfigs = all
	return outcome{unchanged: !changed}
}

// withConfigs returns all with the configs of c.Name replaced, or altered; changed is false when that makes no difference.
func withConfigs(all map[string]map[string]string, c command, alter bool) (next map[string]map[string]string, changed bool) {
	old, set := all[c.Name], c.Configs
	if alter {
		set = altered(old, c)
	}
	if maps.Equal(old, set) {
		return all, false
	}
	if next = maps.Clone(all); next == nil {
		next = map[string]map[string]string{}
	}
	if next[c.Name] = set; len(set) == 0 {
		delete(next, c.Name)
	}
	return next, true
}
