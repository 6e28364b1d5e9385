// Command outrelay captures outbox tables, keeps their events in a replicated log that speaks the Kafka protocol, and applies them to databases
// exactly once.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
)

// version and commit are set by the linker.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:]))
}

// execute runs one command line and returns its exit code: 0 ok, 1 runtime, 2 configuration or usage, 3 environment, 4 data halt.
func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var silent silentError
	if !errors.As(err, &silent) {
		printError(err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var u usageError
	if errors.As(err, &u) {
		return 2
	}
	return outrelay.ExitCode(err)
}

// printError shows an error as people read it: problems of a configuration one a line, everything else with its fix on a line of its own.
func printError(err error) {
	var ps config.Problems
	if errors.As(err, &ps) {
		for _, p := range ps {
			fmt.Fprintln(os.Stderr, p)
		}
		fmt.Fprintf(os.Stderr, "%d problem(s); nothing was started\n", len(ps))
		return
	}
	fmt.Fprintln(os.Stderr, "outrelay:", err)
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// silentError has been shown already; only its class counts.
type silentError struct{ error }

func (e silentError) Unwrap() error { return e.error }

func newRoot() *cobra.Command {
	a := &app{out: os.Stdout}
	root := &cobra.Command{
		Use:   "outrelay",
		Short: "From an outbox table to results in another database, exactly once",
		Long: `outrelay tails the outbox tables of your databases, keeps their events in a log that speaks the Kafka
protocol, and applies them by SQL to another database: results and offset in one transaction.

Exit codes: 0 ok, 1 runtime, 2 configuration, 3 environment, 4 data halt.`,
		Example: `  outrelay demo                      # see it work, with crashes; needs nothing
  outrelay validate -c outrelay.yaml # what is wrong with the file, and how to mend it
  outrelay run -c outrelay.yaml      # run what the file says
  outrelay run --log-only            # the log alone, for any Kafka client
  outrelay status                    # positions, offsets, lag`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
	})
	p := root.PersistentFlags()
	p.StringVarP(&a.file, "config", "c", "", "configuration file (default ./outrelay.yaml)")
	p.BoolVar(&a.json, "json", false, "print JSON")
	p.StringVar(&a.kafka, "kafka", "", "address of the log, where the file does not say it or there is none")
	p.StringVar(&a.user, "user", "", "user of the log, where the file does not say it (SCRAM); needs --password-file")
	p.StringVar(&a.passwordFile, "password-file", "", "file that holds the user's password")
	p.StringVar(&a.tls.CA, "tls-ca", "", "PEM file of the authorities that sign the log's certificate; turns TLS on")
	p.StringVar(&a.tls.Cert, "tls-cert", "", "PEM file of a client certificate")
	p.StringVar(&a.tls.Key, "tls-key", "", "PEM file of its key")
	root.AddCommand(
		newRun(a), newValidate(a), newDoctor(a), newConfig(a), newInit(a), newStatus(a),
		newTopics(a), newGroups(a), newUsers(a), newACLs(a), newProduce(a), newConsume(a),
		newLog(a), newAudit(a), newDemo(a), newBench(a), newVersion(a),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	completeHelp(root)
	wrapArgs(root)
	return root
}

// completeHelp gives cobra's own verbs the examples that ours have.
func completeHelp(root *cobra.Command) {
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = "  outrelay help topics create"
		case "completion":
			c.Example = "  source <(outrelay completion bash)"
			for _, shell := range c.Commands() {
				shell.Example = fmt.Sprintf("  outrelay completion %s > outrelay.%[1]s", shell.Name())
			}
		}
	}
}

// wrapArgs makes wrong arguments a usage error, at every depth: also a verb that is not there, which cobra answers with help and 0 below the root.
func wrapArgs(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.DisableFlagsInUseLine = true
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		c.Args = unknownCommand
	}
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, s := range c.Commands() {
		wrapArgs(s)
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q for %q: did you mean %s?", args[0], cmd.CommandPath(), strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
}
