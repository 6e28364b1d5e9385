package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check databases, sinks and the log for what is wrong, or will hurt one day",
		Long: `Looks at every source's database, every group's sink and the log, and says what is wrong, what will hurt one day, and how to mend it. It changes
nothing. Each check has an id that docs/operations/doctor.md explains. A running outrelay makes the same checks at its start and every hour; the metric
outrelay_doctor_findings counts what they found.

The exit code is 3 when a check found an error; warnings alone leave it 0.`,
		Example: `  outrelay doctor -c outrelay.yaml
  outrelay doctor --all                 # what is right, too
  outrelay doctor --json | jq '.findings[] | select(.severity == "error")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(nil, false)
			if err != nil {
				return err
			}
			log, err := a.log(c)
			if err != nil {
				return err
			}
			d := daemon.New(daemon.Options{Config: c, Version: version, Logger: logger(slog.LevelError + 1)})
			return a.reportFindings(d.Doctor(cmd.Context(), daemon.CLI(log, "outrelay-doctor")), all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "print what is right or was skipped, too")
	return cmd
}

func (a *app) reportFindings(fs []doctor.Finding, all bool) error {
	failed := doctor.Count(fs, doctor.Error)
	if a.json {
		if err := a.printJSON(map[string]any{"healthy": failed == 0, "findings": fs}); err != nil {
			return err
		}
	} else {
		for _, f := range fs {
			if !all && (f.Severity == doctor.OK || f.Severity == doctor.Skipped) {
				continue
			}
			fmt.Fprintf(a.out, "%-7s %-4s %s: %s\n", f.Severity, f.ID, f.Place, f.Text)
			if f.Fix != "" {
				fmt.Fprintf(a.out, "             fix: %s\n", f.Fix)
			}
		}
		fmt.Fprintf(a.out, "%d checks: %d ok, %d warning(s), %d error(s), %d skipped\n", len(fs), doctor.Count(fs, doctor.OK), doctor.Count(fs, doctor.Warning), failed, doctor.Count(fs, doctor.Skipped))
	}
	if failed > 0 {
		return silentError{&outrelay.Error{Class: outrelay.ErrEnvironment, Code: "doctor", Cause: fmt.Sprintf("%d check(s) found an error", failed)}}
	}
	return nil
}
