package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
)

// ErrNoTopic: the log has no topic of that name.
var ErrNoTopic = errors.New("no such topic")

// TopicState is what EnsureTopic found or made.
type TopicState struct {
	ID         [16]byte
	Partitions int32
	Created    bool
	Differs    []string // what stands otherwise than asked for, as "retention.ms is 1, not 2"; nothing was changed
}

// EnsureTopic is Options.EnsureTopic with the broker's defaults.
func EnsureTopic(ctx context.Context, cl *kgo.Client, name string, partitions int32, configs map[string]string) (TopicState, error) {
	return Options{}.EnsureTopic(ctx, cl, name, partitions, configs)
}

// EnsureTopic creates the topic where it is missing (partitions -1: the broker's default; replication by the options) and reports what
// differs where it stands already. It changes nothing of a topic that exists. It blocks until the log has answered. Where we may not create it, the error
// says what to create.
func (o Options) EnsureTopic(ctx context.Context, cl *kgo.Client, name string, partitions int32, configs map[string]string) (TopicState, error) {
	st, err := Topic(ctx, cl, name)
	if err == nil {
		return differs(ctx, cl, name, partitions, configs, st)
	}
	if !errors.Is(err, ErrNoTopic) {
		return TopicState{}, err
	}
	want := make(map[string]*string, len(configs))
	for k, v := range configs {
		want[k] = &v
	}
	if o.MinInsyncReplicas > 0 {
		if _, ok := want["min.insync.replicas"]; !ok {
			want["min.insync.replicas"] = kmsg.StringPtr(strconv.Itoa(o.MinInsyncReplicas))
		}
	}
	replicas := int16(-1)
	if o.ReplicationFactor > 0 {
		replicas = int16(o.ReplicationFactor)
	}
	resp, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, replicas, want, name)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists): // another process was quicker
		st, err = Topic(ctx, cl, name)
		if err != nil {
			return TopicState{}, err
		}
		return differs(ctx, cl, name, partitions, configs, st)
	case err != nil:
		if resp.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
		}
		if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) || errors.Is(err, kerr.PolicyViolation) {
			return TopicState{}, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "topic-missing", Place: "topic " + name, Cause: "it does not exist, and the log does not let us create it",
				Err: err, Fix: "have it created: " + createCommand(name, partitions, replicas, want)}
		}
		return TopicState{}, wrap(err, "create topic %s", name)
	}
	st, err = awaitTopic(ctx, cl, name)
	st.Created = true
	return st, err
}

// awaitTopic waits until a broker that is asked knows a topic which the controller has just made: a cluster tells its brokers of it afterwards.
func awaitTopic(ctx context.Context, cl *kgo.Client, name string) (TopicState, error) {
	for try := 0; ; try++ {
		st, err := Topic(ctx, cl, name)
		if !errors.Is(err, ErrNoTopic) || try >= staleTriesMax {
			return st, err
		}
		if err := backoff.Sleep(ctx, clock.Real{}, stalePause); err != nil {
			return st, wrap(err, "topic %s", name)
		}
	}
}

func differs(ctx context.Context, cl *kgo.Client, name string, partitions int32, configs map[string]string, st TopicState) (TopicState, error) {
	if partitions > 0 && st.Partitions != partitions {
		st.Differs = append(st.Differs, fmt.Sprintf("partitions is %d, not %d", st.Partitions, partitions))
	}
	if len(configs) == 0 {
		return st, nil
	}
	is, err := topicConfigs(ctx, cl, name)
	if errors.Is(err, errNotReadable) {
		return st, nil // who may write need not be allowed to read configs
	}
	if err != nil {
		return st, err
	}
	for k, v := range configs {
		if got, ok := is[k]; !ok || got != v {
			st.Differs = append(st.Differs, fmt.Sprintf("%s is %s, not %s", k, got, v))
		}
	}
	slices.Sort(st.Differs)
	return st, nil
}

// errNotReadable: the log does not tell us the configs of a topic.
var errNotReadable = errors.New("configs of a topic are not readable")

// topicConfigs returns the configs in force of a topic, or errNotReadable.
func topicConfigs(ctx context.Context, cl *kgo.Client, name string) (map[string]string, error) {
	rcs, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, name)
	if err == nil && len(rcs) == 1 {
		err = rcs[0].Err
	}
	if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.UnsupportedVersion) {
		return nil, errNotReadable
	}
	if err != nil {
		return nil, wrap(err, "configs of topic %s", name)
	}
	is := map[string]string{}
	for _, rc := range rcs {
		for _, c := range rc.Configs {
			is[c.Key] = c.MaybeValue()
		}
	}
	return is, nil
}

// createCommand is what an administrator of a Kafka cluster runs to make the topic.
func createCommand(name string, partitions int32, replicas int16, configs map[string]*string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kafka-topics.sh --bootstrap-server … --create --topic %s", name)
	if partitions > 0 {
		fmt.Fprintf(&b, " --partitions %d", partitions)
	}
	if replicas > 0 {
		fmt.Fprintf(&b, " --replication-factor %d", replicas)
	}
	for _, k := range slices.Sorted(maps.Keys(configs)) {
		fmt.Fprintf(&b, " --config %s=%s", k, *configs[k])
	}
	return b.String()
}

// CheckTopicName returns why name cannot be the name of a topic that users write to, or nil.
func CheckTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("a topic name must not be empty")
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a topic name", name)
	case len(name) > 249:
		return fmt.Errorf("a topic name has at most 249 characters, this has %d", len(name))
	case strings.HasPrefix(name, "__"):
		return fmt.Errorf("%q: names that begin with __ are kept for internal topics", name)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("%q has a character that topic names cannot have: %q at %d (letters, digits, dot, underscore and dash can)", name, name[i:i+1], i)
	}
	return nil
}
