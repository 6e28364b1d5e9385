package migrate

import (
	"context"
	"errors"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// planSources finds the sources that have a position in the old log, but for those that an open transaction hides: a relay that was killed has left one. Once it
// is fenced they are looked for again.
func (m *migration) planSources(ctx context.Context) (err error) {
	m.sources, err = relay.ReadStablePositions(ctx, m.from.cl, m.from.o.PositionsTopic())
	return err
}

// problems says what stands against the migration, the first to be mended first. Members of groups are no problem of a migration that waits for them, or stops nothing.
func (m *migration) problems(ctx context.Context) ([]error, error) {
	var out []error
	add := func(err error) {
		if err != nil {
			out = append(out, err)
		}
	}
	if len(m.topics) == 0 && len(m.sources) == 0 {
		add(wrong("nothing-there", "", "is --config the file that outrelay ran with?", "the old log %s has no topic to copy, and no position of a source", m.from.id))
	}
	there, err := relay.ReadStablePositions(ctx, m.to.cl, m.to.o.PositionsTopic())
	if err != nil {
		return nil, err
	}
	for _, s := range sortedSources(m.sources) {
		pos := m.sources[s]
		if pos.MovedTo != "" && pos.MovedTo != m.to.id {
			add(halt("log-migrated", "source "+string(s), "migrate from that log; or, where that migration is not done, give it up: --abandon with the file of that log, or --abandon --lost "+pos.MovedTo+" where the log is no more", "it has moved from the old log to %s, which is not the new one", pos.MovedTo))
		}
		if old, ok := there[s]; ok && old.MovedTo == "" && old.Position != pos.Position {
			add(relay.PositionThere(s, old))
		}
	}
	for _, t := range m.everyTopic() {
		if t.toID == [16]byte{} {
			continue
		}
		st, err := kafka.Topic(ctx, m.to.cl, t.toName)
		if errors.Is(err, kafka.ErrNoTopic) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if st.Partitions != t.partitions {
			add(errPartitions(t, st.Partitions))
			continue
		}
		problem, err := m.stranger(ctx, t)
		if err != nil {
			return nil, err
		}
		add(problem)
	}
	if m.o.Ahead {
		return out, nil
	}
	more, err := m.groupProblems(ctx)
	if err != nil {
		return nil, err
	}
	out = append(out, more...)
	if m.o.DryRun {
		for _, e := range []*end{m.from, m.to} {
			live, err := m.members(ctx, e)
			if err != nil {
				return nil, err
			}
			if len(live) > 0 {
				add(errMembers(live))
			}
		}
	}
	return out, nil
}

// size is how many offsets a topic has that are not copied yet.
func (m *migration) size(ctx context.Context, t *topic) (n int64, err error) {
	starts, err := kafka.StartOffsets(ctx, m.from.cl, t.name)
	if err != nil {
		return 0, err
	}
	ends, err := kafka.HighWatermarks(ctx, m.from.cl, t.name)
	if err != nil {
		return 0, err
	}
	for p, end := range ends {
		n += max(0, end-max(starts[p], m.part(t, p).next()))
	}
	return n, nil
}
