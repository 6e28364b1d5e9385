package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
)

func newRun(a *app) *cobra.Command {
	var logOnly bool
	var level string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run what the configuration says: broker, relay, consumers, HTTP",
		Long: `Runs every role that the configuration names, until SIGTERM or SIGINT. Then it finishes what it has begun, for at
most 10 s; a second signal stops at once. A kill -9 is safe at any moment.

With OUTRELAY_CPUPROFILE=FILE in the environment, a CPU profile of the whole run is written to that file at the end.`,
		Example: `  outrelay run                                   # ./outrelay.yaml
  outrelay run -c shop.yaml --data /var/lib/outrelay
  outrelay run --log-only --kafka-listen 127.0.0.1:9092   # no file is needed; ./outrelay.yaml is taken where it is`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usageError{fmt.Errorf("--log-level %q: write debug, info, warn or error", level)}
			}
			c, err := a.load(cmd.Flags(), logOnly)
			if err != nil {
				return err
			}
			if logOnly {
				c.Roles = []config.Role{config.RoleBroker, config.RoleAdmin}
				c.Log = config.Log{}
			}
			stop, err := startProfile(os.Getenv("OUTRELAY_CPUPROFILE"))
			if err != nil {
				return err
			}
			defer stop()
			return runDaemon(cmd.Context(), c, logger(l))
		},
	}
	f := cmd.Flags()
	f.String("data", "", "directory of the log and of this process's identity (data)")
	f.String("kafka-listen", "", "address of the Kafka listener (broker.listen)")
	f.String("http-listen", "", "address of the HTTP listener (http.listen)")
	f.BoolVar(&logOnly, "log-only", false, "run the broker alone, as the file says where there is one")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// heapFloorBytes is how large the live heap counts at least when the collector decides when to run next: it runs after so many bytes and
// what is alive were allocated anew.
const heapFloorBytes = 32 << 20

// boundHeap makes the collector work harder as the memory in use comes near the bound: garbage would else take as much again as what a large
// transaction keeps in buffers. It is no hard limit. An eighth is left to what the collector does not count, the program's own pages first. GOMEMLIMIT
// in the environment says otherwise.
func boundHeap(bytes int64) {
	if os.Getenv("GOMEMLIMIT") == "" && bytes > 0 {
		debug.SetMemoryLimit(bytes - bytes/8)
	}
}

func runDaemon(ctx context.Context, c *config.Config, log *slog.Logger) error {
	if os.Geteuid() == 0 {
		log.Warn("running as root; outrelay needs no privilege: use a user of its own")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		log.Info("stopping; a second signal stops at once")
		stop()
		if _, ok := <-signals; ok {
			log.Warn("stopped at once")
			os.Exit(1)
		}
	}()
	// Little of what this process allocates stays: without a floor the collector would run for every few megabytes of records that pass
	// through. The floor is never written to, so it is address space and no memory. A heap that is large in earnest grows as ever.
	floor := make([]byte, heapFloorBytes)
	defer runtime.KeepAlive(floor)
	boundHeap(int64(c.Broker.Memory))
	d := daemon.New(daemon.Options{Config: c, Version: version, Logger: log})
	log.Info("outrelay starts", "version", version, "config", c.File(), "roles", c.Roles, "data", c.Data)
	err := d.Run(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("outrelay stopped")
	return nil
}

// startProfile writes a CPU profile to the file until stop is called; without a file it does nothing.
func startProfile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("OUTRELAY_CPUPROFILE: %w", err)}
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("OUTRELAY_CPUPROFILE: %w", err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a profile, not data
	}, nil
}
