package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/daemon"
)

func newAudit(a *app) *cobra.Command {
	o := daemon.AuditOptions{}
	cmd := &cobra.Command{
		Use:   "audit SOURCE",
		Short: "Compare outbox, log and sink: lost, duplicated, reordered",
		Long: `Reads the source's outbox tables, the log as any Kafka client does, and the sink, and compares them by event id and by order within each key. Without
--group only the way into the log is compared. What was applied is what lies below the group's offsets, or, with --applied, the rows of a table into which a handler writes
each event (columns id, key, and n, which numbers them as they come). Rows that were deleted from the outbox cannot be missed; --ledger names a table that
keeps them all (columns id, key, seq).

Exit code 4 when something is lost, duplicated, reordered or a phantom.`,
		Example: `  outrelay audit shop --group order-totals
  outrelay audit shop --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(nil, false)
			if err != nil {
				return err
			}
			o.Source = args[0]
			if o.Log, err = a.log(c); err != nil {
				return err
			}
			if isTerminal(os.Stderr) {
				o.Progress = func(what string, n int64) { fmt.Fprintf(os.Stderr, "\r%s: %d\x1b[K", what, n) }
				defer fmt.Fprint(os.Stderr, "\r\x1b[K")
			}
			d := daemon.New(daemon.Options{Config: c, Version: version, Logger: logger(slog.LevelWarn)})
			r, err := d.Audit(cmd.Context(), o)
			if err != nil {
				return a.reach(err)
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				for _, f := range r.Findings {
					fmt.Fprintf(a.out, "%s: event %s of key %s: %s\n", f.Kind, f.ID, f.Key, f.Text)
				}
				_, err = fmt.Fprintf(a.out, "committed %d  in log %d  applied %d  lost %d  duplicated %d  reordered %d  phantoms %d\n",
					r.Committed, r.InLog, r.Applied, r.Lost, r.Duplicated, r.Reordered, r.Phantoms)
			}
			if err == nil && !r.Clean() {
				return silentError{outrelay.ErrDataHalt}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Group, "group", "", "group whose sink is compared")
	f.StringSliceVar(&o.Topics, "topics", nil, "topics to read (default: the group's)")
	f.StringVar(&o.Ledger, "ledger", "", "table of the source's database that keeps every committed event")
	f.StringVar(&o.Applied, "applied", "", "table of the sink's database into which a handler writes each event")
	f.DurationVar(&o.Wait, "wait", 10*time.Second, "how long what is missing may still arrive")
	return cmd
}
