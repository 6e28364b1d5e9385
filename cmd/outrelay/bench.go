package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/bench"
	"github.com/outrelay/outrelay/internal/testenv"
)

func newBench(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "How fast, beside a peer or a physical limit",
		Long: `Measures this machine, and outrelay on it, always beside something else in the same run: what counts is the ratio. Each benchmark starts what it needs
(a throwaway PostgreSQL from the machine's own programs, outrelay in a process of its own) on the loopback, and removes it. With --out it also
writes the page of docs/benchmarks.

The exit code says whether it could be measured, not whether the targets were met.`,
		Example: `  outrelay bench log                          # produce, fetch, latency, transactions, beside Apache Kafka and kfake
  outrelay bench relay --out docs/benchmarks  # a PostgreSQL backlog into the log, beside pg_recvlogical
  outrelay bench latency --for 60s --json
  outrelay bench sink --rounds 5 --profile /tmp/profiles`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(
		a.benchVerb("relay", "Drain a PostgreSQL backlog into the log, beside pg_recvlogical", `  outrelay bench relay
  outrelay bench relay --rows 100000 --rounds 1`, bench.Relay),
		a.benchVerb("latency", "From commit in the source to visible in the sink at 1,000 events/s; memory, time to ready, size", `  outrelay bench latency
  outrelay bench latency --rate 500 --for 10s`, bench.Latency),
		a.benchVerb("sink", "Apply a backlog of the log into PostgreSQL, beside pgbench with pipelining", `  outrelay bench sink
  outrelay bench sink --rows 100000 --rounds 1`, bench.Sink),
		a.benchVerb("log", "The log alone, beside Apache Kafka and kfake", `  outrelay bench log
  outrelay bench log --only produce,fetch --for 60s --rounds 5
  outrelay bench log --rows 500 --for 3s --rounds 1`, bench.Log),
		a.benchVerb("scale", "The log with 1,000 partitions, 10 GiB and 100 members", `  outrelay bench scale
  outrelay bench scale --rows 1000000 --for 5s --rounds 1    # a backlog of 1 GiB`, bench.Scale),
		newKfakeServe(a),
		newKafkaServe(a),
		newBenchRead(a),
	)
	return cmd
}

type benchFunc func(context.Context, bench.Options) (*bench.Report, error)

func (a *app) benchVerb(name, short, example string, run benchFunc) *cobra.Command {
	o := bench.Options{Version: version, Commit: commit, Progress: os.Stderr}
	cmd := &cobra.Command{
		Use: name, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			for _, c := range o.Only {
				if !slices.Contains(bench.LogCases(), c) {
					return usageError{fmt.Errorf("--only %s: write some of %s", c, strings.Join(bench.LogCases(), ", "))}
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			r, err := run(ctx, o)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			return r.Print(a.out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "directory for <name>.md")
	f.StringVar(&o.Dir, "dir", "", "where data directories are made: the disk that is measured (default: the system's temporary directory)")
	f.IntVar(&o.Rounds, "rounds", 3, "how often both sides are measured, by turns")
	f.BoolVar(&o.Keep, "keep", false, "leave the working directory behind")
	f.StringVar(&o.Profile, "profile", "", "directory for CPU profiles of outrelay")
	if name == "log" {
		f.StringSliceVar(&o.Only, "only", nil, "what to measure, of "+strings.Join(bench.LogCases(), ", ")+" (default: everything)")
	}
	switch name {
	case "relay", "sink", "log", "scale":
		f.IntVar(&o.Rows, "rows", 0, "size of the backlog; for log, how many transactions at most; for scale, records of 1 KiB (default: the one of the target)")
	}
	switch name {
	case "latency":
		f.IntVar(&o.Rate, "rate", 1000, "events a second")
		fallthrough
	case "log", "scale", "sink":
		f.DurationVar(&o.For, "for", 0*time.Second, "how long a timed run takes (default: the one of the target)")
	}
	return cmd
}

// newKfakeServe is how `bench log` runs kfake in a process of its own; nobody else needs it.
func newKfakeServe(a *app) *cobra.Command {
	var topic string
	var partitions int32
	cmd := &cobra.Command{
		Use: "kfake-serve", Short: "Serve franz-go's in-memory fake of a broker until stopped", Hidden: true, Args: cobra.NoArgs,
		Example: `  outrelay bench kfake-serve --topic t --partitions 16`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return bench.ServeKfake(ctx, topic, partitions, a.out)
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "bench", "topic to create")
	cmd.Flags().Int32Var(&partitions, "partitions", 16, "its partitions")
	return cmd
}

// newBenchRead is how `bench scale` reads in a process of its own; nobody else needs it.
func newBenchRead(a *app) *cobra.Command {
	var topic string
	var partitions int
	var length time.Duration
	cmd := &cobra.Command{
		Use: "read", Short: "Read a topic again and again for a time, and print how many records came", Hidden: true, Args: cobra.NoArgs,
		Example: `  outrelay bench read --kafka 127.0.0.1:9092 --topic t --for 10s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := bench.Read(cmd.Context(), a.kafka, topic, partitions, length)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, n)
			return err
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "bench", "topic to read")
	cmd.Flags().IntVar(&partitions, "partitions", 16, "its partitions")
	cmd.Flags().DurationVar(&length, "for", 10*time.Second, "how long")
	return cmd
}

// newKafkaServe runs a throwaway Apache Kafka, for those who want to try `log: {kafka: …}` without a cluster.
func newKafkaServe(a *app) *cobra.Command {
	o := testenv.KafkaOptions{}
	cmd := &cobra.Command{
		Use: "kafka-serve", Short: "Serve a throwaway Apache Kafka of one node until stopped", Hidden: true, Args: cobra.NoArgs,
		Example: `  make kafka            # fetches the jars first
  outrelay bench kafka-serve --port 19092`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			k, err := testenv.OpenKafka(ctx, o)
			if err != nil {
				return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "no-kafka", Cause: "Apache Kafka", Err: err}
			}
			defer k.Close()
			if _, err := fmt.Fprintf(a.out, "Apache Kafka %s on %s\n", testenv.KafkaVersion, k.Addr()); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
	}
	cmd.Flags().IntVar(&o.Port, "port", 19092, "port on the loopback")
	cmd.Flags().IntVar(&o.TransactionVersion, "transaction-version", 2, "the feature transaction.version: 1 or 2")
	return cmd
}
