package relay

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// checkInternal refuses a topic of ours that somebody else has made in a way that would lose what it is for.
func (s *session) checkInternal(ctx context.Context, name string, st kafka.TopicState) error {
	if !s.o.Kafka.Internal(name) {
		return nil
	}
	positions := name == s.o.Kafka.PositionsTopic()
	if positions && st.Partitions != kafka.PositionsPartitions {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "positions-partitions", Place: "topic " + name,
			Cause: fmt.Sprintf("it has %d partitions, not %d: sources would not be found again", st.Partitions, kafka.PositionsPartitions),
			Fix:   "delete the topic if no source has a position yet; else this log cannot be used"}
	}
	d, err := kafka.Durability(ctx, s.admin, name)
	if err != nil {
		return err
	}
	if err := checkPolicy(name, positions, d); err != nil {
		return err
	}
	min, err := strconv.Atoi(d.MinInsync)
	if err == nil && min > d.Replicas {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "not-enough-replicas", Place: "topic " + name,
			Cause: fmt.Sprintf("min.insync.replicas is %d, and the topic has %d: nothing can be written to it", min, d.Replicas),
			Fix:   alterConfig(name, "min.insync.replicas="+strconv.Itoa(max(1, d.Replicas-1)))}
	}
	if err == nil && d.Replicas >= 3 && min < 2 {
		s.o.Logger.Warn("a topic of outrelay's own is acknowledged by one replica alone: losing it loses positions", "topic", name,
			"min.insync.replicas", min, "replicas", d.Replicas, "fix", alterConfig(name, "min.insync.replicas=2"))
	}
	return nil
}

// checkPolicy: positions must outlive any retention, and an index that is compacted knows of a source's last place alone.
func checkPolicy(name string, positions bool, d kafka.TopicDurability) error {
	deletes, compacts := strings.Contains(d.CleanupPolicy, "delete"), strings.Contains(d.CleanupPolicy, "compact")
	switch {
	case !d.Readable:
		return nil // who may write need not be allowed to read configs
	case positions && (deletes || !compacts):
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "positions-not-kept", Place: "topic " + name,
			Cause: "its cleanup.policy is " + d.CleanupPolicy + ": retention would delete the position of a source that is idle for long",
			Fix:   alterConfig(name, "cleanup.policy=compact")}
	case !positions && compacts:
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "index-compacted", Place: "topic " + name,
			Cause: "its cleanup.policy is " + d.CleanupPolicy + ": compaction keeps the last place of each source alone, so that nothing earlier is found again",
			Fix:   alterConfig(name, "cleanup.policy=delete")}
	}
	return nil
}

func alterConfig(topic, config string) string {
	return "kafka-configs.sh --bootstrap-server … --alter --topic " + topic + " --add-config " + config
}
