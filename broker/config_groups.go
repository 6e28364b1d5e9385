package broker

import (
	"maps"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// groupDefaults are the settings of consumer groups that this node's options say, by group config.
func (s *Server) groupDefaults() map[string]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return map[string]string{cluster.GroupSession: ms(s.opts.ConsumerGroupSession), cluster.GroupHeartbeat: ms(s.opts.ConsumerGroupHeartbeat)}
}

// groupEntries describes a group's configuration, by name; there need be no such group.
func (s *Server) groupEntries(group string) []configEntry {
	set, defaults := s.machine.State().GroupConfigs[group], s.groupDefaults()
	var entries []configEntry
	for _, d := range cluster.GroupConfigDefs() {
		e := configEntry{name: d.Name, doc: d.Doc, kind: kmsg.ConfigType(d.Type)}
		if v, ok := set[d.Name]; ok {
			e.values = append(e.values, configValue{d.Name, v, kmsg.ConfigSourceGroupConfig})
		}
		if v := defaults[d.Name]; v != d.Default {
			e.values = append(e.values, configValue{"group." + d.Name, v, kmsg.ConfigSourceStaticBrokerConfig})
		}
		e.values = append(e.values, configValue{"group." + d.Name, d.Default, kmsg.ConfigSourceDefaultConfig})
		entries = append(entries, e)
	}
	return entries
}

// groupTimes returns a consumer group's session timeout and heartbeat interval.
func (s *Server) groupTimes(group string) (session, heartbeat time.Duration) {
	session, heartbeat = s.opts.ConsumerGroupSession, s.opts.ConsumerGroupHeartbeat
	set := s.machine.State().GroupConfigs[group]
	if len(set) == 0 {
		return session, heartbeat
	}
	return millisOr(set[cluster.GroupSession], session), millisOr(set[cluster.GroupHeartbeat], heartbeat)
}

func millisOr(text string, def time.Duration) time.Duration {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(n) * time.Millisecond
	}
	return def
}

// checkGroup says what is wrong with what is to be set and taken back of a group: members must be asked more often than they are given up.
// With only, all that is set is replaced.
func (s *Server) checkGroup(group string, set map[string]string, unset []string, only bool) error {
	after := s.groupDefaults()
	if !only {
		maps.Copy(after, s.machine.State().GroupConfigs[group])
	}
	for _, name := range unset {
		after[name] = s.groupDefaults()[name]
	}
	maps.Copy(after, set)
	session, heartbeat := millisOr(after[cluster.GroupSession], 0), millisOr(after[cluster.GroupHeartbeat], 0)
	if heartbeat >= session {
		return invalid(kerr.InvalidConfig, "%s of %v is not below %s, which is %v", cluster.GroupHeartbeat, heartbeat, cluster.GroupSession, session)
	}
	return nil
}
