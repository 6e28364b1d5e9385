package system_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/audit"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/demo"
)

const (
	orders = "outbox.event.order"
	group  = "order-totals"
)

// output is what a command line gave.
type output struct {
	stdout, stderr string
	code           int
}

// runCLI runs outrelay with args in the world's directory and environment.
func (w *world) runCLI(stdin string, args ...string) output {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.Process.Binary, args...)
	cmd.Dir = w.Dir
	cmd.Env = append(os.Environ(), w.Process.Env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("outrelay %v: %v", args, err)
	}
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// cli runs outrelay on the world's own file and log, and fails unless it exits with 0.
func (w *world) cli(args ...string) string {
	w.t.Helper()
	o := w.runCLI("", append(args, "--kafka", w.Process.Kafka)...)
	if o.code != 0 {
		w.t.Fatalf("outrelay %v: exit code %d\n%s%s", args, o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// status is what `outrelay status --json` says.
func (w *world) status() daemon.Status {
	w.t.Helper()
	var s daemon.Status
	parse(w.t, w.cli("status", "--json", "--http", w.Process.HTTP), &s)
	return s
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, text)
	}
}

// get returns the answer of one of the process's HTTP routes; code 0 when nobody answers.
func get(t *testing.T, p *demo.Process, path string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.HTTP+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// awaitReadyz waits until /readyz says code and every text.
func (w *world) awaitReadyz(code int, texts ...string) {
	w.t.Helper()
	last := ""
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the last answer of /readyz: %s", last)
		}
	}()
	await(w.t, fmt.Sprintf("/readyz says %d and %q", code, texts), 40*time.Second, func() bool {
		c, body := get(w.t, w.Process, "/readyz")
		last = fmt.Sprintf("%d %s", c, body)
		return c == code && containsAll(body, texts)
	})
}

func containsAll(s string, texts []string) bool {
	return !slices.ContainsFunc(texts, func(t string) bool { return !strings.Contains(s, t) })
}

func (w *world) launch(env ...string) {
	w.t.Helper()
	if err := w.Process.Launch(env...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	w.t.Helper()
	if err := w.Process.Stop(); err != nil {
		w.t.Fatal(err)
	}
}

// place commits n orders of as many customers, one transaction each, and waits for nothing.
func (w *world) place(n int) {
	w.t.Helper()
	w.pg.Exec(w.t, w.db, fmt.Sprintf("do $$ begin for i in 1..%d loop perform place_order('c' || (i %% 200), 1 + i / 100.0, true); commit; end loop; end $$", n))
}

// drained waits until everything that was committed is applied.
func (w *world) drained() {
	w.t.Helper()
	var committed, applied int64
	defer func() {
		if w.t.Failed() {
			w.t.Logf("applied %d of %d", applied, committed)
		}
	}()
	await(w.t, "everything is applied", 60*time.Second, func() bool {
		var err error
		committed, applied, err = w.Counts(w.t.Context())
		return err == nil && applied == committed
	})
}

// sinkExact compares the shop's ledger with what the warehouse has applied, by the databases alone: each event once, in the order of its key, and the
// totals right. It is the count for worlds whose log was deleted, where the audit must miss what the log no longer holds.
func (w *world) sinkExact() {
	w.t.Helper()
	want := rows(w.t, w.Shop, "select key || ' ' || id from ledger order by key, seq")
	got := rows(w.t, w.Warehouse, "select key || ' ' || id from applied order by key, n")
	if !slices.Equal(want, got) {
		w.t.Fatalf("the warehouse has applied %d events, the shop committed %d, and they are not the same in the same order of keys", len(got), len(want))
	}
	wantTotals := rows(w.t, w.Shop, "select key || ' ' || sum(amount)::numeric(14, 2) from ledger group by key order by key")
	gotTotals := rows(w.t, w.Warehouse, "select customer || ' ' || total from order_totals order by customer")
	if !slices.Equal(wantTotals, gotTotals) {
		w.t.Fatalf("totals differ: %v, want %v", gotTotals, wantTotals)
	}
}

// rows returns the first column of a query.
func rows(t *testing.T, dsn, sql string, args ...any) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	r, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// execute runs statements in one transaction of the database at dsn.
func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// client returns a Kafka client of the world's log.
func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.Process.Kafka)}, opts...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// records returns what stands in topics for a reader of committed records, by partition and offset.
func (w *world) records(topics ...string) []*kgo.Record {
	w.t.Helper()
	cl := w.client(kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(w.t.Context(), topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	left := map[string]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[fmt.Sprint(o.Topic, o.Partition)] = o.Offset
		}
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	var all []*kgo.Record
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			w.t.Fatalf("reading %v: %v (left: %v)", topics, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if k := fmt.Sprint(r.Topic, r.Partition); r.Offset+1 >= left[k] {
				delete(left, k)
			}
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
	}
	return all
}

// wipeData deletes the data directory of a process that has stopped.
func (w *world) wipeData() {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.Dir, "data")); err != nil {
		w.t.Fatal(err)
	}
}

// audit runs `outrelay audit` without waiting for what is missing, expects the exit code, and returns the report.
func (w *world) audit(code int, args ...string) audit.Report {
	w.t.Helper()
	o := w.runCLI("", append([]string{"audit", "shop", "--group", group, "--kafka", w.Process.Kafka, "--ledger", "public.ledger", "--applied", "public.applied", "--wait", "1ms", "--json"}, args...)...)
	if o.code != code {
		w.t.Fatalf("audit: exit code %d, want %d\n%s%s", o.code, code, o.stdout, o.stderr)
	}
	var r audit.Report
	parse(w.t, o.stdout, &r)
	return r
}
