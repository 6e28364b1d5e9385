package daemon

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/audit"
	"github.com/outrelay/outrelay/internal/kafka"
)

// AuditOptions says what an audit compares beyond what the configuration says.
type AuditOptions struct {
	Source string
	Group  string // empty: only the way into the log
	Log    kafka.Options
	Topics []string // empty: the group's, or every topic that the source's templates can give
	// Ledger is a table of the source's database, with columns id, key and seq, that holds every committed event for ever. Empty:
	// the outbox tables, whose rows may have been deleted.
	Ledger string
	// Applied is a table of the sink's database, with columns id, key and n, into which a handler writes each event and which numbers its
	// rows as they come. Empty: what the offsets say counts as applied.
	Applied  string
	Wait     time.Duration
	Progress func(what string, n int64)
}

// Audit compares outbox, log and sink.
func (d *Daemon) Audit(ctx context.Context, o AuditOptions) (audit.Report, error) {
	s, ok := d.c.Sources[o.Source]
	if !ok {
		return audit.Report{}, fmt.Errorf("no source %q in %s: %w", o.Source, d.c.File(), outrelay.ErrConfig)
	}
	ao := audit.Options{Wait: o.Wait, Progress: o.Progress}
	if o.Ledger != "" {
		ao.CommittedIsAll = true
		ao.Committed = d.sourceTable(o.Source, s, o.Ledger, "id", "key", "seq")
	} else {
		var tables []audit.Scan
		for _, t := range s.Outbox {
			tables = append(tables, d.sourceTable(o.Source, s, t.Table, t.Columns.ID, t.Columns.Key, ""))
		}
		ao.Committed = chain(tables)
	}
	topics, err := d.auditTopics(ctx, o)
	if err != nil {
		return audit.Report{}, err
	}
	ao.Log = audit.Log(auditLog(o.Log), topics, o.Source)
	if o.Group != "" {
		if ao.Applied, err = d.appliedScan(o, topics); err != nil {
			return audit.Report{}, err
		}
	}
	return audit.Run(ctx, ao)
}

// appliedScan yields the effects: the rows of the applied table, or the records below the group's offsets.
func (d *Daemon) appliedScan(o AuditOptions, topics []string) (audit.Scan, error) {
	g, ok := d.c.Consumers[o.Group]
	if !ok {
		return nil, fmt.Errorf("no consumer %q in %s: %w", o.Group, d.c.File(), outrelay.ErrConfig)
	}
	if o.Applied != "" {
		return d.sinkTable(o.Group, g, o.Applied), nil
	}
	return func(ctx context.Context, fn func(audit.Event) error) error {
		offsets, err := d.GroupOffsets(ctx, o.Log, o.Group)
		if err != nil {
			return err
		}
		limits := map[outrelay.TopicPartition]int64{}
		for _, p := range offsets.Partitions {
			if p.Problem != "" {
				return fmt.Errorf("group %s, %s/%d: %s: %w", o.Group, p.Topic, p.Partition, p.Problem, outrelay.ErrDataHalt)
			}
			limits[outrelay.TopicPartition{Topic: p.Topic, Partition: p.Partition}] = p.Next
		}
		return audit.LogBelow(auditLog(o.Log), topics, o.Source, limits)(ctx, fn)
	}, nil
}

// auditTopics returns the topics to read: those named, the group's, or those of the log that a template of the source can give.
func (d *Daemon) auditTopics(ctx context.Context, o AuditOptions) ([]string, error) {
	if len(o.Topics) > 0 {
		return o.Topics, nil
	}
	if g := d.c.Consumers[o.Group]; g != nil {
		return g.Topics, nil
	}
	cl, err := kafka.NewClient(auditLog(o.Log))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	all, err := kafka.TopicIDs(ctx, cl)
	if err != nil {
		return nil, err
	}
	var topics []string
	for t := range all {
		for _, ob := range d.c.Sources[o.Source].Outbox {
			prefix, _, _ := strings.Cut(ob.Topic, "{")
			if strings.HasPrefix(t, prefix) && !strings.HasPrefix(t, "__") {
				topics = append(topics, t)
				break
			}
		}
	}
	sort.Strings(topics)
	return topics, nil
}

// auditLog names the client. An audit waits for a log longer than other verbs do.
func auditLog(o kafka.Options) kafka.Options {
	if o.ClientID == "" {
		o.ClientID = "outrelay-audit"
	}
	return o
}

func identifier(table string) pgx.Identifier { return parts(table) }

// parts returns the names that a dot parts.
func parts(table string) []string {
	if schema, name, ok := strings.Cut(table, "."); ok {
		return []string{schema, name}
	}
	return []string{table}
}

func chain(scans []audit.Scan) audit.Scan {
	return func(ctx context.Context, fn func(audit.Event) error) error {
		for _, s := range scans {
			if err := s(ctx, fn); err != nil {
				return err
			}
		}
		return nil
	}
}
