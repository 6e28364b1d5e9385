package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// topic is one that is copied.
type topic struct {
	name       string // in the old log
	toName     string // in the new one: another where the prefixes of outrelay's own topics differ
	partitions int32
	fromID     [16]byte
	toID       [16]byte          // zero until the topic is there
	configs    map[string]string // that the topic itself has in the old log
	maxBytes   int               // max.message.bytes in force there
	compacted  bool
	isIndex    bool
	limits     map[int32]int64 // offsets below are copied in this attempt, by partition
}

func (t *topic) ids() ids { return ids{hexID(t.fromID), hexID(t.toID)} }

// part returns how far a partition of t has been copied.
func (m *migration) part(t *topic, p int32) *part {
	return m.progress.part(outrelay.TopicPartition{Topic: t.toName, Partition: p}, t.ids())
}

// planTopics finds what is to be copied and, where it has been created already, its other end.
func (m *migration) planTopics(ctx context.Context) error {
	list, err := m.from.adm.ListTopics(ctx)
	if err == nil {
		err = list.Error()
	}
	if err != nil {
		return kafka.Wrap(err, "topics of "+m.from.name)
	}
	own := []string{}
	for name := range list {
		if name == m.from.o.IndexTopic() {
			m.index = &topic{name: name, toName: m.to.o.IndexTopic(), isIndex: true}
			own = append(own, name)
		} else if !m.from.o.Internal(name) && !strings.HasPrefix(name, "__") && m.o.Select(name) {
			m.topics = append(m.topics, &topic{name: name, toName: name})
			own = append(own, name)
		}
	}
	slices.SortFunc(m.topics, func(a, b *topic) int { return strings.Compare(a.name, b.name) })
	configs, err := m.configs(ctx, m.from, own)
	if err != nil {
		return err
	}
	for _, t := range m.everyTopic() {
		d := list[t.name]
		t.partitions, t.fromID = int32(len(d.Partitions)), d.ID
		t.configs = explicit(configs[t.name])
		t.compacted = strings.Contains(value(configs[t.name], "cleanup.policy"), "compact")
		t.maxBytes, _ = strconv.Atoi(value(configs[t.name], "max.message.bytes")) // 0: not told
	}
	return m.planTargets(ctx)
}

// everyTopic is all, also ahead of the move.
func (m *migration) everyTopic() []*topic {
	if m.index == nil {
		return m.topics
	}
	return append(slices.Clone(m.topics), m.index)
}

func (m *migration) planTargets(ctx context.Context) error {
	names := []string{}
	for _, t := range m.everyTopic() {
		names = append(names, t.toName)
	}
	have, err := kafka.TopicIDs(ctx, m.to.cl, names...)
	if err != nil {
		return err
	}
	for _, t := range m.everyTopic() {
		t.toID = have[t.toName]
	}
	return nil
}

func (m *migration) configs(ctx context.Context, e *end, names []string) (map[string][]kadm.Config, error) {
	out := map[string][]kadm.Config{}
	if len(names) == 0 {
		return out, nil
	}
	rcs, err := e.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, kafka.Wrap(err, "configs of topics of "+e.name)
	}
	for _, rc := range rcs {
		if errors.Is(rc.Err, kerr.TopicAuthorizationFailed) {
			return nil, wrong("configs-unreadable", "topic "+rc.Name, "grant DESCRIBE_CONFIGS on the topics", "%s does not tell its configs: %v", e.name, rc.Err)
		}
		if rc.Err != nil {
			return nil, kafka.Wrap(rc.Err, "configs of topic "+rc.Name+" of "+e.name)
		}
		out[rc.Name] = rc.Configs
	}
	return out, nil
}

func value(cs []kadm.Config, name string) string {
	for _, c := range cs {
		if c.Key == name {
			return c.MaybeValue()
		}
	}
	return ""
}

func has(cs []kadm.Config, name string) bool {
	return slices.ContainsFunc(cs, func(c kadm.Config) bool { return c.Key == name })
}

// notCarried are configs that say something of the cluster and not of the topic: how many replicas there are, where they lie, what the
// cluster has beside its disks.
var notCarried = []string{"min.insync.replicas", "unclean.leader.election.enable", "leader.replication.throttled.replicas",
	"follower.replication.throttled.replicas", "preallocate", "index.interval.bytes", "message.format.version", "message.downconversion.enable"}

// explicit returns the configs that a topic itself has and that mean the same in another log.
func explicit(cs []kadm.Config) map[string]string {
	out := map[string]string{}
	for _, c := range cs {
		if c.Source != kmsg.ConfigSourceDynamicTopicConfig || c.Value == nil || slices.Contains(notCarried, c.Key) ||
			strings.HasPrefix(c.Key, "remote.") || strings.HasPrefix(c.Key, "local.retention.") {
			continue
		}
		out[c.Key] = *c.Value
	}
	return out
}

// open are the configs of a topic of the new log while it is filled: whatever the age of a record and the number of its bytes, it is taken as it is, and nothing
// is deleted or compacted.
func (t *topic) open() map[string]string {
	return map[string]string{
		"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "message.timestamp.type": "CreateTime", "compression.type": "producer",
		"max.message.bytes": strconv.Itoa(max(2*t.maxBytes, batchBytesMax+64<<10)),
	}
}

// openWhere are further ones, where the new log knows them: Kafka 3.6 and later.
var openWhere = map[string]string{"message.timestamp.before.max.ms": strconv.FormatInt(math.MaxInt64, 10), "message.timestamp.after.max.ms": strconv.FormatInt(math.MaxInt64, 10)}

// prepare makes a topic in the new log, or takes one that is there and empty, and opens it for the copy. How it stood is noted first.
func (m *migration) prepare(ctx context.Context, t *topic) error {
	if t.isIndex {
		if err := relay.EnsureInternalTopics(ctx, m.to.o, m.to.cl, m.o.Logger); err != nil {
			return err
		}
	}
	if err := m.noteMissing(ctx, t); err != nil {
		return err
	}
	st, err := m.to.o.EnsureTopic(ctx, m.to.cl, t.toName, t.partitions, t.open())
	if err != nil {
		return err
	}
	t.toID = st.ID
	if st.Partitions != t.partitions {
		return errPartitions(t, st.Partitions)
	}
	found, err := m.configs(ctx, m.to, []string{t.toName})
	if err != nil {
		return err
	}
	if m.noted(t) == nil {
		if err := m.note(ctx, &topicRecord{ToID: hexID(t.toID), Topic: t.toName, Configs: explicit(found[t.toName])}); err != nil {
			return err
		}
	}
	want := t.open()
	for k, v := range openWhere {
		if has(found[t.toName], k) {
			want[k] = v
		}
	}
	alter := []kadm.AlterConfig{}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if value(found[t.toName], k) != want[k] {
			alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: kadm.StringPtr(want[k])})
		}
	}
	if err := m.alter(ctx, t, alter, "while it is copied"); err != nil {
		return err
	}
	problem, err := m.stranger(ctx, t)
	return errors.Join(err, problem)
}

// noted returns how the topic stood before the copy, nil where that is not known.
func (m *migration) noted(t *topic) *topicRecord {
	was := m.progress.topics[t.toName]
	if was == nil || was.ToID != "" && was.ToID != hexID(t.toID) {
		return nil
	}
	return was
}

// noteMissing notes that a topic is the migration's own before it makes it, so that a crash in between does not let it be taken for somebody else's.
func (m *migration) noteMissing(ctx context.Context, t *topic) error {
	_, err := kafka.Topic(ctx, m.to.cl, t.toName)
	if !errors.Is(err, kafka.ErrNoTopic) {
		return err
	}
	if was := m.noted(t); was != nil && was.ToID == "" {
		return nil
	}
	return m.note(ctx, &topicRecord{Topic: t.toName, Created: true, Configs: map[string]string{}})
}

func (m *migration) note(ctx context.Context, r *topicRecord) error {
	r.header = header{V: migrationVersion, Kind: kindTopic, FromLog: m.from.id}
	_, err := m.w.commit(ctx, nil, func() any { return r })
	if err == nil {
		m.progress.topics[r.Topic] = r
	}
	return err
}

func errPartitions(t *topic, n int32) error {
	return wrong("partitions-differ", "topic "+t.toName, "delete it in the new log, if nothing in it is needed: the migration makes it anew; or give it as many",
		"it has %d partitions in the new log and %d in the old one: keys would not find their partition", n, t.partitions)
}

func (m *migration) alter(ctx context.Context, t *topic, alter []kadm.AlterConfig, when string) error {
	if len(alter) == 0 {
		return nil
	}
	rs, err := m.to.adm.AlterTopicConfigs(ctx, alter, t.toName)
	text := ""
	if err == nil && len(rs) == 1 {
		err, text = rs[0].Err, rs[0].ErrMessage
	}
	if err == nil {
		return nil
	}
	list := []string{}
	for _, a := range alter {
		if a.Op == kadm.SetConfig {
			list = append(list, a.Name+"="+*a.Value)
		}
	}
	if !errors.Is(kafka.Class(err), outrelay.ErrEnvironment) {
		return kafka.Wrap(err, "configs of topic "+t.toName)
	}
	return wrong("configs-refused", "topic "+t.toName, "grant ALTER_CONFIGS on the topics, or have it done: kafka-configs.sh --bootstrap-server … --alter --topic "+t.toName+" --add-config "+strings.Join(list, ","),
		"the new log does not let us set what it needs %s: %v %s", when, err, text)
}

// stranger returns the problem with a topic of the new log that holds a record which no chunk of this migration accounts for: offsets could not be translated, and
// what is there would be taken for an event of the old log. The index may hold that of other sources.
func (m *migration) stranger(ctx context.Context, t *topic) (problem, err error) {
	if t.isIndex {
		return nil, nil
	}
	stable, err := kafka.StableOffsets(ctx, m.to.cl, t.toName)
	if err != nil {
		return nil, err
	}
	for p, limit := range stable {
		from := m.part(t, p).end()
		if from >= limit {
			continue
		}
		var first *kgo.Record
		err := kafka.ReadCommitted(ctx, m.to.cl, t.toName, p, from, limit, func(r *kgo.Record) error {
			first = r
			return errStop
		})
		if err != nil && !errors.Is(err, errStop) {
			return nil, err
		}
		if first != nil {
			return wrong("not-ours", fmt.Sprintf("%s/%d", t.toName, p), "delete the topic in the new log if nothing in it is needed (`outrelay topics delete` there), and try again: its copy begins anew; or migrate into another log",
				"the new log holds a record at offset %d which the migration has not put there", first.Offset), nil
		}
	}
	return nil, nil
}

var errStop = errors.New("found")

// restoreConfigs gives the topics of the new log what they had in the old one, or what they had before the migration where it did not make them.
func (m *migration) restoreConfigs(ctx context.Context) error {
	m.o.Say("giving the topics of the new log their configs")
	for _, t := range m.all() {
		want := t.configs
		if was := m.noted(t); was != nil && !was.Created {
			want = was.Configs
		}
		found, err := m.configs(ctx, m.to, []string{t.toName})
		if err != nil {
			return err
		}
		var alter []kadm.AlterConfig
		for _, k := range slices.Sorted(maps.Keys(want)) {
			switch {
			case !has(found[t.toName], k):
				m.report.note("topic %s: the new log knows no config %s: %s=%s was left out", t.toName, k, k, want[k])
			case value(found[t.toName], k) != want[k]:
				alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: kadm.StringPtr(want[k])})
			}
		}
		for k := range explicit(found[t.toName]) {
			if _, ok := want[k]; !ok {
				alter = append(alter, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
			}
		}
		if err := m.alter(ctx, t, alter, "in the end"); err != nil {
			return err
		}
	}
	return nil
}
