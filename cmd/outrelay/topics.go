package main

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/outrelay/outrelay/internal/kafka"
)

// admin calls fn with an admin client of the log.
func (a *app) admin(ctx context.Context, fn func(context.Context, *kadm.Client) error) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return a.reach(fn(ctx, kadm.NewClient(cl)))
}

func newTopics(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "topics", Short: "List, create, alter, describe and delete topics of the log",
		Example: "  outrelay topics list\n  outrelay topics create orders --partitions 16"}
	cmd.AddCommand(topicsList(a), topicsCreate(a), topicsAlter(a), topicsDescribe(a), topicsDelete(a))
	return cmd
}

type topicRow struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Internal   bool   `json:"internal"`
	Partitions int    `json:"partitions"`
	Records    int64  `json:"records"` // offsets between start and end: transaction markers included
}

func topicsList(a *app) *cobra.Command {
	var internal bool
	c := &cobra.Command{
		Use: "list", Short: "List topics", Args: cobra.NoArgs,
		Example: "  outrelay topics list\n  outrelay topics list --internal --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				rows, err := topicRows(ctx, adm, internal)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(rows)
				}
				w := a.table("TOPIC\tPARTITIONS\tOFFSETS")
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%d\t%d\n", r.Name, r.Partitions, r.Records)
				}
				return w.Flush()
			})
		},
	}
	c.Flags().BoolVar(&internal, "internal", false, "internal topics too")
	return c
}

func topicRows(ctx context.Context, adm *kadm.Client, internal bool) ([]topicRow, error) {
	topics, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, err
	}
	start, err := adm.ListStartOffsets(ctx)
	if err != nil {
		return nil, err
	}
	end, err := adm.ListEndOffsets(ctx)
	if err != nil {
		return nil, err
	}
	rows := []topicRow{}
	for _, t := range topics.Sorted() {
		inner := t.IsInternal || strings.HasPrefix(t.Topic, "__")
		if inner && !internal {
			continue
		}
		r := topicRow{Name: t.Topic, ID: t.ID.String(), Internal: inner, Partitions: len(t.Partitions)}
		for p := range t.Partitions {
			s, _ := start.Lookup(t.Topic, p)
			e, _ := end.Lookup(t.Topic, p)
			r.Records += e.Offset - s.Offset
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// refused is the log's answer with its own words, where they say more than the code.
func refused(topic string, err error, words string) error {
	if words == "" || strings.Contains(err.Error(), words) {
		return fmt.Errorf("topic %s: %w", topic, err)
	}
	return fmt.Errorf("topic %s: %w: %s", topic, err, words)
}

// configPairs reads NAME=VALUE arguments.
func configPairs(list []string) (map[string]*string, error) {
	m := map[string]*string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%q: write a config as name=value", kv)}
		}
		m[k] = &v
	}
	return m, nil
}

// noTopicConfig refuses a topic's config where the name of outrelay's file belongs: Kafka's own tools call it --config.
func (a *app) noTopicConfig(*cobra.Command, []string) error {
	if name, _, ok := strings.Cut(a.file, "="); ok {
		return usageError{fmt.Errorf("--config names outrelay's file; a config of the topic is set with --set %s=…", name)}
	}
	return nil
}

func topicsCreate(a *app) *cobra.Command {
	var partitions int32
	var configs []string
	c := &cobra.Command{
		Use: "create TOPIC...", Short: "Create topics", Args: cobra.MinimumNArgs(1),
		Example: "  outrelay topics create orders --partitions 16 --set retention.ms=86400000",
		PreRunE: a.noTopicConfig,
		RunE: func(cmd *cobra.Command, args []string) error {
			pairs, err := configPairs(configs)
			if err != nil {
				return err
			}
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				rs, err := adm.CreateTopics(ctx, partitions, -1, pairs, args...)
				if err != nil {
					return err
				}
				for _, r := range rs.Sorted() {
					if r.Err != nil {
						return refused(r.Topic, r.Err, r.ErrMessage)
					}
					fmt.Fprintf(a.out, "topic %s: created with %d partitions\n", r.Topic, r.NumPartitions)
				}
				return nil
			})
		},
	}
	c.Flags().Int32Var(&partitions, "partitions", -1, "number of partitions (-1: the broker's default)")
	c.Flags().StringArrayVar(&configs, "set", nil, "topic config name=value; may be repeated")
	return c
}

func topicsAlter(a *app) *cobra.Command {
	var partitions int
	var set, unset []string
	c := &cobra.Command{
		Use: "alter TOPIC", Short: "Set or unset configs, or add partitions", Args: cobra.ExactArgs(1),
		Long: `Sets or unsets configs of a topic, or raises its number of partitions. More partitions move keys to other partitions: the order of events of
one key holds within the old and within the new ones, not across.`,
		Example: "  outrelay topics alter orders --set retention.ms=3600000\n  outrelay topics alter orders --unset retention.ms\n  outrelay topics alter orders --partitions 32",
		PreRunE: a.noTopicConfig,
		RunE: func(cmd *cobra.Command, args []string) error {
			pairs, err := configPairs(set)
			if err != nil {
				return err
			}
			var changes []kadm.AlterConfig
			for k, v := range pairs {
				changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: v})
			}
			for _, k := range unset {
				changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
			}
			if len(changes) == 0 && partitions == 0 {
				return usageError{fmt.Errorf("nothing to alter: say --set, --unset or --partitions")}
			}
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				return alterTopic(ctx, adm, args[0], changes, partitions)
			})
		},
	}
	c.Flags().StringArrayVar(&set, "set", nil, "topic config name=value; may be repeated")
	c.Flags().StringArrayVar(&unset, "unset", nil, "back to the default; may be repeated")
	c.Flags().IntVar(&partitions, "partitions", 0, "new number of partitions, larger than now")
	return c
}

func alterTopic(ctx context.Context, adm *kadm.Client, topic string, changes []kadm.AlterConfig, partitions int) error {
	if len(changes) > 0 {
		rs, err := adm.AlterTopicConfigs(ctx, changes, topic)
		if err != nil {
			return err
		}
		for _, r := range rs {
			if r.Err != nil {
				return refused(r.Name, r.Err, r.ErrMessage)
			}
		}
	}
	if partitions == 0 {
		return nil
	}
	rs, err := adm.UpdatePartitions(ctx, partitions, topic)
	if err != nil {
		return err
	}
	for _, r := range rs.Sorted() {
		if r.Err != nil {
			return refused(r.Topic, r.Err, r.ErrMessage)
		}
	}
	return nil
}

type topicDetail struct {
	topicRow
	Ends    []partitionRow    `json:"offsets"`
	Configs map[string]string `json:"configs"`
}

type partitionRow struct {
	Partition   int32 `json:"partition"`
	Start       int64 `json:"log_start_offset"`
	Stable      int64 `json:"last_stable_offset"`
	End         int64 `json:"high_watermark"`
	LeaderEpoch int32 `json:"leader_epoch"`
}

func topicsDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe TOPIC", Short: "Show a topic's partitions and configs", Args: cobra.ExactArgs(1),
		Example: "  outrelay topics describe outbox.event.order --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				d, err := describeTopic(ctx, adm, args[0])
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(d)
				}
				fmt.Fprintf(a.out, "topic %s, id %s\n", d.Name, d.ID)
				w := a.table("PARTITION\tLOG START\tLAST STABLE\tHIGH WATERMARK\tLEADER EPOCH")
				for _, p := range d.Ends {
					fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\n", p.Partition, p.Start, p.Stable, p.End, p.LeaderEpoch)
				}
				if err := w.Flush(); err != nil {
					return err
				}
				keys := make([]string, 0, len(d.Configs))
				for k := range d.Configs {
					keys = append(keys, k)
				}
				sort.Strings(keys)
				for _, k := range keys {
					fmt.Fprintf(a.out, "%s = %s\n", k, d.Configs[k])
				}
				return nil
			})
		},
	}
}

func describeTopic(ctx context.Context, adm *kadm.Client, topic string) (topicDetail, error) {
	d := topicDetail{Configs: map[string]string{}, Ends: []partitionRow{}}
	topics, err := adm.ListTopicsWithInternal(ctx, topic)
	if err != nil {
		return d, err
	}
	t := topics[topic]
	if t.Err != nil {
		return d, fmt.Errorf("topic %s: %w", topic, t.Err)
	}
	d.topicRow = topicRow{Name: topic, ID: t.ID.String(), Internal: t.IsInternal, Partitions: len(t.Partitions)}
	start, err1 := adm.ListStartOffsets(ctx, topic)
	stable, err2 := adm.ListCommittedOffsets(ctx, topic)
	end, err3 := adm.ListEndOffsets(ctx, topic)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return d, err
		}
	}
	for _, p := range t.Partitions.Sorted() {
		s, _ := start.Lookup(topic, p.Partition)
		l, _ := stable.Lookup(topic, p.Partition)
		e, _ := end.Lookup(topic, p.Partition)
		d.Ends = append(d.Ends, partitionRow{p.Partition, s.Offset, l.Offset, e.Offset, p.LeaderEpoch})
		d.Records += e.Offset - s.Offset
	}
	rs, err := adm.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return d, err
	}
	for _, r := range rs {
		for _, c := range r.Configs {
			d.Configs[c.Key] = c.MaybeValue()
		}
	}
	return d, nil
}

func topicsDelete(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete topics and their records, for good", Args: cobra.MinimumNArgs(1),
		Example: "  outrelay topics delete scratch --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, t := range args {
				if err := kafka.CheckTopicName(t); err != nil {
					return usageError{err}
				}
			}
			if !yes {
				return usageError{fmt.Errorf("this deletes every record of %s; say --yes", strings.Join(args, ", "))}
			}
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				rs, err := adm.DeleteTopics(ctx, args...)
				if err != nil {
					return err
				}
				for _, r := range rs.Sorted() {
					if r.Err != nil {
						return fmt.Errorf("topic %s: %w", r.Topic, r.Err)
					}
					fmt.Fprintf(a.out, "topic %s: deleted\n", r.Topic)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "really delete")
	return c
}
