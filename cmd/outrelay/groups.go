package main

import (
	"fmt"
	"log/slog"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/kafka"
)

func newGroups(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "groups", Short: "List, show and reset the groups of the configuration",
		Long: `Works on the truth about what a group has applied: its rows of outrelay_offsets in the sink's database. Kafka's own group offsets
follow them, for lag tools, and are never read.`,
		Example: "  outrelay groups list\n  outrelay groups reset order-totals --to earliest",
	}
	cmd.AddCommand(groupsList(a), groupsShow(a), groupsReset(a))
	return cmd
}

// offline returns a daemon that runs nothing: a way from the configuration to its databases and its log.
func (a *app) offline() (*daemon.Daemon, kafka.Options, []string, error) {
	c, err := a.load(nil, false)
	if err != nil {
		return nil, kafka.Options{}, nil, err
	}
	log, err := a.log(c)
	if err != nil {
		return nil, log, nil, err
	}
	names := make([]string, 0, len(c.Consumers))
	for n := range c.Consumers {
		names = append(names, n)
	}
	sort.Strings(names)
	return daemon.New(daemon.Options{Config: c, Version: version, Logger: logger(slog.LevelWarn)}), log, names, nil
}

func groupsList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List groups with their lag", Args: cobra.NoArgs,
		Example: "  outrelay groups list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, log, names, err := a.offline()
			if err != nil {
				return err
			}
			rows := []daemon.GroupOffsets{}
			for _, n := range names {
				g, err := d.GroupOffsets(cmd.Context(), log, n)
				if err != nil {
					return a.reach(err)
				}
				rows = append(rows, g)
			}
			if a.json {
				return a.printJSON(rows)
			}
			w := a.table("GROUP\tPARTITIONS\tLAG\tPROBLEM")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", r.Group, len(r.Partitions), r.Lag, r.Problem())
			}
			return w.Flush()
		},
	}
}

func groupsShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show GROUP", Short: "Show what a group has applied, by partition", Args: cobra.ExactArgs(1),
		Example: "  outrelay groups show order-totals",
		RunE: func(cmd *cobra.Command, args []string) error {
			d, log, _, err := a.offline()
			if err != nil {
				return err
			}
			g, err := d.GroupOffsets(cmd.Context(), log, args[0])
			if err != nil {
				return a.reach(err)
			}
			if a.json {
				return a.printJSON(g)
			}
			w := a.table("TOPIC\tPARTITION\tNEXT OFFSET\tLOG START\tLOG END\tLAG\tEPOCH\tOWNER\tUPDATED\tPROBLEM")
			for _, p := range g.Partitions {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", p.Topic, p.Partition, p.Next, p.LogStart, p.LogEnd, p.Lag, p.Epoch, p.Owner, p.UpdatedAt.Format(time.DateTime), p.Problem)
			}
			return w.Flush()
		},
	}
}

func groupsReset(a *app) *cobra.Command {
	var to string
	var topics []string
	var yes bool
	c := &cobra.Command{
		Use: "reset GROUP", Short: "Move a group's offsets in the sink", Args: cobra.ExactArgs(1),
		Long: `Sets where the group goes on, in the sink's outrelay_offsets, and fences the owner of each partition, which then claims it again. Rows of another log
or of a topic that was deleted and created again are removed: this is the way out of a halt that names them. Going back applies records again;
going forward skips them.`,
		Example: `  outrelay groups reset order-totals --to earliest
  outrelay groups reset order-totals --to latest --topic outbox.event.order --yes
  outrelay groups reset order-totals --to 2026-11-01T00:00:00Z --yes
  outrelay groups reset order-totals --to offset:outbox.event.order/3=1200 --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := parseTarget(to)
			if err != nil {
				return usageError{err}
			}
			d, log, _, err := a.offline()
			if err != nil {
				return err
			}
			plan, err := d.PlanReset(cmd.Context(), log, args[0], topics, target)
			if err != nil {
				return a.reach(err)
			}
			if yes {
				err = d.Reset(cmd.Context(), args[0], plan)
			}
			if a.json && err == nil {
				return a.printJSON(map[string]any{"group": args[0], "done": yes, "partitions": plan})
			}
			w := a.table("TOPIC\tPARTITION\tFROM\tTO")
			for _, p := range plan {
				next := strconv.FormatInt(p.To, 10)
				if p.Remove {
					next = "removed: " + p.Reason
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", p.Partition.Topic, p.Partition.Partition, p.From, next)
			}
			if ferr := w.Flush(); ferr != nil {
				return ferr
			}
			if err == nil && !yes {
				fmt.Fprintln(a.out, "nothing was changed; say --yes to do it")
			}
			return err
		},
	}
	c.Flags().StringVar(&to, "to", "", "earliest, latest, a time (RFC 3339), or offset:TOPIC/PARTITION=N")
	c.Flags().StringArrayVar(&topics, "topic", nil, "only these topics; may be repeated")
	c.Flags().BoolVar(&yes, "yes", false, "really change; without it the plan is shown")
	return c
}

func parseTarget(to string) (daemon.ResetTarget, error) {
	var t daemon.ResetTarget
	switch {
	case to == "earliest":
		return t, nil
	case to == "latest":
		t.Latest = true
		return t, nil
	case strings.HasPrefix(to, "offset:"):
		tp, n, ok := strings.Cut(strings.TrimPrefix(to, "offset:"), "=")
		i := strings.LastIndexByte(tp, '/')
		if ok && i > 0 {
			p, err1 := strconv.ParseInt(tp[i+1:], 10, 32)
			o, err2 := strconv.ParseInt(n, 10, 64)
			if err1 == nil && err2 == nil && p >= 0 && o >= 0 {
				t.Topic, t.Partition, t.Offset, t.Exact = tp[:i], int32(p), o, true
				return t, nil
			}
		}
		return t, fmt.Errorf("%q: write offset:TOPIC/PARTITION=N", to)
	}
	at, err := time.Parse(time.RFC3339, to)
	if err != nil {
		return t, fmt.Errorf("--to %q: write earliest, latest, a time as 2026-11-01T00:00:00Z, or offset:TOPIC/PARTITION=N", to)
	}
	t.Time = at
	return t, nil
}
