package cluster_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// pumped proposes to a node without goroutines and applies at once.
type pumped struct{ *replica.Node }

func (p pumped) Propose(g replica.GroupID, payload []byte, done func(any, error)) {
	p.Node.Propose(g, payload, done)
	p.Pump()
}

func open(t *testing.T, f vfs.FS) (*cluster.Machine, *cluster.Client, *replica.Node) {
	t.Helper()
	n, err := replica.Open(replica.Options{FS: f, Dir: "data", NodeID: 1, Manual: true})
	must(t, err)
	m := cluster.New()
	must(t, n.AddGroup(replica.MetadataGroup, m, replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}))
	return m, cluster.NewClient(pumped{n}, m).WithClock(clock.NewFake(time.UnixMilli(77))), n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, what string, err error, k *kerr.Error) {
	t.Helper()
	var got *kerr.Error
	if !errors.As(err, &got) || got.Code != k.Code {
		t.Fatalf("%s: %v, want %s", what, err, k.Message)
	}
}

func TestClient_TopicsLiveAndNeverReuseIDs(t *testing.T) {
	t.Parallel()
	ctx, mem := context.Background(), vfs.NewMem()
	m, c, n := open(t, mem)
	must(t, c.Bootstrap(ctx, "cluster-a"))
	must(t, c.Bootstrap(ctx, "cluster-b"))
	if got := m.State().ClusterID; got != "cluster-a" {
		t.Fatalf("cluster id %q after a second bootstrap", got)
	}
	a, err := c.CreateTopic(ctx, "orders", 3, map[string]string{"retention.ms": "1000"}, 1)
	must(t, err)
	if len(a.Partitions) != 3 || a.ID == (cluster.TopicID{}) || a.CreatedMs != 77 || a.Internal {
		t.Fatalf("topic %+v", a)
	}
	again, err := c.CreateTopic(ctx, "orders", 1, nil, 1)
	wants(t, "create twice", err, kerr.TopicAlreadyExists)
	if again != a {
		t.Fatalf("the refusal came with %v, want the topic that exists", again)
	}
	grown, err := c.CreatePartitions(ctx, "orders", 5)
	must(t, err)
	if len(a.Partitions) != 3 || len(grown.Partitions) != 5 {
		t.Fatalf("old %d, new %d partitions: a state that was handed out has changed", len(a.Partitions), len(grown.Partitions))
	}
	_, err = c.CreatePartitions(ctx, "orders", 5)
	wants(t, "grow to the same", err, kerr.InvalidPartitions)
	gone, err := c.DeleteTopic(ctx, "orders")
	must(t, err)
	_, err = c.DeleteTopic(ctx, "orders")
	wants(t, "delete twice", err, kerr.UnknownTopicOrPartition)
	b, err := c.CreateTopic(ctx, "orders", 2, nil, 1)
	must(t, err)
	if b.ID == gone.ID {
		t.Fatal("a topic made again has its predecessor's id")
	}
	used := map[replica.GroupID]bool{0: true}
	replicas := map[uint64]bool{}
	for _, p := range slices.Concat(gone.Partitions, b.Partitions) {
		if r := p.Replicas[0]; used[p.Group] || replicas[r.ReplicaID] {
			t.Fatalf("group %d or replica %d was used before", p.Group, r.ReplicaID)
		}
		used[p.Group], replicas[p.Replicas[0].ReplicaID] = true, true
	}
	before := m.State()
	must(t, n.Close())
	m, c, n = open(t, mem)
	after := m.State()
	if !slices.Equal(before.TopicNames(), after.TopicNames()) || after.ClusterID != before.ClusterID || len(after.Deleted) != 1 || after.Version != before.Version {
		t.Fatalf("after a restart %+v, want %+v", after, before)
	}
	d, err := c.CreateTopic(ctx, "later", 1, nil, 1)
	must(t, err)
	if used[d.Partitions[0].Group] {
		t.Fatalf("group %d was used before the restart", d.Partitions[0].Group)
	}
	must(t, n.Close())
}

func TestClient_Refusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	_, c, _ := open(t, vfs.NewMem())
	_, err := c.CreateTopic(ctx, "t", 1, nil, 1)
	must(t, err)
	for _, tc := range []struct {
		name string
		do   func() error
		want *kerr.Error
	}{
		{"name with a slash", func() error { _, err := c.CreateTopic(ctx, "../x", 1, nil, 1); return err }, kerr.InvalidTopicException},
		{"name of dots", func() error { _, err := c.CreateTopic(ctx, "..", 1, nil, 1); return err }, kerr.InvalidTopicException},
		{"long name", func() error { _, err := c.CreateTopic(ctx, strings.Repeat("x", 250), 1, nil, 1); return err }, kerr.InvalidTopicException},
		{"no partitions", func() error { _, err := c.CreateTopic(ctx, "u", 0, nil, 1); return err }, kerr.InvalidPartitions},
		{"a million partitions", func() error { _, err := c.CreateTopic(ctx, "u", 1e6, nil, 1); return err }, kerr.InvalidPartitions},
		{"no replicas", func() error { _, err := c.CreateTopic(ctx, "u", 1, nil); return err }, kerr.InvalidReplicationFactor},
		{"unknown config", func() error { _, err := c.CreateTopic(ctx, "u", 1, map[string]string{"x": "1"}, 1); return err }, kerr.InvalidConfig},
		{"bad config", func() error { return c.SetConfigs(ctx, "t", map[string]string{"retention.ms": "soon"}) }, kerr.InvalidConfig},
		{"unset unknown config", func() error { return c.AlterConfigs(ctx, "t", nil, []string{"x"}) }, kerr.InvalidConfig},
		{"configs of no topic", func() error { return c.SetConfigs(ctx, "u", nil) }, kerr.UnknownTopicOrPartition},
		{"partitions of no topic", func() error { _, err := c.CreatePartitions(ctx, "u", 2); return err }, kerr.UnknownTopicOrPartition},
		{"no producer ids", func() error { _, err := c.AllocateProducerIDs(ctx, 0); return err }, kerr.InvalidRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wants(t, tc.name, tc.do(), tc.want)
		})
	}
}

func TestClient_ConfigsAndChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m, c, _ := open(t, vfs.NewMem())
	_, err := c.CreateTopic(ctx, "t", 1, map[string]string{"retention.ms": "5", "segment.ms": "6"}, 1)
	must(t, err)
	changes := 0
	m.OnChange(func(*cluster.State) { changes++ })
	must(t, c.AlterConfigs(ctx, "t", map[string]string{"cleanup.policy": "compact"}, []string{"segment.ms"}))
	must(t, c.AlterConfigs(ctx, "t", map[string]string{"cleanup.policy": "compact"}, nil))
	if want := map[string]string{"retention.ms": "5", "cleanup.policy": "compact"}; !maps.Equal(m.State().Topics["t"].Configs, want) {
		t.Fatalf("configs %v, want %v", m.State().Topics["t"].Configs, want)
	}
	if m.State().ByID[m.State().Topics["t"].ID] != m.State().Topics["t"] {
		t.Fatal("by id and by name differ")
	}
	must(t, c.SetConfigs(ctx, "t", map[string]string{"segment.ms": "9"}))
	if want := map[string]string{"segment.ms": "9"}; !maps.Equal(m.State().Topics["t"].Configs, want) {
		t.Fatalf("configs %v, want %v", m.State().Topics["t"].Configs, want)
	}
	node := cluster.Node{ID: 1, Incarnation: [16]byte{1}, Endpoints: map[string]string{"client": "h:1"}}
	must(t, c.RegisterNode(ctx, node))
	must(t, c.RegisterNode(ctx, node))
	if changes != 3 {
		t.Fatalf("%d changes were told, want 3: what changes nothing is not told", changes)
	}
	first, err := c.AllocateProducerIDs(ctx, 1000)
	must(t, err)
	second, err := c.AllocateProducerIDs(ctx, 10)
	must(t, err)
	if second != first+1000 {
		t.Fatalf("blocks at %d and %d overlap or leave a gap", first, second)
	}
}

func TestSettings_DefaultsAndOverrides(t *testing.T) {
	t.Parallel()
	s := cluster.SettingsOf(nil, nil)
	if !s.Replica.Delete || s.Replica.Compact || s.Replica.RetentionMs != 7*24*3600*1000 || s.MaxMessageBytes != 1_048_588 {
		t.Fatalf("defaults %+v", s)
	}
	s = cluster.SettingsOf(map[string]string{"cleanup.policy": "compact, delete", "message.timestamp.type": "LogAppendTime"}, map[string]string{"segment.bytes": "65536"})
	if !s.Replica.Delete || !s.Replica.Compact || !s.Replica.LogAppendTime || s.Replica.SegmentBytes != 65536 {
		t.Fatalf("settings %+v", s)
	}
	if s = cluster.SettingsOf(map[string]string{"retention.ms": "what a newer version knows"}, nil); s.Replica.RetentionMs != 7*24*3600*1000 {
		t.Fatalf("retention %d of a value that is not understood", s.Replica.RetentionMs)
	}
	for _, d := range cluster.ConfigDefs() {
		if err := d.Check(d.Default); err != nil {
			t.Errorf("default of %s: %v", d.Name, err)
		}
		if d.Doc == "" {
			t.Errorf("%s has no documentation", d.Name)
		}
	}
}

func TestConfigDef_Check(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, value string
		ok          bool
	}{
		{"cleanup.policy", "compact", true}, {"cleanup.policy", "delete,compact", true}, {"cleanup.policy", "", false}, {"cleanup.policy", "purge", false},
		{"retention.ms", "-1", true}, {"retention.ms", "-2", false}, {"retention.ms", "9223372036854775807", true}, {"retention.ms", "9223372036854775808", false},
		{"segment.bytes", "16384", true}, {"segment.bytes", "100", false}, {"max.message.bytes", "1e3", false},
		{"min.cleanable.dirty.ratio", "0.1", true}, {"min.cleanable.dirty.ratio", "NaN", false}, {"min.cleanable.dirty.ratio", "1.1", false},
		{"min.insync.replicas", "1", true}, {"min.insync.replicas", "2", false}, {"compression.type", "gzip", true}, {"compression.type", "uncompressed", true}, {"compression.type", "none", false},
		{"compression.zstd.level", "23", false}, {"compression.lz4.level", "9", true}, {"segment.bytes", "2147483647", true}, {"message.timestamp.after.max.ms", "-1", false},
		{"message.timestamp.type", "CreateTime", true}, {"message.timestamp.type", "createtime", false}, {"flush.ms", "7", true},
	} {
		err := cluster.ValidateConfigs(map[string]string{tc.name: tc.value})
		if (err == nil) != tc.ok {
			t.Errorf("%s=%q: %v, want ok %v", tc.name, tc.value, err, tc.ok)
		}
		if err != nil && !errors.Is(err, kerr.InvalidConfig) {
			t.Errorf("%s=%q: %v is no INVALID_CONFIG", tc.name, tc.value, err)
		}
	}
}

// TestValidateConfigs_togetherMakeSense: a minimum above its maximum is refused, also where the two come one after the other.
func TestValidateConfigs_togetherMakeSense(t *testing.T) {
	t.Parallel()
	if err := cluster.ValidateConfigs(map[string]string{"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "10"}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.ValidateConfigs(map[string]string{"min.compaction.lag.ms": "11", "max.compaction.lag.ms": "10"}); !errors.Is(err, kerr.InvalidConfig) {
		t.Fatal(err)
	}
}

// FuzzClusterCommand: whatever an entry of group 0 holds, applying it changes the state or says why not, and the state survives a checkpoint.
func FuzzClusterCommand(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"op":"create_topic","name":"t","id":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"partitions":2,"nodes":[1]}`,
		`{"v":1,"op":"create_partitions","name":"t","partitions":3,"nodes":[1]}`, `{"v":1,"op":"delete_topic","name":"t"}`,
		`{"v":1,"op":"alter_configs","name":"t","configs":{"a":"b"},"unset":["c"]}`, `{"v":1,"op":"allocate_producer_ids","count":5}`,
		`{"v":1,"op":"set_features","features":{"transaction.version":1}}`,
		`{"v":1,"op":"register_node","node":{"id":1}}`, `{"v":1,"op":"bootstrap","cluster_id":"c"}`, `{"v":2}`, `{"v":1,"op":"x"}`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := cluster.New()
		seed := []byte(`{"v":1,"op":"create_topic","name":"t","id":[9,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"partitions":1,"nodes":[1]}`)
		m.Apply(replica.Entry{Index: 2, Term: 2, Payload: seed})
		m.Apply(replica.Entry{Index: 3, Term: 2, Payload: b})
		blob, err := m.Checkpoint()()
		if err != nil {
			t.Fatal(err)
		}
		again := cluster.New()
		if err := again.Restore(blob); err != nil {
			t.Fatalf("restore of %s: %v", blob, err)
		}
		other, err := again.Checkpoint()()
		if err != nil || string(other) != string(blob) {
			t.Fatalf("a checkpoint of %s restored to %s, %v", blob, other, err)
		}
		_ = cluster.New().Restore(b)
	})
}
