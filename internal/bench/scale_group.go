package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/internal/kafka"
)

// rebalanceMax is how long a group may take to settle before the run is given up.
const rebalanceMax = 60 * time.Second

// rebalance is how long a group took until all of its partitions were owned again.
type rebalance struct {
	protocol, what string
	took           time.Duration
}

// rebalance lets groups of both protocols gain and lose a member.
func (s *scaleRun) rebalance(ctx context.Context) error {
	if err := createTopic(ctx, s.child.kafka, scaleGroupTopic, 2*scaleMembers); err != nil {
		return err
	}
	for _, next := range []bool{false, true} {
		if err := setHeartbeat(ctx, s.child.kafka, groupName(next)); err != nil {
			return fmt.Errorf("set the group's heartbeat interval: %w", err)
		}
		g := &memberGroup{seed: s.child.kafka, next: next, owned: map[*kgo.Client]int{}, moved: make(chan struct{}, 1)}
		if err := s.rebalanceGroup(ctx, g); err != nil {
			return fmt.Errorf("group protocol %s: %w", g.protocol(), err)
		}
	}
	return nil
}

func (s *scaleRun) rebalanceGroup(ctx context.Context, g *memberGroup) (err error) {
	defer g.close()
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"100 members join an empty group", func() error { return g.join(ctx, scaleMembers) }},
		{"the last one joined leaves", func() error { g.leave(); return nil }},
		{"one joins", func() error { return g.join(ctx, 1) }},
	} {
		at := time.Now()
		if err := step.run(); err != nil {
			return err
		}
		if err := g.settled(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		took := time.Since(at)
		s.rebalances = append(s.rebalances, rebalance{g.protocol(), step.what, took})
		s.e.say("group protocol %s: %s: settled in %s", g.protocol(), step.what, took.Round(time.Millisecond))
		if !pause(ctx, 2*scaleHeartbeat) {
			return ctx.Err()
		}
	}
	return nil
}

// memberGroup is the members of a group, and how many partitions each of them owns.
type memberGroup struct {
	seed string
	next bool // KIP-848

	members []*kgo.Client
	moved   chan struct{} // cap 1

	mu    sync.Mutex
	owned map[*kgo.Client]int
}

func (g *memberGroup) protocol() string {
	if g.next {
		return "consumer (KIP-848)"
	}
	return "classic"
}

func groupName(next bool) string {
	if next {
		return "scale.consumer"
	}
	return "scale.classic"
}

// setHeartbeat makes the members of a group of the new protocol, whose interval the server says, report as often as the others.
func setHeartbeat(ctx context.Context, seed, group string) error {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{seed}})
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	res, config := kmsg.NewIncrementalAlterConfigsRequestResource(), kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "consumer.heartbeat.interval.ms", kmsg.StringPtr(strconv.FormatInt(scaleHeartbeat.Milliseconds(), 10))
	res.ResourceType, res.ResourceName, res.Configs = kmsg.ConfigResourceTypeGroupConfig, group, append(res.Configs, config)
	req.Resources = append(req.Resources, res)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Resources[0].ErrorCode)
}

func (g *memberGroup) join(ctx context.Context, n int) error {
	if g.next {
		ctx = context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true) //nolint:staticcheck // the client's own key
	}
	for range n {
		cl, err := kgo.NewClient(kgo.WithContext(ctx), kgo.SeedBrokers(g.seed), kgo.ConsumerGroup(groupName(g.next)),
			kgo.ConsumeTopics(scaleGroupTopic), kgo.HeartbeatInterval(scaleHeartbeat), kgo.Balancers(kgo.RangeBalancer()), kgo.DisableClientMetrics(),
			kgo.OnPartitionsAssigned(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
				g.move(cl, len(parts[scaleGroupTopic]))
			}),
			kgo.OnPartitionsRevoked(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
				g.move(cl, -len(parts[scaleGroupTopic]))
			}),
			kgo.OnPartitionsLost(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
				g.move(cl, -len(parts[scaleGroupTopic]))
			}))
		if err != nil {
			return err
		}
		g.members = append(g.members, cl)
	}
	return nil
}

// leave closes the member that joined last.
func (g *memberGroup) leave() {
	cl := g.members[len(g.members)-1]
	g.members = g.members[:len(g.members)-1]
	cl.Close()
}

func (g *memberGroup) close() {
	var wg sync.WaitGroup
	for _, cl := range g.members {
		wg.Go(cl.Close)
	}
	wg.Wait()
}

func (g *memberGroup) move(cl *kgo.Client, by int) {
	g.mu.Lock()
	g.owned[cl] += by
	g.mu.Unlock()
	select {
	case g.moved <- struct{}{}:
	default:
	}
}

// settled waits until the members own all partitions, each at most one more than any other.
func (g *memberGroup) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rebalanceMax)
	defer cancel()
	for {
		all, least, most := g.count()
		if all == 2*scaleMembers && most-least <= 1 {
			return nil
		}
		select {
		case <-g.moved:
		case <-ctx.Done():
			return fmt.Errorf("%d members own %d of %d partitions, between %d and %d each: %w", len(g.members), all, 2*scaleMembers, least, most, ctx.Err())
		}
	}
}

func (g *memberGroup) count() (all, least, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	least = 2 * scaleMembers
	for _, cl := range g.members {
		n := g.owned[cl]
		all, least, most = all+n, min(least, n), max(most, n)
	}
	return all, least, most
}
