package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/internal/daemon"
)

func newInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [SOURCE...]",
		Short: "Create what the sources need in their databases, and write the first position of each into the log",
		Long: `Creates, for each source, its publication and then its replication slot (MySQL, MariaDB: a row of outrelay_sources), and writes the first position into the log. Events of
transactions that commit from then on will be relayed. The log must be running (see --kafka). Without init, run does the
same at its first start, where the role may.`,
		Example: `  outrelay init -c outrelay.yaml
  outrelay init shop --kafka 127.0.0.1:9092`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(nil, false)
			if err != nil {
				return err
			}
			d := daemon.New(daemon.Options{Config: c, Version: version, Logger: logger(slog.LevelWarn)})
			log, err := a.log(c)
			if err != nil {
				return err
			}
			done, err := d.Init(cmd.Context(), log, args)
			if a.json && err == nil {
				return a.printJSON(done)
			}
			for _, r := range done {
				fmt.Fprintf(a.out, "source %s: its position in the log is %s\n", r.Source, r.Position)
			}
			return a.reach(err)
		},
	}
}
