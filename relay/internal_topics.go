package relay

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// EnsureInternalTopics makes the topics that outrelay keeps for itself in a log, and refuses them where they stand otherwise than they must. What is
// only worth a warning goes to log; nil discards it.
func EnsureInternalTopics(ctx context.Context, o kafka.Options, cl *kgo.Client, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for _, t := range internalTopics(o) {
		st, err := o.EnsureTopic(ctx, cl, t.Name, t.Partitions, t.Configs)
		if err == nil {
			err = checkInternal(ctx, o, cl, log, t.Name, st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func internalTopics(o kafka.Options) []Topic {
	return []Topic{
		{Name: o.PositionsTopic(), Partitions: kafka.PositionsPartitions, Configs: positionsConfigs()},
		{Name: o.IndexTopic(), Partitions: kafka.IndexPartitions, Configs: indexConfigs()},
	}
}

// checkInternal refuses a topic of ours that somebody else has made in a way that would lose what it is for.
func checkInternal(ctx context.Context, o kafka.Options, cl *kgo.Client, log *slog.Logger, name string, st kafka.TopicState) error {
	if !o.Internal(name) {
		return nil
	}
	positions := name == o.PositionsTopic()
	if positions && st.Partitions != kafka.PositionsPartitions {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "positions-partitions", Place: "topic " + name,
			Cause: fmt.Sprintf("it has %d partitions, not %d: sources would not be found again", st.Partitions, kafka.PositionsPartitions),
			Fix:   "delete the topic if no source has a position yet; else this log cannot be used"}
	}
	d, err := kafka.Durability(ctx, cl, name)
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
		log.Warn("a topic of outrelay's own is acknowledged by one replica alone: losing it loses positions", "topic", name,
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
