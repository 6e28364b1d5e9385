package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outrelay/outrelay"
)

// State is how far a migration has come.
type State string

// The states that a report is of.
const (
	StatePlanned    State = "planned"    // a dry run: nothing was changed
	StateAhead      State = "ahead"      // copied so far; the old log goes on
	StateUnfinished State = "unfinished" // an error ended it; it goes on where it was
	StateDone       State = "done"
	StateAlready    State = "already done"
	StateAbandoned  State = "abandoned" // the old log goes on
)

// Report is what was found and done.
type Report struct {
	From     string         `json:"from"` // ids of the logs
	To       string         `json:"to"`
	State    State          `json:"state"`
	DoneAt   time.Time      `json:"done_at,omitzero"`
	Topics   []TopicReport  `json:"topics"`
	Sources  []SourceReport `json:"sources"`
	Groups   []GroupReport  `json:"groups"`
	Problems []string       `json:"problems,omitempty"` // of a dry run: what would have ended it
	Notes    []string       `json:"notes,omitempty"`    // what an operator should know, and nothing more
}

// TopicReport is a topic that is copied.
type TopicReport struct {
	Topic      string            `json:"topic"`
	ToCopy     int64             `json:"to_copy"` // of a dry run: offsets that are not copied yet
	Partitions []PartitionReport `json:"partitions,omitempty"`
}

// PartitionReport is one partition of it.
type PartitionReport struct {
	Partition int32  `json:"partition"`
	Copied    int64  `json:"copied"`           // records
	Next      int64  `json:"next"`             // the old log is copied below this offset
	End       int64  `json:"end"`              // and the copy ends at this one
	Compared  int64  `json:"compared"`         // records, or keys of a compacted topic, that the old log still held and that were found the same
	SHA256    string `json:"sha256,omitempty"` // over those records, in both logs
}

// SourceReport is a source that has moved.
type SourceReport struct {
	Source outrelay.SourceID `json:"source"`
	Place  string            `json:"place"`
	Events int64             `json:"events"`
}

// GroupReport is a group whose offsets were moved, or are to be.
type GroupReport struct {
	Group   string        `json:"group"`
	Managed bool          `json:"managed"` // its offsets stand in its sink; else they are Kafka's
	Offsets []OffsetMoved `json:"offsets"`
}

// OffsetMoved is where a group goes on in a partition.
type OffsetMoved struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"`
	NextThen  int64  `json:"next_then"` // in the new log; -1 in a dry run
}

func newReport() *Report {
	return &Report{State: StateUnfinished, Topics: []TopicReport{}, Sources: []SourceReport{}, Groups: []GroupReport{}}
}

// copied returns how many records have gone over, in this attempt and all before it.
func (r *Report) copied() (n int64) {
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			n += p.Copied
		}
	}
	return n
}

func (r *Report) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

func (r *Report) topic(name string) *TopicReport {
	for i := range r.Topics {
		if r.Topics[i].Topic == name {
			return &r.Topics[i]
		}
	}
	r.Topics = append(r.Topics, TopicReport{Topic: name})
	return &r.Topics[len(r.Topics)-1]
}

// verified notes a partition that was compared.
func (r *Report) verified(t *topic, p PartitionReport) {
	tr := r.topic(t.name)
	tr.Partitions = append(tr.Partitions, p)
}

// moved notes an offset.
func (r *Report) moved(group string, managed bool, topic string, partition int32, next, then int64) {
	i := slices.IndexFunc(r.Groups, func(g GroupReport) bool { return g.Group == group })
	if i < 0 {
		i = len(r.Groups)
		r.Groups = append(r.Groups, GroupReport{Group: group, Managed: managed, Offsets: []OffsetMoved{}})
	}
	r.Groups[i].Offsets = append(r.Groups[i].Offsets, OffsetMoved{Topic: topic, Partition: partition, Next: next, NextThen: then})
}

// plan says what a migration would do and what stands against it.
func (m *migration) plan(ctx context.Context, problems []error) error {
	m.report.State = StatePlanned
	for _, t := range m.topics {
		n, err := m.size(ctx, t)
		if err != nil {
			return err
		}
		m.report.topic(t.name).ToCopy = n
	}
	for _, g := range m.groups {
		for _, r := range g.rows {
			if at, _ := m.placed(r); at == toMove {
				m.report.moved(g.name, true, r.Partition.Topic, r.Partition.Partition, r.Next, -1)
			}
		}
	}
	m.listSources()
	for _, p := range problems {
		m.report.Problems = append(m.report.Problems, p.Error())
	}
	return nil
}

func (m *migration) listSources() {
	m.report.Sources = m.report.Sources[:0]
	for _, s := range sortedSources(m.sources) {
		m.report.Sources = append(m.report.Sources, SourceReport{Source: s, Place: m.sources[s].Place, Events: m.sources[s].Events})
	}
}

// result completes the report after a move, whatever became of it.
func (m *migration) result() {
	m.listSources()
	for _, t := range m.topics {
		tr := m.report.topic(t.name)
		if len(tr.Partitions) > 0 {
			continue // compared
		}
		for p := range t.partitions {
			pt := m.part(t, p)
			tr.Partitions = append(tr.Partitions, PartitionReport{Partition: p, Copied: pt.records(), Next: pt.next(), End: pt.end()})
		}
	}
	slices.SortFunc(m.report.Topics, func(a, b TopicReport) int { return strings.Compare(a.Topic, b.Topic) })
}
