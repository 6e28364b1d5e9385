package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/kafka"
)

func newValidate(a *app) *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration, and say what holds with it",
		Long: `Reads the file, the environment and the references in it, checks everything that can be known without connecting, and
prints every problem with its file, line and column, its cause and what to do. Exit code 2 when there is one.

Where log.kafka names an external log, it is asked what it is, and validate says what holds with it; a log that does not answer within a few seconds is no
problem of the file. --offline asks nobody.`,
		Example: `  outrelay validate -c outrelay.yaml
  outrelay validate -c outrelay.yaml --offline --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(config.LoadOptions{File: a.file})
			var ps config.Problems
			if err != nil && !errors.As(err, &ps) {
				return err
			}
			if c != nil {
				// The handlers' parameters are checked by the sink's own parser.
				more, err := daemon.ValidateHandlers(c)
				if err != nil {
					return err
				}
				ps = append(ps, more...)
				slices.SortStableFunc(ps, func(a, b config.Problem) int {
					return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
				})
				for _, w := range c.Warnings() {
					ps = append(ps, w)
				}
			}
			var log *logReport
			if !slices.ContainsFunc(ps, func(p config.Problem) bool { return !p.Warning }) && c.Log.External() && !offline {
				log = askLog(cmd.Context(), c)
			}
			return a.report(c, ps, log)
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "connect to nothing")
	return cmd
}

// logReport is what an external log has said of itself.
type logReport struct {
	Error      string            `json:"error,omitempty"`
	Server     *kafka.Server     `json:"server,omitempty"`
	Guarantees []kafka.Guarantee `json:"guarantees,omitempty"`
}

// askLogMax bounds what validate waits for an external log.
const askLogMax = 5 * time.Second

func askLog(ctx context.Context, c *config.Config) *logReport {
	ctx, cancel := context.WithTimeout(ctx, askLogMax)
	defer cancel()
	s, err := daemon.DescribeLog(ctx, c)
	if err != nil {
		return &logReport{Error: err.Error()}
	}
	return &logReport{Server: &s, Guarantees: s.Guarantees()}
}

func (r *logReport) print(w io.Writer) {
	if r == nil {
		return
	}
	if r.Server == nil {
		fmt.Fprintf(w, "  log: not reached, so nothing can be said of it: %s\n", r.Error)
		return
	}
	fmt.Fprintf(w, "  log: Kafka %s, %d broker(s), cluster %s\n", r.Server.Version, r.Server.Brokers, r.Server.ClusterID)
	printGuarantees(w, "    ", r.Guarantees)
}

func printGuarantees(w io.Writer, indent string, gs []kafka.Guarantee) {
	for _, g := range gs {
		mark := "holds:"
		if !g.Holds {
			mark = "LIMIT:"
		}
		fmt.Fprintf(w, "%s%s %s\n", indent, mark, g.Text)
	}
}

func (a *app) report(c *config.Config, ps config.Problems, log *logReport) error {
	failed := 0
	for _, p := range ps {
		if !p.Warning {
			failed++
		}
	}
	if a.json {
		if ps == nil {
			ps = config.Problems{}
		}
		out := map[string]any{"valid": failed == 0, "problems": ps}
		if log != nil {
			out["log"] = log
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, p := range ps {
			kind := ""
			if p.Warning {
				kind = "warning: "
			}
			fmt.Fprintf(a.out, "%s%s\n", kind, p)
		}
		if failed == 0 {
			fmt.Fprintf(a.out, "%s: ok: %d source(s), %d consumer(s)\n", c.File(), len(c.Sources), len(c.Consumers))
			for name, g := range c.Consumers {
				fmt.Fprintf(a.out, "  group %s: exactly once: results and offset commit in one transaction of %s\n", name, g.Into.Database().DSN)
			}
			log.print(a.out)
		} else {
			fmt.Fprintf(a.out, "%d problem(s)\n", failed)
		}
	}
	if failed > 0 {
		return silentError{ps}
	}
	return nil
}

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the configuration in force",
		Example: "  outrelay config show\n  outrelay config schema > outrelay.schema.json"}
	var env bool
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration with its defaults, without secrets",
		Example: `  outrelay config show -c outrelay.yaml
  outrelay config show --env           # what the environment can override`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if env {
				return a.showOverrides()
			}
			c, err := a.loadIfAny()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(c)
			}
			b, err := c.YAML()
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	show.Flags().BoolVar(&env, "env", false, "list the settings that the environment can override")
	schema := &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of the file, for editors",
		Example: "  outrelay config schema > outrelay.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	cmd.AddCommand(show, schema)
	return cmd
}

func (a *app) showOverrides() error {
	list := config.Overrides()
	if a.json {
		return a.printJSON(list)
	}
	w := a.table("SETTING\tENVIRONMENT\tFLAG OF run\tWHAT")
	for _, o := range list {
		flag := ""
		if o.Flag != "" {
			flag = "--" + o.Flag
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Key, o.Env, flag, o.Doc)
	}
	return w.Flush()
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  outrelay version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": version, "commit": commit})
			}
			_, err := fmt.Fprintf(a.out, "outrelay %s (%s)\n", version, commit)
			return err
		},
	}
}
