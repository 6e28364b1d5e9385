package system_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/outrelay/outrelay/internal/daemon"
)

// designYAML is the file of a first deployment, as the design shows it.
const designYAML = `# outrelay.yaml: the whole file of a first deployment
sources:
  shop:
    postgres: ${env:SHOP_DSN}
    outbox:
      - table: public.outbox            # columns id, aggregatetype, aggregateid, type, payload: Debezium's, by default
consumers:
  order-totals:
    topics: [outbox.event.order]
    into: {postgres: ${env:WAREHOUSE_DSN}}
    handle:
      OrderPlaced: |
        insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
        on conflict (customer) do update set total = order_totals.total + excluded.total
`

// The design's file as it stands, with two databases: rows appear in the sink, and what status says agrees with the databases.
func TestStatus_agreesWithTheDatabases(t *testing.T) {
	w := newWorld(t, worldOptions{edit: func(string) string { return designYAML }})
	w.start()
	w.place(250)
	want := rows(t, w.Shop, "select key || ' ' || sum(amount)::numeric(14, 2) from ledger group by key order by key")
	await(t, "the totals are right", 30*time.Second, func() bool {
		return fmt.Sprint(rows(t, w.Warehouse, "select customer || ' ' || total from order_totals order by customer")) == fmt.Sprint(want)
	})
	ends, err := kadm.NewClient(w.client()).ListCommittedOffsets(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	var s daemon.Status
	await(t, "nothing lags", 20*time.Second, func() bool {
		s = w.status()
		return s.Ready && len(s.Sources) == 1 && len(s.Groups) == 1 && s.Groups[0].LagRecords == 0 && len(s.Groups[0].Partitions) == 16
	})
	src := s.Sources[0]
	if src.State != "running" || src.Events != 250 || src.Place == "" || src.DatabaseError != "" {
		t.Errorf("source: %+v", src)
	}
	await(t, "the position is confirmed to the slot", 20*time.Second, func() bool {
		return w.pg.Value(t, w.db, fmt.Sprintf("select (confirmed_flush_lsn >= '%s')::text from pg_replication_slots where slot_name = 'outrelay_shop'", src.Place)) == "true"
	})
	if ok := w.pg.Value(t, w.db, fmt.Sprintf("select ('%s'::pg_lsn <= pg_current_wal_lsn() and '%s'::pg_lsn <= pg_current_wal_lsn())::text", src.Place, src.Head)); ok != "true" {
		t.Errorf("position %s and head %s are beyond the server's WAL", src.Place, src.Head)
	}
	total := int64(0)
	for _, p := range s.Groups[0].Partitions {
		end, _ := ends.Lookup(orders, p.Partition)
		row := rows(t, w.Warehouse, "select next_offset || ' ' || epoch || ' ' || log_id || ' ' || owner from outrelay_offsets where partition = $1", p.Partition)
		said := fmt.Sprintf("%d %d %s %s", p.NextOffset, p.Epoch, s.Log.ID, s.Instance)
		if len(row) != 1 || row[0] != said || p.NextOffset != end.Offset || p.LogEnd != end.Offset || p.State != "running" || p.LagRecords != 0 || p.LastError != "" {
			t.Errorf("%s: status says %s and a log end of %d; the sink %v, the log %d", p.TopicPartition, said, p.LogEnd, row, end.Offset)
		}
		total += p.NextOffset
	}
	text := w.cli("status", "--http", w.Process.HTTP)
	if !containsAll(text, []string{", ready,", s.Log.ID, src.Place, "group order-totals: lag 0", "running"}) {
		t.Errorf("status:\n%s", text)
	}
	// The same truth by the other verbs.
	var g daemon.GroupOffsets
	parse(t, w.cli("groups", "show", group, "--json"), &g)
	shown := int64(0)
	for _, p := range g.Partitions {
		shown += p.Next
	}
	if g.Lag != 0 || len(g.Partitions) != 16 || shown != total || g.Problem() != "" {
		t.Errorf("groups show: lag %d, %d partitions, offsets that sum to %d, want %d, problem %q", g.Lag, len(g.Partitions), shown, total, g.Problem())
	}
	var list []daemon.GroupOffsets
	parse(t, w.cli("groups", "list", "--json"), &list)
	if len(list) != 1 || list[0].Group != group || list[0].Lag != 0 {
		t.Errorf("groups list: %+v", list)
	}
	if text := w.cli("groups", "list"); !strings.Contains(text, group) {
		t.Errorf("groups list:\n%s", text)
	}
	if text := w.cli("audit", "shop", "--group", group); !strings.Contains(text, "committed 250  in log 250  applied 250  lost 0  duplicated 0  reordered 0") {
		t.Errorf("audit:\n%s", text)
	}
	w.metricsServed()
}

// metricsServed looks for what dashboards are made of.
func (w *world) metricsServed() {
	w.t.Helper()
	code, body := get(w.t, w.Process, "/metrics")
	for _, want := range []string{"outrelay_build_info{", "outrelay_consumer_lag_records{", "outrelay_consumer_state{", "process_resident_memory_bytes"} {
		if code != 200 || !strings.Contains(body, want) {
			w.t.Errorf("/metrics has no %s", want)
		}
	}
}

// The audit sees what is done to the sink behind outrelay's back, says so in words and by its exit code.
func TestAudit_seesDamage(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.start()
	w.place(400) // two for each of 200 keys
	w.drained()
	for _, c := range []struct {
		name, damage, mend   string
		lost, dup, reordered int64
		finding              string
	}{
		{"rows deleted", "create table gone as select * from applied where n in (select n from applied order by n limit 3); delete from applied where n in (select n from gone)",
			"insert into applied overriding system value table gone", 3, 0, 0, "lost: event "},
		{"a row twice", "insert into applied (id, key) select id, key from applied order by n limit 1", "delete from applied where n = (select max(n) from applied)", 0, 1, 0, "duplicated: event "},
		{"two rows swapped", swap, swap, 0, 0, 1, "reordered: event "},
	} {
		t.Run(c.name, func(t *testing.T) {
			execute(t, w.Warehouse, c.damage)
			r := w.audit(4)
			if r.Lost != c.lost || r.Duplicated != c.dup || r.Reordered != c.reordered || len(r.Findings) == 0 {
				t.Errorf("%+v", r)
			}
			o := w.runCLI("", "audit", "shop", "--group", group, "--kafka", w.Process.Kafka, "--ledger", "public.ledger", "--applied", "public.applied", "--wait", "1ms")
			if o.code != 4 || !strings.Contains(o.stdout, c.finding) || !strings.Contains(o.stdout, fmt.Sprintf("lost %d  duplicated %d  reordered %d", c.lost, c.dup, c.reordered)) {
				t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			execute(t, w.Warehouse, c.mend)
			w.audit(0)
		})
	}
}

// swap exchanges the places of the two events of one key.
const swap = `update applied a set id = b.id from applied b where a.key = 'c1' and b.key = 'c1' and a.n <> b.n`
