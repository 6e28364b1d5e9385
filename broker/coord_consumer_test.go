package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

// quickBeats asks members of consumer groups to be heard of every 100 ms, so that rebalances take less than a second.
func quickBeats(o *broker.Options) { o.ConsumerGroupHeartbeat = 100 * time.Millisecond }

// newMember starts a member that uses the consumer protocol (KIP-848) if the broker serves it.
func newMember(t *testing.T, n *brokertest.Node, group string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	return newClient(t, n, append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ServerSideBalancer(), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}, opts...)...)
}

// describeConsumer asks for a consumer group; nil when there is none, or no answer.
func describeConsumer(ctx context.Context, cl *kgo.Client, group string) *kmsg.ConsumerGroupDescribeResponseGroup {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{group}
	r, err := req.RequestWith(ctx, cl)
	if err != nil || len(r.Groups) != 1 || r.Groups[0].ErrorCode != 0 {
		return nil
	}
	return &r.Groups[0]
}

// awaitConsumers waits until the group is stable with so many members, which have all its partitions between them, each at most one more than
// any other.
func awaitConsumers(t *testing.T, cl *kgo.Client, group string, members, partitions int) *kmsg.ConsumerGroupDescribeResponseGroup {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last string
	for ctx.Err() == nil {
		if g := describeConsumer(ctx, cl, group); g != nil {
			var counts []int
			all := map[string]bool{}
			for _, m := range g.Members {
				k := 0
				for _, tp := range m.Assignment.TopicPartitions {
					for _, p := range tp.Partitions {
						all[fmt.Sprint(tp.Topic, p)] = true
						k++
					}
				}
				counts = append(counts, k)
			}
			slices.Sort(counts)
			last = fmt.Sprintf("%s, epoch %d, partitions %v", g.State, g.Epoch, counts)
			if g.State == "Stable" && len(counts) == members && len(all) == partitions && counts[members-1]-counts[0] <= 1 {
				return g
			}
		}
		wait(ctx, 20*time.Millisecond)
	}
	t.Fatalf("group %s: %s", group, last)
	return nil
}

// Members of the consumer protocol share the partitions, those of one that leaves go to the others, new partitions and topics are noticed, and
// the group lives on over a power cut with its members and epochs.
func TestConsumerGroup_members(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, quickBeats)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 1)
	adm := kadm.NewClient(cl)
	for name, b := range map[string]kgo.GroupBalancer{"uniform": kgo.CooperativeStickyBalancer(), "range": kgo.RangeBalancer()} {
		t.Run(name, func(t *testing.T) {
			var members []*kgo.Client
			for range 3 {
				m := newMember(t, n, name, kgo.Balancers(b), kgo.ConsumeTopics("t"))
				members = append(members, m)
				go poll(t.Context(), m)
			}
			g := awaitConsumers(t, cl, name, 3, 16)
			if g.AssignorName != name {
				t.Errorf("assignor %q", g.AssignorName)
			}
			members[0].Close()
			before := awaitConsumers(t, cl, name, 2, 16)
			n.CrashRestart()
			after := awaitConsumers(t, cl, name, 2, 16)
			if after.Epoch < before.Epoch {
				t.Errorf("epoch %d after the power cut, %d before", after.Epoch, before.Epoch)
			}
			for _, m := range after.Members {
				if !slices.ContainsFunc(before.Members, func(o kmsg.ConsumerGroupDescribeResponseGroupMember) bool { return o.MemberID == m.MemberID }) {
					t.Errorf("member %s is new", m.MemberID)
				}
			}
			ls, err := adm.ListGroupsByType(t.Context(), []string{"consumer"})
			if err != nil || ls[name].State != "Stable" {
				t.Errorf("listed: %v %+v", err, ls)
			}
			members[1].Close()
			members[2].Close()
			if g := describeConsumer(t.Context(), cl, name); g == nil || g.State != "Empty" {
				t.Errorf("after all have left: %+v", g)
			}
		})
	}
}

// counter counts records as a group sees them.
type counter struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counter) records() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// consume polls m, and commits what it got before it lets partitions go. stop ends that and closes m; nothing is left uncommitted.
func (c *counter) consume(t *testing.T, m *kgo.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fs := m.PollRecords(ctx, 50)
			c.mu.Lock()
			fs.EachRecord(func(r *kgo.Record) { c.seen[fmt.Sprint(r.Partition, "@", r.Offset)]++ })
			c.mu.Unlock()
			if err := m.CommitUncommittedOffsets(t.Context()); err != nil && t.Context().Err() == nil {
				t.Errorf("commit: %v", err)
			}
			m.AllowRebalance()
		}
	}()
	return func() {
		cancel()
		<-done
		m.CloseAllowingRebalance()
	}
}

// await waits for so many records, each of which must have come once.
func (c *counter) await(t *testing.T, want int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for c.records() < want && time.Now().Before(deadline) {
		wait(t.Context(), 10*time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) != want {
		t.Errorf("%d records of %d came", len(c.seen), want)
	}
	for r, k := range c.seen {
		if k != 1 {
			t.Errorf("record %s came %d times", r, k)
		}
	}
}

// Every record comes to the group once while members come and go: what one commits, the next one goes on from.
func TestConsumerGroup_consumesOnceWhileMembersChange(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, quickBeats)
	cl := newClient(t, n, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 1500)
	seen := &counter{seen: map[string]int{}}
	start := func() (stop func()) {
		return seen.consume(t, newMember(t, n, "g", kgo.ConsumeTopics("t"), kgo.BlockRebalanceOnPoll(), kgo.DisableAutoCommit()))
	}
	first, second := start(), start()
	awaitConsumers(t, cl, "g", 2, 16)
	produceN(t, cl, "t", 1500)
	third := start()
	awaitConsumers(t, cl, "g", 3, 16)
	produceN(t, cl, "t", 1500)
	first()
	awaitConsumers(t, cl, "g", 2, 16)
	seen.await(t, 4500)
	second()
	third()
}

// A group is moved to the consumer protocol and back while it consumes, its members replaced one by one (KIP-848, online migration).
func TestConsumerGroup_migratesOnline(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]kgo.GroupBalancer{"cooperative": kgo.CooperativeStickyBalancer(), "eager": kgo.RangeBalancer()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := brokertest.New(t, quickBeats)
			cl := newClient(t, n, kgo.AllowAutoTopicCreation())
			adm := kadm.NewClient(cl)
			seen := &counter{seen: map[string]int{}}
			start := func(opts ...kgo.Opt) (stop func()) {
				return seen.consume(t, newClient(t, n, append([]kgo.Opt{
					kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.Balancers(b), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
					kgo.HeartbeatInterval(50 * time.Millisecond), kgo.BlockRebalanceOnPoll(), kgo.DisableAutoCommit(),
				}, opts...)...))
			}
			produced := 0
			produce := func() {
				produceN(t, cl, "t", 300)
				produced += 300
			}
			produce()
			old := []func(){start(), start()}
			awaitShares(t, adm, "g", 2)
			produce()
			next := []func(){start(kgo.ServerSideBalancer())}
			awaitConsumers(t, cl, "g", 3, 16)
			produce()
			old[0]()
			next = append(next, start(kgo.ServerSideBalancer()))
			awaitConsumers(t, cl, "g", 3, 16)
			produce()
			old[1]()
			awaitConsumers(t, cl, "g", 2, 16)
			seen.await(t, produced)

			old = []func(){start()}
			awaitConsumers(t, cl, "g", 3, 16)
			next[0]()
			old = append(old, start())
			awaitConsumers(t, cl, "g", 3, 16)
			produce()
			next[1]()
			awaitShares(t, adm, "g", 2)
			produce()
			seen.await(t, produced)
			old[0]()
			old[1]()
		})
	}
}
