package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/outrelay/outrelay"
)

// Options says what the demo does. Binary is needed.
type Options struct {
	Binary     string // outrelay's own path
	For        time.Duration
	Rate       int  // source transactions a second
	Crash      bool // kill -9 outrelay every CrashEvery
	CrashEvery time.Duration
	Postgres   string // embedded or system
	Source     string // postgres, mariadb or mysql: where the shop is; empty is postgres
	Sink       string // postgres, mariadb or mysql: where the warehouse is; empty is postgres
	Log        string // host:port of an external Kafka; empty: outrelay's own log
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
	P50MS           float64 `json:"p50_ms"`             // commit in the shop to commit in the warehouse (MySQL, MariaDB: to the row there)
	P99MS           float64 `json:"p99_ms"`
	TxnsPerSecond   float64 `json:"transactions_per_second"`
	RSSBytesHighest int64   `json:"rss_bytes_highest"`
}

// Clean reports whether every event was applied once and in order.
func (r Result) Clean() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 && r.Phantoms == 0 && r.WrongTotals == 0 && r.Applied == r.Committed && r.Committed > 0
}

type demo struct {
	o Options
	w *World
}

// Run does the whole demo and returns what was counted. The error says why it could not be done; a count that is not clean is no error here.
func Run(ctx context.Context, o Options) (Result, error) {
	d := &demo{o: o}
	dir, err := os.MkdirTemp("", "outrelay-demo-")
	if err != nil {
		return Result{}, err
	}
	if o.Keep {
		defer d.say("kept: %s", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	d.w = &World{Dir: dir, Config: ConfigText, Say: d.say}
	closeServers, err := d.startServers(ctx)
	defer closeServers()
	if err != nil {
		return Result{}, err
	}
	if o.Log != "" {
		d.w.Config = External(d.w.Config, "demo-"+strconv.FormatInt(time.Now().UnixMilli(), 36), o.Log)
	}
	if err := d.w.SetUp(ctx, o.Binary); err != nil {
		return Result{}, fmt.Errorf("set up the shop and the warehouse: %w", err)
	}
	defer d.w.Process.Close()
	if o.Log != "" {
		d.w.Process.Kafka, d.w.Process.External = o.Log, true
	}
	first, err := d.w.Process.Start(ctx)
	if err != nil {
		return Result{}, err
	}
	d.say("outrelay is ready after %d ms, with this file:\n\n%s", first.Milliseconds(), indent(d.w.Config))
	return d.run(ctx)
}

// startServers starts what the shop and the warehouse are in: one PostgreSQL for both, or a server of another family for either.
func (d *demo) startServers(ctx context.Context) (closeAll func(), err error) {
	var running []func()
	closeAll = func() {
		for _, f := range running {
			f()
		}
	}
	other := func(kind, what string, start func(context.Context, string) (string, func(), error)) (string, error) {
		d.say("starting a throwaway %s for the %s", kind, what)
		dsn, closeServer, err := start(ctx, kind)
		if err == nil {
			running = append(running, closeServer)
		}
		return dsn, err
	}
	if d.o.Source != "" && d.o.Source != SinkPostgres {
		if d.w.Shop, err = other(d.o.Source, "shop", startShop); err != nil {
			return closeAll, err
		}
		d.w.Config = From(d.w.Config, d.o.Source, "shop")
	}
	if d.o.Sink != "" && d.o.Sink != SinkPostgres {
		if d.w.Warehouse, err = other(d.o.Sink, "warehouse", startWarehouse); err != nil {
			return closeAll, err
		}
		d.w.Config = Into(d.w.Config, d.o.Sink)
	}
	if d.w.Shop != "" && d.w.Warehouse != "" {
		return closeAll, nil
	}
	d.say("starting a throwaway PostgreSQL (%s)", d.o.Postgres)
	pg, err := startPostgres(ctx, d.o.Postgres, d.say)
	if err != nil {
		return closeAll, err
	}
	running = append(running, pg.Close)
	for name, dsn := range map[string]*string{"shop": &d.w.Shop, "warehouse": &d.w.Warehouse} {
		if *dsn != "" {
			continue
		}
		if err := execute(ctx, pg.DSN("postgres"), "create database "+name); err != nil {
			return closeAll, err
		}
		*dsn = pg.DSN(name)
	}
	return closeAll, nil
}

func (d *demo) run(ctx context.Context) (Result, error) {
	load, err := StartLoad(ctx, d.w.Shop, d.o.Rate)
	if err != nil {
		return Result{}, err
	}
	d.say("the shop places up to %d orders a second for %s, with some rolled back and some of them several at once", d.o.Rate, d.o.For)
	if d.o.Crash {
		d.say("every %s outrelay is killed with kill -9 and started again; while it is down a line cannot ask it and says \"?\"", d.o.CrashEvery)
	}
	began := time.Now()
	w := &watcher{d: d, load: load, began: began}
	crashes := make(chan error, 1)
	until, stop := context.WithDeadline(ctx, began.Add(d.o.For))
	defer stop()
	go func() { crashes <- d.crash(until) }()
	w.watch(until)
	took := time.Since(began)
	if err := load.Stop(); err != nil {
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
	if err := d.w.Drain(ctx); err != nil {
		return Result{}, err
	}
	d.say("counting from outside: outrelay audit shop --group order-totals")
	r, err := d.w.Count(ctx)
	if err != nil {
		return r, err
	}
	r.TxnsPerSecond = float64(load.Txns()) / took.Seconds()
	return r, d.w.Process.Stop()
}

// crash kills and restarts outrelay until ctx ends. It always leaves it running.
func (d *demo) crash(ctx context.Context) error {
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
		if err := d.w.Process.Kill(); err != nil {
			return err
		}
		if _, err := d.w.Process.Start(context.WithoutCancel(ctx)); err != nil {
			return err
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
	during := ""
	if r.Restarts > 0 {
		during = ", what waited for restarts included"
	}
	_, err := fmt.Fprintf(o.Out, `
  %d source transactions a second, %d restarts by kill -9 (slowest back at work after %d ms)
  latency from commit to commit%s: p50 %.1f ms, p99 %.1f ms
  %s
  next: write an outrelay.yaml like the one above for databases of your own, then: outrelay validate && outrelay doctor && outrelay run
committed %d  in log %d  applied %d  lost %d  duplicated %d  reordered %d
`, int(r.TxnsPerSecond), r.Restarts, r.SlowestBackMS, during, r.P50MS, r.P99MS, verdict,
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
