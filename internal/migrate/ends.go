package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/kafka"
)

// end is one of the two logs.
type end struct {
	name string // "the old log", "the new log"
	o    kafka.Options
	cl   *kgo.Client
	adm  *kadm.Client
	id   string
}

func openEnd(ctx context.Context, name string, o kafka.Options) (*end, error) {
	// A topic that has just been made, or a leader that moves, is asked for again soon.
	cl, err := kafka.NewClient(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e := &end{name: name, o: o, cl: cl, adm: kadm.NewClient(cl)}
	if e.id, err = kafka.ClusterID(ctx, cl); err != nil {
		cl.Close()
		return nil, fmt.Errorf("%s at %s: %w", name, strings.Join(o.Seeds, ","), err)
	}
	return e, nil
}

func (m *migration) connect(ctx context.Context) (err error) {
	if m.from, err = openEnd(ctx, "the old log", m.o.From); err != nil {
		return err
	}
	if m.to, err = openEnd(ctx, "the new log", m.o.To); err != nil {
		return err
	}
	m.report.From, m.report.To = m.from.id, m.to.id
	if m.from.id == m.to.id {
		return wrong("same-log", "", "name another log with --to", "the old log and the new one are the same, %s", m.from.id)
	}
	m.progress = newProgress(m.to.cl, m.to.o.MigrationTopic(), m.from.id)
	return nil
}

func (m *migration) close() {
	for _, g := range m.groups {
		g.close()
	}
	if m.w != nil {
		m.w.close()
	}
	for _, e := range []*end{m.from, m.to} {
		if e != nil && e.cl != nil {
			e.cl.Close()
		}
	}
}

// openWriter takes the migration's transactional id, which fences another process that migrates the same, and then reads how far the copy has come: in
// this order, so that nothing can follow what was read.
func (m *migration) openWriter(ctx context.Context) error {
	// For good: retention, or compaction, would let records be copied twice.
	configs := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
	st, err := m.to.o.EnsureTopic(ctx, m.to.cl, m.progress.topic, 1, configs)
	if err != nil {
		return err
	}
	if len(st.Differs) > 0 {
		return wrong("migration-topic", "topic "+m.progress.topic, "delete it if no migration is under way; else alter it", "it stands otherwise than it must: %s", strings.Join(st.Differs, ", "))
	}
	m.w = newWriter(m.to.o, m.progress)
	if err := m.w.open(ctx, 0, batchBytesMax); err != nil {
		return err
	}
	return m.progress.load(ctx, kafka.HighWatermarks)
}

// managed returns the names of outrelay's own groups in a log.
func (m *migration) managed(e *end) []string {
	names := []string{e.o.RelayGroup()}
	for _, g := range m.o.Groups {
		names = append(names, g.Name)
	}
	return names
}

// members names who is at work on a log, by what the coordinators of outrelay's own groups say.
func (m *migration) members(ctx context.Context, e *end) ([]string, error) {
	described, err := e.adm.DescribeGroups(ctx, m.managed(e)...)
	if err != nil {
		return nil, kafka.Wrap(err, "groups of "+e.name)
	}
	var live []string
	for _, g := range described.Sorted() {
		if g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound) {
			return nil, kafka.Wrap(g.Err, "group "+g.Group+" of "+e.name)
		}
		for _, mem := range g.Members {
			who := mem.ClientID
			if mem.InstanceID != nil {
				who = *mem.InstanceID
			}
			if slices.Contains(m.o.Seats, who) {
				continue // it has ended
			}
			live = append(live, fmt.Sprintf("%s of group %s at %s, in %s", who, g.Group, strings.TrimPrefix(mem.ClientHost, "/"), e.name))
		}
	}
	slices.Sort(live)
	return live, nil
}

// giveUpSeats ends the static membership of processes that are known to have ended.
func (m *migration) giveUpSeats(ctx context.Context, e *end) error {
	if len(m.o.Seats) == 0 {
		return nil
	}
	for _, group := range m.managed(e) {
		_, err := e.adm.LeaveGroup(ctx, kadm.LeaveGroup(group).Reason("outrelay log migrate: its process has ended").InstanceIDs(m.o.Seats...))
		var answer *kerr.Error
		if err != nil && !errors.As(err, &answer) { // what the group says, that it has no such member among it, is as good
			return kafka.Wrap(err, "group "+group+" of "+e.name)
		}
	}
	return nil
}

func errMembers(live []string) error {
	return wrong("members", "", "stop outrelay on both logs (a process that was killed keeps its seat for ten seconds), then try again",
		"somebody is at work: %s", strings.Join(live, "; "))
}

// awaitQuiet waits until no outrelay is at work on either log. It is for people: what makes the migration safe is that sources are fenced, and offsets move
// in the sinks' own transactions.
func (m *migration) awaitQuiet(ctx context.Context) error {
	for _, e := range []*end{m.from, m.to} {
		if err := m.giveUpSeats(ctx, e); err != nil {
			return err
		}
	}
	return m.await(ctx, func() error {
		var live []string
		for _, e := range []*end{m.from, m.to} {
			l, err := m.members(ctx, e)
			if err != nil {
				return err
			}
			live = append(live, l...)
		}
		if len(live) > 0 {
			return errMembers(live)
		}
		return nil
	})
}

// awaitTransactions waits until no transaction is open in what is copied: readers, ours among them, see nothing behind one.
func (m *migration) awaitTransactions(ctx context.Context) error {
	m.o.Say("waiting until no transaction is open in the old log")
	return m.await(ctx, func() error {
		for _, t := range m.all() {
			high, err := kafka.HighWatermarks(ctx, m.from.cl, t.name)
			if err != nil {
				return err
			}
			stable, err := kafka.StableOffsets(ctx, m.from.cl, t.name)
			if err != nil {
				return err
			}
			for p, hw := range high {
				if stable[p] < hw {
					return wrong("open-transaction", fmt.Sprintf("%s/%d", t.name, p), "stop the producer that has begun it (kafka-transactions.sh --bootstrap-server … find-hanging names it), or wait for its timeout; then try again",
						"a transaction is open at offset %d of the old log", stable[p])
				}
			}
		}
		return nil
	})
}

const pollEvery = 250 * time.Millisecond

// await asks until ok returns nil, for Options.Wait at most, and returns what it said last.
func (m *migration) await(ctx context.Context, ok func() error) error {
	deadline := m.o.Clock.Now().Add(m.o.Wait)
	for {
		err := ok()
		if err == nil || !m.o.Clock.Now().Before(deadline) {
			return err
		}
		if serr := backoff.Sleep(ctx, m.o.Clock, pollEvery); serr != nil {
			return errors.Join(err, serr)
		}
	}
}
