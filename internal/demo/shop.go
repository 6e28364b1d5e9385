package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/audit"
)

// configText is the file that outrelay runs with: the first deployment of the README, with a second statement that notes each event in the
// same transaction, so that the count from outside can tell what was applied, and in which order.
const configText = `sources:
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

const warehouseSQL = `
create table order_totals (customer text primary key, total numeric(14, 2) not null);
create table applied (n bigint generated always as identity primary key, id text not null, key text not null, committed_at timestamptz);
`

func (d *demo) setUp(ctx context.Context) error {
	for db, sql := range map[string]string{"shop": shopSQL, "warehouse": warehouseSQL} {
		if err := execute(ctx, d.pg.DSN("postgres"), "create database "+db); err != nil {
			return err
		}
		if err := execute(ctx, d.pg.DSN(db), sql); err != nil {
			return err
		}
	}
	return os.WriteFile(d.path("outrelay.yaml"), []byte(configText), 0o600)
}

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

// counts returns how many events the shop has committed and the warehouse has applied.
func (d *demo) counts(ctx context.Context) (committed, applied int64, err error) {
	if err = query(ctx, d.pg.DSN("shop"), "select count(*) from ledger", &committed); err != nil {
		return 0, 0, err
	}
	err = query(ctx, d.pg.DSN("warehouse"), "select count(*) from applied", &applied)
	return committed, applied, err
}

// count runs `outrelay audit` as anybody would, and compares the totals besides.
func (d *demo) count(ctx context.Context) (Result, error) {
	r := Result{Restarts: d.child.restarts, SlowestBackMS: d.child.slowest.Milliseconds(), RSSBytesHighest: d.child.rss}
	report, err := d.audit(ctx)
	if err != nil {
		return r, err
	}
	r.Committed, r.InLog, r.Applied = report.Committed, report.InLog, report.Applied
	r.Lost, r.Duplicated, r.Reordered, r.Phantoms = report.Lost, report.Duplicated, report.Reordered, report.Phantoms
	for _, f := range report.Findings {
		d.say("%s: event %s of key %s: %s", f.Kind, f.ID, f.Key, f.Text)
	}
	if r.WrongTotals, err = d.wrongTotals(ctx); err != nil {
		return r, err
	}
	err = query(ctx, d.pg.DSN("warehouse"), `select coalesce(percentile_cont(0.5) within group (order by ms), 0), coalesce(percentile_cont(0.99) within group (order by ms), 0)
		from (select extract(epoch from pg_xact_commit_timestamp(xmin) - committed_at) * 1000 as ms from applied) l`, &r.P50MS, &r.P99MS)
	return r, err
}

func (d *demo) audit(ctx context.Context) (audit.Report, error) {
	var report audit.Report
	cmd := exec.CommandContext(ctx, d.o.Binary, "audit", "shop", "--group", "order-totals", "-c", d.path("outrelay.yaml"),
		"--kafka", d.child.kafka, "--ledger", "public.ledger", "--applied", "public.applied", "--json")
	cmd.Env = d.child.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if jerr := json.Unmarshal(out, &report); jerr != nil {
		return report, fmt.Errorf("outrelay audit: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return report, nil // its exit code 4 says what the report says
}

// wrongTotals counts customers whose total in the warehouse is not the sum of their committed orders.
func (d *demo) wrongTotals(ctx context.Context) (int64, error) {
	want, err := totals(ctx, d.pg.DSN("shop"), "select key, sum(amount)::text from ledger group by key")
	if err != nil {
		return 0, err
	}
	got, err := totals(ctx, d.pg.DSN("warehouse"), "select customer, total::text from order_totals")
	if err != nil {
		return 0, err
	}
	wrong := int64(0)
	for c, sum := range want {
		if got[c] != sum {
			wrong++
			d.say("customer %s: the warehouse says %q, the shop %q", c, got[c], sum)
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
