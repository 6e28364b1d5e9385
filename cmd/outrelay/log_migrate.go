package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/migrate"
)

func logMigrate(a *app) *cobra.Command {
	o := daemon.MigrateOptions{}
	var to string
	c := &cobra.Command{
		Use: "migrate", Short: "Move everything from this log to another: to a Kafka, back, or between two", Args: cobra.NoArgs,
		Long: `Copies the topics with keys, headers and timestamps as they are, moves the position of each source, the index and the offsets of each group, in the sinks
and in Kafka, and compares both logs record by record. The old log is the one of --config, the new one that of --to, which is mostly the same file with another log:.

Stop outrelay first; a log of outrelay's own is opened by this command itself, unless ` + "`outrelay run --log-only`" + ` serves it. Wherever it ends, the same command goes on
where it was; nothing is lost or doubled. From then on outrelay runs with the file of --to, and halts on the old log. --ahead copies what is there while everything runs, so that
little is left for later. docs/operations/migrate.md says what it does step by step.

Exit code 3: somebody must stop, grant or mend something; 4: it cannot go on without losing or repeating something.`,
		Example: `  outrelay log migrate --to outrelay-kafka.yaml --dry-run   # what would be done, and what stands against it
  outrelay log migrate --to outrelay-kafka.yaml --ahead     # while outrelay runs
  outrelay log migrate --to outrelay-kafka.yaml             # when it is stopped
  outrelay log migrate --to outrelay-kafka.yaml --abandon   # to go on in the old log after all`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.migrateOptions(&o, to); err != nil {
				return err
			}
			conf, err := a.load(nil, false)
			if err != nil {
				return err
			}
			if a.kafka != "" || a.user != "" {
				from, err := a.log(conf)
				if err != nil {
					return err
				}
				o.From = &from
			}
			bar := newBar("")
			bar.unit = func(n int64) string { return strconv.FormatInt(n, 10) + " offsets" }
			o.Progress = func(what string, done, total int64) { bar.what = what; bar.show(done, total) }
			o.Say = func(text string) {
				bar.clear()
				if !a.json {
					fmt.Fprintln(os.Stderr, text)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			d := daemon.New(daemon.Options{Config: conf, Version: version, Logger: logger(slog.LevelWarn)})
			r, err := d.Migrate(ctx, o)
			bar.clear()
			if r != nil && (err == nil || a.json) {
				if perr := a.printMigration(r); perr != nil {
					return perr
				}
			}
			if err == nil && len(r.Problems) > 0 {
				return silentError{fmt.Errorf("%d problems: %w", len(r.Problems), outrelay.ErrEnvironment)}
			}
			return a.reach(err)
		},
	}
	f := c.Flags()
	f.StringVar(&to, "to", "", "configuration whose log is the new one")
	f.BoolVar(&o.Ahead, "ahead", false, "copy what is there, while everything runs")
	f.BoolVar(&o.DryRun, "dry-run", false, "change nothing; say what would be done, and what stands against it")
	f.BoolVar(&o.Abandon, "abandon", false, "let the old log go on, where a migration is not done")
	f.StringVar(&o.Lost, "lost", "", "with --abandon, in the place of --to: id of a new log that is no more")
	f.StringArrayVar(&o.Topics, "topic", nil, "copy this topic of a shared Kafka too; may be repeated")
	f.BoolVar(&o.All, "all-topics", false, "copy every topic of a Kafka, not only those of the file")
	f.DurationVar(&o.Wait, "wait", 30*time.Second, "how long members of groups and open transactions may take to end")
	return c
}

// migrateOptions completes and checks the flags.
func (a *app) migrateOptions(o *daemon.MigrateOptions, to string) error {
	if o.Lost != "" && (!o.Abandon || to != "") {
		return usageError{errors.New("--lost goes with --abandon, in the place of --to")}
	}
	if to == "" && o.Lost == "" {
		return usageError{errors.New("--to names the configuration whose log is the new one; see `outrelay log migrate --help`")}
	}
	n := 0
	for _, on := range []bool{o.Ahead, o.Abandon} {
		if on {
			n++
		}
	}
	if n > 1 || o.Abandon && o.DryRun {
		return usageError{errors.New("--ahead, --abandon and --dry-run: only --ahead --dry-run go together")}
	}
	if o.Lost != "" {
		return nil
	}
	var err error
	o.To, err = config.Load(config.LoadOptions{File: to})
	return err
}

func (a *app) printMigration(r *migrate.Report) error {
	if a.json {
		return a.printJSON(r)
	}
	copied, compared, offsets := int64(0), int64(0), 0
	for _, t := range r.Topics {
		line := fmt.Sprintf("topic %s: ", t.Topic)
		n, same := int64(0), int64(0)
		for _, p := range t.Partitions {
			n, same = n+p.Copied, same+p.Compared
		}
		copied, compared = copied+n, compared+same
		if r.State == migrate.StatePlanned {
			line += fmt.Sprintf("%d offsets to copy", t.ToCopy)
		} else {
			line += fmt.Sprintf("%d records copied, %d compared", n, same)
		}
		fmt.Fprintln(a.out, line)
	}
	for _, s := range r.Sources {
		fmt.Fprintf(a.out, "source %s: at %s, %d events\n", s.Source, s.Place, s.Events)
	}
	for _, g := range r.Groups {
		offsets += len(g.Offsets)
		kind := "in its sink"
		if !g.Managed {
			kind = "in Kafka"
		}
		fmt.Fprintf(a.out, "group %s: %d offsets %s\n", g.Group, len(g.Offsets), kind)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(a.out, "note:", n)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(a.out, "problem:", p)
	}
	_, err := fmt.Fprintf(a.out, "%s -> %s: %s\n", r.From, r.To, migrationSummary(r, copied, compared, offsets))
	return err
}

func migrationSummary(r *migrate.Report, copied, compared int64, offsets int) string {
	switch r.State {
	case migrate.StatePlanned:
		return fmt.Sprintf("nothing was changed; %d problem(s)", len(r.Problems))
	case migrate.StateAhead:
		return fmt.Sprintf("%d records are copied; the old log goes on. Stop outrelay and run it without --ahead for the rest", copied)
	case migrate.StateDone:
		return fmt.Sprintf("done: %d records copied, %d compared, %d sources and %d offsets moved. Run outrelay with the file of --to", copied, compared, len(r.Sources), offsets)
	case migrate.StateAlready:
		return "done already, on " + r.DoneAt.Format(time.RFC3339) + "; nothing was changed. Run outrelay with the file of --to"
	case migrate.StateAbandoned:
		return fmt.Sprintf("given up: %d sources go on in the old log. What was copied stays in the new one", len(r.Sources))
	case migrate.StateUnfinished:
	}
	return "not finished; run it again"
}
