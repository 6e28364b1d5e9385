package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/audit"
)

// ConfigText is the file that outrelay runs with: the first deployment of the README, with a second statement that notes each event in the
// same transaction, so that the count from outside can tell what was applied, and in which order.
const ConfigText = `sources:
  shop:
    postgres: ${env:SHOP_DSN}
    outbox:
      - table: public.outbox
consumers:
  order-totals:
    topics: [outbox.event.order]
    into: {postgres: ${env:WAREHOUSE_DSN}}
    handle:
      OrderPlaced:
        - |
          insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
          on conflict (customer) do update set total = order_totals.total + excluded.total
        - insert into applied (id, key, committed_at) values (:id, :key, :committed_at)
`

// The shop commits an order, its event, and a line of the ledger that nobody deletes: what the audit takes for the truth. The customer's row
// is locked until commit, so seq grows in commit order for each key.
const shopSQL = `
create table customers (name text primary key, seq bigint not null default 0);
insert into customers select 'c' || n from generate_series(0, 499) n;
create table orders (id bigint generated always as identity primary key, customer text not null, amount numeric(12, 2) not null);
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null, type text not null, payload jsonb);
create table ledger (id uuid primary key, key text not null, seq bigint not null, amount numeric(12, 2) not null);
create function place_order(who text, price numeric, keep boolean) returns void language sql as $$
  with c as (update customers set seq = seq + 1 where name = who returning seq),
       o as (insert into orders (customer, amount) select who, price from c returning id),
       e as (insert into outbox (aggregatetype, aggregateid, type, payload)
             select 'order', who, 'OrderPlaced', jsonb_build_object('order', o.id, 'customer', who, 'amount', price) from o returning id)
  insert into ledger (id, key, seq, amount) select e.id, who, c.seq, price from e, c;
  delete from outbox where not keep and id = (select l.id from ledger l where l.key = who order by l.seq desc limit 1);
$$;
create index on ledger (key, seq);
`

// World is a shop and a warehouse in two databases, and outrelay between them.
type World struct {
	Dir             string // working directory: configuration, data, log
	Shop, Warehouse string // connection strings
	Config          string // outrelay.yaml; ConfigText unless a test says otherwise
	Process         *Process
	Say             func(format string, args ...any) // told what is found
}

// External returns the configuration with an external log in the place of outrelay's own. Everything that it makes there is named after run, which stands for
// one world: its events, positions and transactional ids are strange to any other.
func External(config, run, addr string) string {
	config = strings.Replace(config, "consumers:\n", "        topic: "+run+".{aggregatetype}\nconsumers:\n", 1) // behind the outbox table
	config = strings.Replace(config, "topics: [outbox.event.order]", "topics: ["+run+".order]", 1)
	return "log:\n  kafka:\n    brokers: ['" + addr + "']\n    prefix: " + run + ".\n" + config
}

// drainMax is how long the last events may take to arrive after the load has stopped.
const drainMax = 60 * time.Second

// SetUp makes the tables and the file, and a process that does not run yet.
func (w *World) SetUp(ctx context.Context, binary string) error {
	if err := setUpShop(ctx, w.Shop); err != nil {
		return err
	}
	wh, err := openWarehouse(ctx, w.Warehouse)
	if err != nil {
		return err
	}
	defer wh.close(ctx)
	if err := wh.setUp(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.Dir, "outrelay.yaml"), []byte(w.Config), 0o600); err != nil {
		return err
	}
	w.Process, err = NewProcess(binary, w.Dir, w.Env()...)
	return err
}

// Env is what the configuration's references resolve to.
func (w *World) Env() []string { return []string{"SHOP_DSN=" + w.Shop, "WAREHOUSE_DSN=" + w.Warehouse} }

func execute(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func query(ctx context.Context, dsn, sql string, into ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// Counts returns how many events the shop has committed and the warehouse has applied.
func (w *World) Counts(ctx context.Context) (committed, applied int64, err error) {
	if committed, err = shopCount(ctx, w.Shop); err != nil {
		return 0, 0, err
	}
	wh, err := openWarehouse(ctx, w.Warehouse)
	if err != nil {
		return committed, 0, err
	}
	defer wh.close(ctx)
	applied, err = wh.count(ctx)
	return committed, applied, err
}

// Drain waits until the warehouse has as many events as the shop has committed, or gives up after a minute: the count tells then.
func (w *World) Drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		committed, applied, err := w.Counts(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		if applied >= committed {
			return nil
		}
		select {
		case <-ctx.Done():
			w.Say("after %s, %d of %d events are applied; counting what is there", drainMax, applied, committed)
			return nil
		case <-t.C:
		}
	}
}

// Count runs `outrelay audit` as anybody would, and compares the totals besides.
func (w *World) Count(ctx context.Context) (Result, error) {
	w.Process.noteMemory()
	r := Result{Restarts: w.Process.Restarts(), SlowestBackMS: time.Duration(w.Process.slowest.Load()).Milliseconds(), RSSBytesHighest: w.Process.rss.Load()}
	report, err := w.audit(ctx)
	if err != nil {
		return r, err
	}
	r.Committed, r.InLog, r.Applied = report.Committed, report.InLog, report.Applied
	r.Lost, r.Duplicated, r.Reordered, r.Phantoms = report.Lost, report.Duplicated, report.Reordered, report.Phantoms
	for _, f := range report.Findings {
		w.Say("%s: event %s of key %s: %s", f.Kind, f.ID, f.Key, f.Text)
	}
	wh, err := openWarehouse(ctx, w.Warehouse)
	if err != nil {
		return r, err
	}
	defer wh.close(ctx)
	if r.WrongTotals, err = w.wrongTotals(ctx, wh); err != nil {
		return r, err
	}
	ms, _, err := wh.latencies(ctx, 0)
	r.P50MS, r.P99MS = quantile(ms, 0.5), quantile(ms, 0.99)
	return r, err
}

func (w *World) audit(ctx context.Context) (audit.Report, error) {
	var report audit.Report
	ledger, applied := "public.ledger", "public.applied"
	if isMySQL(w.Shop) {
		ledger = "ledger"
	}
	if isMySQL(w.Warehouse) {
		applied = "applied"
	}
	cmd := exec.CommandContext(ctx, w.Process.Binary, "audit", "shop", "--group", "order-totals", "-c", filepath.Join(w.Dir, "outrelay.yaml"),
		"--kafka", w.Process.Kafka, "--ledger", ledger, "--applied", applied, "--json")
	cmd.Env = append(os.Environ(), w.Env()...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if jerr := json.Unmarshal(out, &report); jerr != nil {
		return report, fmt.Errorf("outrelay audit: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return report, nil // its exit code 4 says what the report says
}

// wrongTotals counts customers whose total in the warehouse is not the sum of their committed orders.
func (w *World) wrongTotals(ctx context.Context, wh warehouse) (int64, error) {
	want, err := shopTotals(ctx, w.Shop)
	if err != nil {
		return 0, err
	}
	got, err := wh.totals(ctx)
	if err != nil {
		return 0, err
	}
	wrong := int64(0)
	for c, sum := range want {
		if got[c] != sum {
			wrong++
			w.Say("customer %s: the warehouse says %q, the shop %q", c, got[c], sum)
		}
		delete(got, c)
	}
	return wrong + int64(len(got)), nil
}

func totals(ctx context.Context, dsn, sql string) (map[string]string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	var k, v string
	_, err = pgx.ForEachRow(rows, []any{&k, &v}, func() error { m[k] = v; return nil })
	return m, err
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n"
}
