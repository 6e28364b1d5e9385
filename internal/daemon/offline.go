package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
)

// ValidateHandlers checks what the sink's own parser can tell of the handlers without a database.
func ValidateHandlers(c *config.Config) (config.Problems, error) {
	var ps config.Problems
	names := make([]string, 0, len(c.Consumers))
	for n := range c.Consumers {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, name := range names {
		for typ, list := range c.Consumers[name].Handle {
			for _, st := range list {
				_, err := handler.Compile(dialect(&c.Consumers[name].Into), map[string][]handler.Statement{typ: {{SQL: st.SQL}}})
				if err == nil {
					continue
				}
				p := config.Problem{File: c.File(), Line: st.Pos.Line, Column: st.Pos.Column, Path: "consumers." + name + ".handle." + typ, Code: "bad-handler", Cause: err.Error()}
				var e *outrelay.Error
				if errors.As(err, &e) {
					p.Code, p.Cause, p.Fix = e.Code, e.Cause, e.Fix
					if e.Err != nil {
						p.Cause = strings.TrimPrefix(p.Cause+": "+e.Err.Error(), ": ")
					}
				}
				if p.Fix == "" {
					p.Fix = "docs/consumers.md says what a handler may use"
				}
				ps = append(ps, p)
			}
		}
	}
	sort.SliceStable(ps, func(i, j int) bool { return ps[i].Line < ps[j].Line })
	return ps, nil
}

// InitResult says what init did for a source.
type InitResult struct {
	Source   string `json:"source"`
	Place    string `json:"place"`    // of the position in the log: "start" when it was written now
	Position string `json:"position"` // as the log holds it
}

// Init creates what each named source (all, when none is named) needs, and writes its first position into the log.
func (d *Daemon) Init(ctx context.Context, ko kafka.Options, names []string) ([]InitResult, error) {
	if len(names) == 0 {
		for n := range d.c.Sources {
			names = append(names, n)
		}
		sort.Strings(names)
	}
	ko.Logger = d.log
	if err := d.learnLog(ctx, ko); err != nil {
		return nil, err
	}
	var done []InitResult
	for _, n := range names {
		src, err := d.NewSource(n)
		if err != nil {
			return done, err
		}
		o := relayOptions(n, d.c.Sources[n], src)
		o.Kafka = ko
		o.Logger = d.log
		r, err := relay.New(o)
		if err != nil {
			return done, err
		}
		pos, err := r.Init(ctx)
		if err != nil {
			return done, err
		}
		done = append(done, InitResult{Source: n, Place: pos.Place, Position: pos.Position.Token})
	}
	return done, nil
}

// learnLog asks for the log's id.
func (d *Daemon) learnLog(ctx context.Context, ko kafka.Options) error {
	cl, err := kafka.NewClient(ko)
	if err != nil {
		return err
	}
	defer cl.Close()
	id, err := kafka.ClusterID(ctx, cl)
	d.set(func() { d.logID = id })
	return err
}

// GroupOffsets is what a group has applied beside what its topics hold.
type GroupOffsets struct {
	Group      string            `json:"group"`
	Lag        int64             `json:"lag"` // in offsets, over partitions without a problem
	Partitions []PartitionOffset `json:"partitions"`
}

// Problem returns the first problem of a partition, if any.
func (g GroupOffsets) Problem() string {
	for _, p := range g.Partitions {
		if p.Problem != "" {
			return p.Problem
		}
	}
	return ""
}

// PartitionOffset is one partition of GroupOffsets.
type PartitionOffset struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Next      int64     `json:"next_offset"` // -1: nothing applied yet
	LogStart  int64     `json:"log_start_offset"`
	LogEnd    int64     `json:"log_end_offset"` // last stable offset
	Lag       int64     `json:"lag"`
	Epoch     int64     `json:"epoch"`
	Owner     string    `json:"owner,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	Problem   string    `json:"problem,omitempty"`

	id sinks.Partition
}

// view is a group's truth and its log, opened together.
type view struct {
	cl    *kgo.Client
	sink  sinks.OffsetStore
	logID string
	ids   map[string][16]byte
}

func (v *view) close() {
	v.cl.Close()
	_ = v.sink.Close() // nothing was written through it that is not committed
}

func (d *Daemon) openView(ctx context.Context, ko kafka.Options, group string) (*view, error) {
	open, err := d.newSink(group, "outrelay-cli", true)
	if err != nil {
		return nil, err
	}
	cl, err := kafka.NewClient(CLI(ko, "outrelay-cli"))
	if err != nil {
		return nil, err
	}
	v := &view{cl: cl}
	if v.logID, err = kafka.ClusterID(ctx, cl); err == nil {
		v.ids, err = kafka.TopicIDs(ctx, cl, d.c.Consumers[group].Topics...)
	}
	if err == nil {
		v.sink, err = open(ctx)
	}
	if err != nil {
		cl.Close()
		return nil, err
	}
	return v, nil
}

// GroupOffsets reads a group's rows in the sink and compares them with the log.
func (d *Daemon) GroupOffsets(ctx context.Context, ko kafka.Options, group string) (GroupOffsets, error) {
	v, err := d.openView(ctx, ko, group)
	if err != nil {
		return GroupOffsets{}, err
	}
	defer v.close()
	return d.groupOffsets(ctx, v, group)
}

func (d *Daemon) groupOffsets(ctx context.Context, v *view, group string) (GroupOffsets, error) {
	g := GroupOffsets{Group: group, Partitions: []PartitionOffset{}}
	rows, err := v.sink.Offsets(ctx, group)
	if err != nil {
		return g, err
	}
	found := map[outrelay.TopicPartition]bool{}
	add := func(p PartitionOffset) { g.Partitions = append(g.Partitions, p) }
	for _, topic := range d.c.Consumers[group].Topics {
		id, exists := v.ids[topic]
		if !exists {
			continue
		}
		starts, err := kafka.StartOffsets(ctx, v.cl, topic)
		if err != nil {
			return g, err
		}
		ends, err := kafka.StableOffsets(ctx, v.cl, topic)
		if err != nil {
			return g, err
		}
		for _, r := range rows {
			if r.Partition.Topic != topic {
				continue
			}
			p := rowOf(r)
			end, there := ends[p.Partition]
			switch {
			case r.Partition.LogID != v.logID:
				p.Problem = "the row belongs to log " + r.Partition.LogID + ", this is " + v.logID
			case r.Partition.TopicID != id:
				p.Problem = "the topic was deleted and created again"
			case !there:
				p.Problem = "the topic has no such partition"
			default:
				found[outrelay.TopicPartition{Topic: topic, Partition: p.Partition}] = true
				p.compare(starts[p.Partition], end)
				g.Lag += p.Lag
			}
			add(p)
		}
		for n, end := range ends {
			if !found[outrelay.TopicPartition{Topic: topic, Partition: n}] {
				add(PartitionOffset{Topic: topic, Partition: n, Next: -1, LogStart: starts[n], LogEnd: end, Lag: end - starts[n],
					id: sinks.Partition{LogID: v.logID, TopicID: id, Topic: topic, Partition: n}})
				g.Lag += end - starts[n]
			}
		}
	}
	for _, r := range rows {
		if _, exists := v.ids[r.Partition.Topic]; !exists {
			p := rowOf(r)
			p.Problem = "the log has no such topic"
			add(p)
		}
	}
	sort.Slice(g.Partitions, func(i, j int) bool {
		a, b := g.Partitions[i], g.Partitions[j]
		return a.Topic < b.Topic || (a.Topic == b.Topic && a.Partition < b.Partition)
	})
	return g, nil
}

func rowOf(r sinks.OffsetRow) PartitionOffset {
	return PartitionOffset{Topic: r.Partition.Topic, Partition: r.Partition.Partition, Next: r.Next, Epoch: r.Epoch, Owner: r.Owner, UpdatedAt: r.UpdatedAt,
		LogStart: -1, LogEnd: -1, id: r.Partition}
}

func (p *PartitionOffset) compare(start, end int64) {
	p.LogStart, p.LogEnd = start, end
	switch {
	case p.Next > end:
		p.Problem = fmt.Sprintf("next offset %d is beyond the log's end %d", p.Next, end)
	case p.Next >= 0 && p.Next < start:
		p.Problem = fmt.Sprintf("records [%d, %d) are gone: the log starts at %d", p.Next, start, start)
	default:
		p.Lag = end - max(p.Next, start)
	}
}

// ResetTarget says where a group should go on. The zero target is the earliest record.
type ResetTarget struct {
	Latest    bool
	Time      time.Time
	Exact     bool // Offset of Topic and Partition alone
	Topic     string
	Partition int32
	Offset    int64
}

// ResetStep is what a reset does to one partition.
type ResetStep struct {
	Partition sinks.Partition `json:"partition"`
	From      int64           `json:"from"`
	To        int64           `json:"to"`
	Remove    bool            `json:"remove,omitempty"` // the row belongs to a log or topic that is no more
	Reason    string          `json:"reason,omitempty"`
}

// PlanReset says what a reset of a group would do. topics narrows it; empty means all.
func (d *Daemon) PlanReset(ctx context.Context, ko kafka.Options, group string, topics []string, t ResetTarget) ([]ResetStep, error) {
	v, err := d.openView(ctx, ko, group)
	if err != nil {
		return nil, err
	}
	defer v.close()
	g, err := d.groupOffsets(ctx, v, group)
	if err != nil {
		return nil, err
	}
	var steps []ResetStep
	for _, p := range g.Partitions {
		if len(topics) > 0 && !slices.Contains(topics, p.Topic) {
			continue
		}
		step := ResetStep{Partition: p.id, From: p.Next}
		if p.LogEnd < 0 { // another log, or a topic or partition that is no more
			step.Remove, step.To, step.Reason = true, -1, p.Problem
			steps = append(steps, step)
			continue
		}
		if t.Exact && (p.Topic != t.Topic || p.Partition != t.Partition) {
			continue
		}
		if step.To, err = target(ctx, v.cl, p, t); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func target(ctx context.Context, cl *kgo.Client, p PartitionOffset, t ResetTarget) (int64, error) {
	switch {
	case t.Exact:
		if t.Offset < p.LogStart || t.Offset > p.LogEnd {
			return 0, fmt.Errorf("%s/%d holds offsets [%d, %d), not %d: %w", p.Topic, p.Partition, p.LogStart, p.LogEnd, t.Offset, outrelay.ErrConfig)
		}
		return t.Offset, nil
	case t.Latest:
		return p.LogEnd, nil
	case t.Time.IsZero():
		return p.LogStart, nil
	}
	l, err := kadm.NewClient(cl).ListOffsetsAfterMilli(ctx, t.Time.UnixMilli(), p.Topic)
	if err != nil {
		return 0, err
	}
	o, ok := l.Lookup(p.Topic, p.Partition)
	if !ok || o.Err != nil {
		return 0, fmt.Errorf("%s/%d: offset at %s: %w", p.Topic, p.Partition, t.Time.Format(time.RFC3339), o.Err)
	}
	return min(o.Offset, p.LogEnd), nil
}

// Reset does what a plan says.
func (d *Daemon) Reset(ctx context.Context, group string, steps []ResetStep) error {
	open, err := d.newSink(group, "outrelay-cli", true)
	if err != nil {
		return err
	}
	s, err := open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, p := range steps {
		if err := s.Reset(ctx, group, p.Partition, p.To); err != nil {
			return fmt.Errorf("%s/%d: %w", p.Partition.Topic, p.Partition.Partition, err)
		}
	}
	return nil
}
