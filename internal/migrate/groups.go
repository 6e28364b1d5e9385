package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/sinks"
)

// group is a managed group and its open sink.
type group struct {
	name  string
	store sinks.Relocator
	rows  []sinks.OffsetRow
}

func (g *group) close() { _ = g.store.Close() } // what was written through it is committed

func (m *migration) planGroups(ctx context.Context) error {
	for _, g := range m.o.Groups {
		store, err := g.Open(ctx)
		if err != nil {
			return fmt.Errorf("sink of group %s: %w", g.Name, err)
		}
		gr := &group{name: g.Name, store: store}
		m.groups = append(m.groups, gr)
		if gr.rows, err = store.Offsets(ctx, g.Name); err != nil {
			return err
		}
	}
	return nil
}

// where tells what a row of a sink is to the migration.
type where int

const (
	elsewhere where = iota // of a topic that is not copied: it stays as it is
	toMove                 // of the old log
	moved                  // of the new log
	strange                // of a third log, or of a topic that was deleted and created again: the group would halt
)

// placed returns what a row is, and the topic it is of.
func (m *migration) placed(r sinks.OffsetRow) (where, *topic) {
	i := slices.IndexFunc(m.topics, func(t *topic) bool { return t.name == r.Partition.Topic })
	if i < 0 {
		return elsewhere, nil
	}
	t := m.topics[i]
	switch {
	case r.Partition.LogID == m.from.id && r.Partition.TopicID == t.fromID && r.Partition.Partition < t.partitions:
		return toMove, t
	case r.Partition.LogID == m.to.id && r.Partition.TopicID == t.toID && t.toID != [16]byte{}:
		return moved, t
	}
	return strange, t
}

// groupProblems says what stands against moving the rows as they are now.
func (m *migration) groupProblems(ctx context.Context) (problems []error, err error) {
	for _, g := range m.groups {
		for _, r := range g.rows {
			place := fmt.Sprintf("group %s, %s/%d", g.name, r.Partition.Topic, r.Partition.Partition)
			at, t := m.placed(r)
			switch {
			case at == strange:
				problems = append(problems, halt("offset-of-another-log", place, "`outrelay groups reset "+g.name+"` on the old log removes it; then try again",
					"its row in the sink is of log %s and topic id %s: the group has not worked on the old log as it is", r.Partition.LogID, hexID(r.Partition.TopicID)))
			case at == toMove && r.Next >= 0:
				start, end, err := m.bounds(ctx, t, r.Partition.Partition)
				if err != nil {
					return nil, err
				}
				if err := within(place, r.Next, start, end, m.part(t, r.Partition.Partition)); err != nil {
					problems = append(problems, err)
				}
			}
		}
	}
	return problems, nil
}

func (m *migration) bounds(ctx context.Context, t *topic, p int32) (start, end int64, err error) {
	starts, err := kafka.StartOffsets(ctx, m.from.cl, t.name)
	if err != nil {
		return 0, 0, err
	}
	ends, err := kafka.HighWatermarks(ctx, m.from.cl, t.name)
	return starts[p], ends[p], err
}

// within refuses an offset that the old log does not hold: a group that stood there would halt, and must not go on elsewhere without a word.
func within(place string, next, start, end int64, pt *part) error {
	if len(pt.chunks) > 0 {
		start = min(start, pt.chunks[0].from) // what was copied is there, whatever retention has done since
	}
	switch {
	case next < start:
		return halt("offset-below-log", place, "`outrelay groups reset` on the old log accepts the gap; then try again", "next offset %d, but the old log begins at %d", next, start)
	case next > end:
		return halt("offset-beyond-log", place, "`outrelay groups reset` on the old log says where to go on; then try again", "next offset %d, but the old log ends at %d", next, end)
	}
	return nil
}

// moveGroups moves the rows of each group in one transaction of its sink, and then tells the new log's tools where the groups are.
func (m *migration) moveGroups(ctx context.Context) error {
	m.o.Say("moving the offsets of groups")
	for _, g := range m.groups {
		for try := 0; ; try++ {
			err := m.moveGroup(ctx, g)
			if err == nil {
				break
			}
			if !errors.Is(err, sinks.ErrConflict) || try >= triesMax { // a row has moved since it was read: its owner was at work
				return err
			}
		}
		failpoint.Hit("migrate.afterGroup")
	}
	return m.moveHints(ctx)
}

func (m *migration) moveGroup(ctx context.Context, g *group) (err error) {
	if g.rows, err = g.store.Offsets(ctx, g.name); err != nil {
		return err
	}
	var moves []sinks.Relocation
	for _, r := range g.rows {
		at, t := m.placed(r)
		if at != toMove {
			continue
		}
		then := r.Next
		if r.Next >= 0 {
			if then, err = m.translate(ctx, t, g.name, r.Partition.Partition, r.Next); err != nil {
				return err
			}
		}
		to := sinks.Partition{LogID: m.to.id, TopicID: t.toID, Topic: r.Partition.Topic, Partition: r.Partition.Partition}
		moves = append(moves, sinks.Relocation{From: r.Partition, To: to, Next: r.Next, NextThen: then})
	}
	if err := g.store.Relocate(ctx, g.name, moves); err != nil {
		return err
	}
	for _, mv := range moves {
		m.report.moved(g.name, true, mv.From.Topic, mv.From.Partition, mv.Next, mv.NextThen)
	}
	g.rows, err = g.store.Offsets(ctx, g.name)
	return err
}

// translate is the offset in the new log at which a group goes on. It refuses where records that the group has not read were lost to retention before they were copied.
func (m *migration) translate(ctx context.Context, t *topic, group string, p int32, next int64) (int64, error) {
	then, err := m.progress.translate(ctx, m.part(t, p), next)
	if errors.Is(err, errGone) {
		return 0, halt("offset-below-log", fmt.Sprintf("group %s, %s/%d", group, t.name, p), "`outrelay groups reset` on the old log accepts the gap; then try again",
			"offset %d %v", next, err)
	}
	return then, err
}

// moveHints commits the groups' offsets in the new log. For managed groups they are for lag tools; for all others they are where they go on.
func (m *migration) moveHints(ctx context.Context) error {
	for _, g := range m.groups {
		offsets := kadm.Offsets{}
		for _, r := range g.rows {
			if at, _ := m.placed(r); at == moved && r.Next >= 0 {
				offsets.AddOffset(r.Partition.Topic, r.Partition.Partition, r.Next, -1)
			}
		}
		if err := m.commitOffsets(ctx, g.name, offsets); err != nil {
			return err
		}
	}
	others, err := m.otherGroups(ctx)
	if err != nil {
		return err
	}
	for _, name := range others {
		if err := m.moveOther(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// otherGroups names the groups of the old log that are not outrelay's.
func (m *migration) otherGroups(ctx context.Context) ([]string, error) {
	list, err := m.from.adm.ListGroups(ctx)
	if err != nil {
		return nil, kafka.Wrap(err, "groups of "+m.from.name)
	}
	own := m.managed(m.from)
	var names []string
	for _, g := range list.Sorted() {
		if slices.Contains(own, g.Group) || g.ProtocolType != "" && g.ProtocolType != "consumer" {
			continue
		}
		if s := strings.ToLower(g.State); s != "" && s != "empty" && s != "dead" {
			m.report.note("group %s has members on the old log: its offsets were moved as they are now, and what it reads there afterwards it reads again in the new one", g.Group)
		}
		names = append(names, g.Group)
	}
	return names, nil
}

// moveOther moves the Kafka offsets of a group that is not outrelay's. What cannot be translated is left out: the group then begins by its own auto.offset.reset, as it
// would in the old log.
func (m *migration) moveOther(ctx context.Context, name string) error {
	rs, err := m.from.adm.FetchOffsets(ctx, name)
	if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.GroupAuthorizationFailed) {
		return nil
	}
	if err != nil {
		return kafka.Wrap(err, "offsets of group "+name)
	}
	offsets := kadm.Offsets{}
	for _, t := range m.topics {
		for p, r := range rs[t.name] {
			if r.Err != nil || r.At < 0 || p >= t.partitions {
				continue
			}
			_, end, err := m.bounds(ctx, t, p)
			if err != nil {
				return err
			}
			then, err := m.progress.translate(ctx, m.part(t, p), r.At)
			if err != nil && !errors.Is(err, errGone) {
				return err
			}
			if err != nil || r.At > end {
				m.report.note("group %s, %s/%d: offset %d is not in the old log; the group begins by its auto.offset.reset", name, t.name, p, r.At)
				continue
			}
			offsets.Add(kadm.Offset{Topic: t.name, Partition: p, At: then, LeaderEpoch: -1, Metadata: r.Metadata})
			m.report.moved(name, false, t.name, p, r.At, then)
		}
	}
	return m.commitOffsets(ctx, name, offsets)
}

func (m *migration) commitOffsets(ctx context.Context, name string, offsets kadm.Offsets) error {
	if len(offsets) == 0 {
		return nil
	}
	err := m.to.adm.CommitAllOffsets(ctx, name, offsets)
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration) || errors.Is(err, kerr.RebalanceInProgress) {
		return wrong("members", "group "+name, "stop it, then try again", "it has members on the new log already: its offsets cannot be set there")
	}
	return kafka.Wrap(err, "offsets of group "+name+" in the new log")
}

// refuseMoved refuses where a row of a group stands for the new log.
func (m *migration) refuseMoved(ctx context.Context) error {
	if err := m.planGroups(ctx); err != nil {
		return err
	}
	for _, g := range m.groups {
		for _, r := range g.rows {
			if r.Partition.LogID == m.to.id {
				return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "offsets-moved", Place: "group " + g.name, Cause: "its offsets have moved to the new log: there is no way back but through it",
					Fix: "finish the migration: run it again; to go back, migrate from the new log into an empty one"}
			}
		}
	}
	return nil
}
