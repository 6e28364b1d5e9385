package demo

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// watcher shows, once a second, how far the events have come, as the databases and the log say.
type watcher struct {
	d       *demo
	load    *Load
	began   time.Time
	conn    *warehouse // nil before the first line
	last    int64      // applied.n up to which latencies were shown
	applied int64
}

func (w *watcher) watch(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	defer func() {
		if w.conn != nil {
			w.conn.close(ctx)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.line(ctx)
		}
	}
}

func (w *watcher) line(ctx context.Context) {
	if w.conn == nil {
		conn, err := openWarehouse(ctx, w.d.w.Warehouse)
		if err != nil {
			return
		}
		w.conn = &conn
	}
	// Rows become visible out of the order of n: those that came late are missing in the sample of latencies, so all are counted anew.
	ms, upTo, err := w.conn.latencies(ctx, w.last)
	if err == nil {
		w.applied, err = w.conn.count(ctx)
	}
	if err != nil {
		return // the next line will do
	}
	p50, p99 := quantile(ms, 0.5), quantile(ms, 0.99)
	w.last = upTo
	committed := w.load.Committed()
	inLog := "?"
	if n, err := w.d.w.Process.relayed(ctx); err == nil { // unknown while outrelay restarts
		inLog = strconv.FormatInt(n, 10)
	}
	end := "\n"
	if w.d.o.Live {
		end = "\x1b[K\r"
	}
	fmt.Fprintf(w.d.o.Progress, "%4.0fs  committed %7d  in the log %7s  applied %7d  lag %6d  p50 %6.1f ms  p99 %7.1f ms  restarts %d%s",
		time.Since(w.began).Seconds(), committed, inLog, w.applied, max(0, committed-w.applied), p50, p99, w.d.w.Process.Restarts(), end)
}

func (w *watcher) end() {
	if w.d.o.Live {
		fmt.Fprintln(w.d.o.Progress)
	}
}
