package relay_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/relay/relaytest"
)

// A topic of ours that somebody has made otherwise holds the relay up, which says what to run, and goes on when that was done.
func TestRelay_InternalTopicsMadeByOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		topic   string
		configs map[string]string
		want    []string
		mended  map[string]string
	}{
		"positions with retention": {kafka.PositionsTopic, map[string]string{"cleanup.policy": "delete"},
			[]string{"[positions-not-kept]", "--add-config cleanup.policy=compact"}, map[string]string{"cleanup.policy": "compact"}},
		"positions compacted and deleted": {kafka.PositionsTopic, map[string]string{"cleanup.policy": "compact,delete"},
			[]string{"[positions-not-kept]"}, map[string]string{"cleanup.policy": "compact"}},
		"an index that is compacted": {kafka.IndexTopic, map[string]string{"cleanup.policy": "compact"},
			[]string{"[index-compacted]", "--add-config cleanup.policy=delete"}, map[string]string{"cleanup.policy": "delete"}},
		"more in sync than there are": {kafka.PositionsTopic, map[string]string{"cleanup.policy": "compact", "min.insync.replicas": "5"},
			[]string{"[not-enough-replicas]", "min.insync.replicas is 5"}, map[string]string{"min.insync.replicas": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			if _, err := kafka.EnsureTopic(t.Context(), b.Client, c.topic, 16, c.configs); err != nil {
				t.Fatal(err)
			}
			r, _ := b.Start()
			b.Wait("it says what is wrong", func() bool { return r.Status().State == relay.StateWaiting })
			for _, want := range c.want {
				if got := r.Status().Error; !strings.Contains(got, want) {
					t.Errorf("%q does not say %q", got, want)
				}
			}
			alter(t, b, c.topic, c.mended)
			b.DB.Commit([]row{order("1", "k")})
			b.Wait("it goes on", b.Drained)
		})
	}
}

func alter(t *testing.T, b *bench, topic string, configs map[string]string) {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for k, v := range configs {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = k, kmsg.StringPtr(v)
		res.Configs = append(res.Configs, c)
	}
	req.Resources = append(req.Resources, res)
	resp, err := req.RequestWith(t.Context(), b.Client)
	if err != nil || resp.Resources[0].ErrorCode != 0 {
		t.Fatalf("alter: %v, %+v", err, resp)
	}
}

// Two installations share a log: each with a prefix, neither sees the other's position or fences its relay.
func TestRelay_PrefixesDoNotMeet(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.Kafka.Prefix = "a."
	first, _ := b.Start()
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	other := relaytest.New(t, kafka.Options{Seeds: b.Options.Kafka.Seeds, Prefix: "b."})
	other.Start()
	other.DB.Commit([]row{order("2", "k")})
	other.Wait("the other's is in", other.Drained)
	b.DB.Commit([]row{order("3", "k")})
	b.Wait("the first still runs", func() bool { return first.Status().Events == 2 && first.Status().State == relay.StateRunning })
	if n := len(b.Read("a." + kafka.PositionsTopic)); n == 0 {
		t.Error("there is no topic a." + kafka.PositionsTopic)
	}
	if _, err := kafka.Topic(t.Context(), b.Client, kafka.PositionsTopic); err == nil {
		t.Error("a topic without a prefix was made")
	}
}
