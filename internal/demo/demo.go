package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
)

// Options says what the demo does. Binary is needed.
type Options struct {
	Binary     string // outrelay's own path
	For        time.Duration
	Rate       int  // source transactions a second
	Crash      bool // kill -9 outrelay every CrashEvery
	CrashEvery time.Duration
	Postgres   string // embedded or system
	Keep       bool   // leave the working directory behind
	JSON       bool   // only the result goes to Out
	Live       bool   // Out is a terminal: the live line is rewritten in place
	Out        io.Writer
	Progress   io.Writer // where everything but the result goes
	Logger     *slog.Logger
}

// Result is what was counted. Lost, Duplicated and Reordered are zero, or the demo has failed.
type Result struct {
	Committed       int64   `json:"committed"`
	InLog           int64   `json:"in_log"`
	Applied         int64   `json:"applied"`
	Lost            int64   `json:"lost"`
	Duplicated      int64   `json:"duplicated"`
	Reordered       int64   `json:"reordered"`
	Phantoms        int64   `json:"phantoms"`
	WrongTotals     int64   `json:"wrong_totals"` // customers whose total in the warehouse differs from the shop's
	Restarts        int     `json:"restarts"`
	SlowestBackMS   int64   `json:"slowest_restart_ms"` // from the kill to /readyz
	P50MS           float64 `json:"p50_ms"`             // commit in the shop to commit in the warehouse
	P99MS           float64 `json:"p99_ms"`
	TxnsPerSecond   float64 `json:"transactions_per_second"`
	RSSBytesHighest int64   `json:"rss_bytes_highest"`
}

// Clean reports whether every event was applied once and in order.
func (r Result) Clean() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 && r.Phantoms == 0 && r.WrongTotals == 0 && r.Applied == r.Committed && r.Committed > 0
}

// drainMax is how long the last events may take to arrive after the load has stopped.
const drainMax = 60 * time.Second

type demo struct {
	o     Options
	dir   string
	pg    *testenv.Postgres
	child *child
	load  *load
}

// Run does the whole demo and returns what was counted. The error says why it could not be done; a count that is not clean is no error here.
func Run(ctx context.Context, o Options) (Result, error) {
	d := &demo{o: o}
	var err error
	if d.dir, err = os.MkdirTemp("", "outrelay-demo-"); err != nil {
		return Result{}, err
	}
	if o.Keep {
		defer d.say("kept: %s", d.dir)
	} else {
		defer os.RemoveAll(d.dir)
	}
	d.say("starting a throwaway PostgreSQL (%s)", o.Postgres)
	if d.pg, err = startPostgres(ctx, o.Postgres, d.say); err != nil {
		return Result{}, err
	}
	defer d.pg.Close()
	if err := d.setUp(ctx); err != nil {
		return Result{}, fmt.Errorf("set up the shop and the warehouse: %w", err)
	}
	if d.child, err = newChild(ctx, o.Binary, d.dir, d.pg); err != nil {
		return Result{}, err
	}
	defer d.child.close()
	first, err := d.child.start(ctx)
	if err != nil {
		return Result{}, err
	}
	d.say("outrelay is ready after %d ms, with this file:\n\n%s", first.Milliseconds(), indent(configText))
	return d.run(ctx)
}

func (d *demo) run(ctx context.Context) (Result, error) {
	var err error
	if d.load, err = startLoad(ctx, d.pg.DSN("shop"), d.o.Rate); err != nil {
		return Result{}, err
	}
	began := time.Now()
	w := &watcher{d: d, began: began}
	crashes := make(chan error, 1)
	until, stop := context.WithDeadline(ctx, began.Add(d.o.For))
	defer stop()
	var restarting atomic.Bool
	go func() { crashes <- d.crash(until, &restarting) }()
	w.watch(until)
	took := time.Since(began)
	if err := d.load.stop(); err != nil {
		return Result{}, fmt.Errorf("load: %w", err)
	}
	if err := <-crashes; err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	w.end()
	d.say("the load has stopped; waiting until everything that was committed is applied")
	if err := d.drain(ctx); err != nil {
		return Result{}, err
	}
	d.say("counting from outside: outrelay audit shop --group order-totals")
	r, err := d.count(ctx)
	if err != nil {
		return r, err
	}
	r.TxnsPerSecond = float64(d.load.txns.Load()) / took.Seconds()
	return r, d.child.stop()
}

// crash kills and restarts outrelay until ctx ends. It always leaves it running.
func (d *demo) crash(ctx context.Context, _ *atomic.Bool) error {
	if !d.o.Crash {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(d.o.CrashEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.child.kill(); err != nil {
			return err
		}
		if _, err := d.child.start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
}

// drain waits until the warehouse has as many events as the shop has committed.
func (d *demo) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		committed, applied, err := d.counts(ctx)
		if err != nil {
			return err
		}
		if applied >= committed {
			return nil
		}
		select {
		case <-ctx.Done():
			d.say("after %s, %d of %d events are applied; counting what is there", drainMax, applied, committed)
			return nil
		case <-t.C:
		}
	}
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.o.Progress, "demo: "+format+"\n", args...)
}

// Report prints the result: a JSON line, or the same for people.
func (r Result) Report(o Options) error {
	if o.JSON {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.Out, "%s\n", b)
		return err
	}
	verdict := "every committed event was applied once, in the order of its key"
	if !r.Clean() {
		verdict = "NOT every committed event was applied once and in order"
	}
	_, err := fmt.Fprintf(o.Out, `
  %d source transactions a second, %d restarts by kill -9 (slowest back at work after %d ms)
  latency from commit to commit: p50 %.1f ms, p99 %.1f ms
  %s
committed %d  in log %d  applied %d  lost %d  duplicated %d  reordered %d
`, int(r.TxnsPerSecond), r.Restarts, r.SlowestBackMS, r.P50MS, r.P99MS, verdict,
		r.Committed, r.InLog, r.Applied, r.Lost, r.Duplicated, r.Reordered)
	return err
}

// Failed returns the error of a result that is not clean.
func (r Result) Failed() error {
	if r.Clean() {
		return nil
	}
	return &outrelay.Error{Class: errNotClean, Code: "demo-not-clean",
		Cause: fmt.Sprintf("lost %d, duplicated %d, reordered %d, phantoms %d, wrong totals %d, applied %d of %d", r.Lost, r.Duplicated, r.Reordered, r.Phantoms, r.WrongTotals, r.Applied, r.Committed),
		Fix:   "run again with --keep and read outrelay.log in the directory it names"}
}

var errNotClean = fmt.Errorf("the count is not clean")

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }
