package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/internal/demo"
)

func newDemo(a *app) *cobra.Command {
	o := demo.Options{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on a throwaway PostgreSQL, with crashes, and count",
		Long: `Starts a throwaway PostgreSQL with a shop and a warehouse, and outrelay in a process of its own; puts load on the shop (several connections, rollbacks,
savepoints, rows deleted after they were inserted, several rows a transaction, hot keys); with --crash, kills outrelay with kill -9 every few seconds. Then the
load stops, and ` + "`outrelay audit`" + ` counts from outside. Exit code 1 when anything was lost, duplicated or reordered.`,
		Example: `  outrelay demo
  outrelay demo --crash --for 60s --rate 1000 --json
  outrelay demo --crash --log kafka://127.0.0.1:19092   # a Kafka in the place of outrelay's own log
  outrelay demo --crash --source mysql --sink mariadb   # the shop is in a MySQL, the results go to a MariaDB
  outrelay demo --postgres system        # the machine's own PostgreSQL programs, nothing is fetched`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Postgres != "embedded" && o.Postgres != "system" {
				return usageError{fmt.Errorf("--postgres %q: write embedded or system", o.Postgres)}
			}
			for flag, kind := range map[string]string{"source": o.Source, "sink": o.Sink} {
				if !slices.Contains([]string{demo.SinkPostgres, demo.SinkMariaDB, demo.SinkMySQL}, kind) {
					return usageError{fmt.Errorf("--%s %q: write postgres, mariadb or mysql", flag, kind)}
				}
			}
			if o.Rate < 1 || o.For < time.Second || o.CrashEvery < time.Second {
				return usageError{fmt.Errorf("--rate, --for and --crash-every must be positive, the times at least 1s")}
			}
			var err error
			if o.Log, err = logAddress(o.Log); err != nil {
				return err
			}
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			o.Binary, o.JSON, o.Out, o.Progress = binary, a.json, a.out, io.Writer(os.Stderr)
			o.Live = isTerminal(os.Stderr)
			r, err := demo.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := r.Report(o); err != nil {
				return err
			}
			return r.Failed()
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.For, "for", 30*time.Second, "how long the load runs")
	f.IntVar(&o.Rate, "rate", 500, "source transactions a second")
	f.BoolVar(&o.Crash, "crash", false, "kill -9 outrelay again and again")
	f.DurationVar(&o.CrashEvery, "crash-every", 5*time.Second, "time between crashes")
	f.StringVar(&o.Postgres, "postgres", "embedded", "embedded (fetched once and cached) or system")
	f.StringVar(&o.Source, "source", demo.SinkPostgres, "where the shop is: postgres, mariadb or mysql (the machine's own programs)")
	f.StringVar(&o.Sink, "sink", demo.SinkPostgres, "where the warehouse is: postgres, mariadb or mysql (the machine's own programs)")
	f.StringVar(&o.Log, "log", "", "kafka://host:port of a Kafka that runs already (default: outrelay's own log); the demo's topics stay there")
	f.BoolVar(&o.Keep, "keep", false, "leave the working directory behind")
	return cmd
}

// logAddress returns the host:port of a kafka:// URL.
func logAddress(s string) (string, error) {
	addr, ok := strings.CutPrefix(s, "kafka://")
	if s == "" {
		return "", nil
	}
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil {
		return "", usageError{fmt.Errorf("--log %q: write kafka://host:port", s)}
	}
	return addr, nil
}
