// Package migrate moves what an outrelay has in one log into another: topics, positions, index, offsets of groups, exactly once. It reaches both logs as a
// Kafka client only, so that either may be outrelay's own or a Kafka, and it never deletes anything in the old one.
//
// A migration is a sequence of steps, each of which may be repeated: what has been done stands in the logs and in the sinks, never here, so a process
// that was killed anywhere is started again and goes on (docs/operations/migrate.md). The records that are copied and the note of how far the copy has
// come are one transaction of the new log (docs/format/migration-record.md).
//
// Limitations: one partition is copied at a time; the verification of a compacted topic holds a digest of each of a partition's keys in memory.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sinks"
)

// Options says what is moved where. From and To are needed.
type Options struct {
	From, To kafka.Options
	// Select says whether a topic of the old log is copied. nil: every topic. Kafka's internal ones and outrelay's own are never asked about.
	Select func(topic string) bool
	// Groups are the managed groups whose offsets are moved in their sinks.
	Groups []Group
	// Ahead copies what is committed while everything goes on, stops nothing and moves nothing: what is left for later is less.
	Ahead bool
	// DryRun changes nothing, and says what would be done and what stands against it.
	DryRun bool
	// Lost, for Abandon alone, is the id of a new log that cannot be reached any more; To is not looked at.
	Lost string
	// Wait is how long members of groups, and transactions that are open, may take to end. 0: not at all.
	Wait time.Duration
	// Seats are instance ids of processes that are known to have ended: their seats in outrelay's groups are given up at once, not only after their session.
	Seats []string

	Progress func(what string, done, total int64) // offsets; called often
	Say      func(text string)                    // told of each step that begins
	Logger   *slog.Logger
	Clock    clock.Clock

	// ChunkRecords and ChunkBytes bound what is copied in one transaction. 0: 20,000 and 8 MiB.
	ChunkRecords int
	ChunkBytes   int
}

// Group is a managed group and the sink that holds its offsets.
type Group struct {
	Name string
	Open func(ctx context.Context) (sinks.Relocator, error)
}

func (o *Options) complete() {
	if o.Select == nil {
		o.Select = func(string) bool { return true }
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.ChunkRecords == 0 {
		o.ChunkRecords = 20_000
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = 8 << 20
	}
}

// migration is one attempt. One goroutine owns it.
type migration struct {
	o        Options
	from, to *end
	topics   []*topic
	index    *topic // nil where the old log has none
	sources  map[outrelay.SourceID]relay.PositionRecord
	groups   []*group
	w        *writer
	progress *progress
	report   *Report
}

// triesMax is how often an attempt may break off without having copied anything before the migration gives up.
const triesMax = 8

// Run moves everything, or what Options.Ahead or DryRun leave of it, and returns once that is done, or at an error that waiting does not mend; an error that
// waiting may mend is tried again with backoff. Whatever the error, and wherever the process ends, Run with the same logs goes on where it was. One that is done says so and
// does nothing. Errors: outrelay.ErrEnvironment for what somebody must stop, grant or mend, outrelay.ErrDataHalt for what cannot be moved without
// losing or repeating something, outrelay.ErrFenced when another Run of these logs has taken over.
func Run(ctx context.Context, o Options) (*Report, error) {
	o.complete()
	copied := int64(-1)
	for try := 0; ; try++ {
		r, err := once(ctx, o)
		if err == nil || ctx.Err() != nil || !passes(err) || try >= triesMax {
			return r, err
		}
		if n := r.copied(); n > copied {
			copied, try = n, 0
		}
		o.Logger.Warn("migration begins again where it was", "err", err)
		if err := backoff.Sleep(ctx, o.Clock, backoff.Default().Delay(try, nil)); err != nil {
			return r, err
		}
	}
}

// passes reports whether waiting may mend err.
func passes(err error) bool {
	c := kafka.Class(err)
	return errors.Is(c, outrelay.ErrTransient) || errors.Is(c, context.DeadlineExceeded)
}

func once(ctx context.Context, o Options) (*Report, error) {
	m := &migration{o: o, report: newReport()}
	defer m.close()
	if err := m.connect(ctx); err != nil {
		return m.report, err
	}
	if done, err := m.look(ctx); done || err != nil {
		return m.report, err
	}
	if o.DryRun {
		return m.report, nil
	}
	err := m.move(ctx)
	m.result()
	return m.report, err
}

// look reads what there is on both sides. done: nothing is left to do.
func (m *migration) look(ctx context.Context) (done bool, err error) {
	if err := m.progress.load(ctx, kafka.StableOffsets); err != nil {
		return false, err
	}
	if d := m.progress.done; d != nil {
		m.report.State, m.report.DoneAt = StateAlready, d.At
		return true, nil
	}
	steps := []func(context.Context) error{m.planTopics, m.planSources, m.planGroups}
	if m.o.Ahead {
		steps = steps[:2]
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return false, err
		}
	}
	problems, err := m.problems(ctx)
	switch {
	case err != nil:
		return false, err
	case m.o.DryRun:
		return false, m.plan(ctx, problems)
	case len(problems) > 0:
		return false, problems[0]
	}
	return false, nil
}

// move does what look has found. The order is what makes each step safe where the next does not come: nothing of the new log can be used before all of
// it is there, and nothing goes on in the old one after a record of it was moved.
func (m *migration) move(ctx context.Context) error {
	if !m.o.Ahead {
		if err := m.fence(ctx); err != nil {
			return err
		}
	}
	if err := m.openWriter(ctx); err != nil {
		return err
	}
	for _, t := range m.all() {
		if err := m.prepare(ctx, t); err != nil {
			return err
		}
	}
	if err := m.copyTopics(ctx); err != nil {
		return err
	}
	if m.o.Ahead {
		m.report.State = StateAhead
		return nil
	}
	for _, step := range []func(context.Context) error{m.copyIndex, m.verify, m.restoreConfigs, m.moveGroups, m.arrive, m.finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	m.report.State = StateDone
	return nil
}

// all returns every topic that is copied.
func (m *migration) all() []*topic {
	if m.index == nil || m.o.Ahead {
		return m.topics
	}
	return append(slices.Clone(m.topics), m.index)
}

// fence ends the life of the old log: nobody is at work on it, each source has left it, and no transaction is open.
func (m *migration) fence(ctx context.Context) error {
	m.o.Say("waiting until nobody is at work on either log")
	if err := m.awaitQuiet(ctx); err != nil {
		return err
	}
	m.o.Say("fencing the sources in the old log")
	for _, s := range sortedSources(m.sources) {
		pos, found, err := relay.Depart(ctx, m.from.o, s, m.to.id, m.o.Clock.Now())
		if err != nil {
			return err
		}
		if found {
			m.sources[s] = pos
		}
		failpoint.Hit("migrate.afterFence")
	}
	if err := m.awaitTransactions(ctx); err != nil {
		return err
	}
	list, err := relay.ReadPositions(ctx, m.from.cl, m.from.o.PositionsTopic())
	for s := range list {
		if _, ok := m.sources[s]; !ok {
			return fmt.Errorf("source %s has a position that an open transaction had hidden: %w", s, outrelay.ErrTransient) // from the beginning, with it
		}
	}
	return err
}

// arrive writes the positions into the new log: from then on an outrelay may run there.
func (m *migration) arrive(ctx context.Context) error {
	m.o.Say("writing the positions of the sources into the new log")
	for _, s := range sortedSources(m.sources) {
		if err := relay.Arrive(ctx, m.to.o, m.sources[s]); err != nil {
			return err
		}
		failpoint.Hit("migrate.afterPosition")
	}
	return nil
}

// finish notes in the new log that all is done.
func (m *migration) finish(ctx context.Context) error {
	d := &doneRecord{header: header{V: migrationVersion, Kind: kindDone, FromLog: m.from.id}, ToLog: m.to.id, At: m.o.Clock.Now().UTC().Truncate(time.Second)}
	if _, err := m.w.commit(ctx, nil, func() any { return d }); err != nil {
		return err
	}
	m.report.DoneAt = d.At
	return nil
}

// Abandon takes back what a migration that is not done has said in the old log, so that an outrelay goes on there. It refuses where the
// offsets of a group have moved already. What was copied stays in the new log, and a later Run goes on with it. With Options.Lost nobody looks whether the
// migration is done: only the sinks can tell.
func Abandon(ctx context.Context, o Options) (*Report, error) {
	o.complete()
	m := &migration{o: o, report: newReport()}
	defer m.close()
	if err := m.connectToAbandon(ctx); err != nil {
		return m.report, err
	}
	if m.progress.done != nil {
		return m.report, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "migrated", Cause: "the migration is done: the old log has been left", Fix: "to go back, migrate from the new log into an empty one"}
	}
	if err := m.refuseMoved(ctx); err != nil {
		return m.report, err
	}
	list, err := relay.ReadPositions(ctx, m.from.cl, m.from.o.PositionsTopic())
	if err != nil {
		return m.report, err
	}
	for _, s := range sortedSources(list) {
		was, err := relay.Return(ctx, m.from.o, s, m.to.id)
		if err != nil {
			return m.report, err
		}
		if was {
			m.report.Sources = append(m.report.Sources, SourceReport{Source: s, Place: list[s].Place, Events: list[s].Events})
		}
	}
	m.report.State = StateAbandoned
	return m.report, nil
}

// connectToAbandon connects, to the old log alone where the new one is lost, and reads how far the migration has come.
func (m *migration) connectToAbandon(ctx context.Context) (err error) {
	if m.o.Lost == "" {
		if err := m.connect(ctx); err != nil {
			return err
		}
		return m.progress.load(ctx, kafka.StableOffsets)
	}
	if m.from, err = openEnd(ctx, "the old log", m.o.From); err != nil {
		return err
	}
	m.to, m.progress = &end{name: "the new log", id: m.o.Lost}, newProgress(nil, "", m.from.id)
	m.report.From, m.report.To = m.from.id, m.to.id
	return nil
}

func sortedSources(m map[outrelay.SourceID]relay.PositionRecord) []outrelay.SourceID {
	out := make([]outrelay.SourceID, 0, len(m))
	for s := range m {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func halt(code, place, fix, format string, args ...any) error {
	return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: code, Place: place, Cause: fmt.Sprintf(format, args...), Fix: fix}
}

func wrong(code, place, fix, format string, args ...any) error {
	return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: code, Place: place, Cause: fmt.Sprintf(format, args...), Fix: fix}
}
