package postgres_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
)

// BenchmarkApply applies small rows in batches of 200, as fast as one partition goes, beside pgbench's pipelined rate for the same statement
// in transactions of 200 on the same server.
func BenchmarkApply(b *testing.B) {
	tg := newTarget(b)
	tg.pg.Exec(b, tg.db, "create table order_totals (customer text primary key, total numeric not null)")
	o := tg.options("bench")
	o.Handlers = map[string][]handler.Statement{"*": {{SQL: `insert into order_totals (customer, total) values (:payload.customer, :payload.amount)
		on conflict (customer) do update set total = order_totals.total + excluded.total`}}}
	s := open(b, o)
	const size = 200
	b.Run("outrelay", func(b *testing.B) {
		c := claim(b, s, int32(b.N%1000+1))
		var records []sinks.Record
		for i := range 50 * size {
			records = append(records, record("OrderPlaced", "id", fmt.Sprintf(`{"customer": "c%d", "amount": 12.50, "note": "%s"}`, i*7919%10000, strings.Repeat("x", 100))))
		}
		n := 0
		for b.Loop() {
			batch := batch(c, records[n%50*size:][:size]...)
			n++
			if err := s.Apply(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			c.Next = batch.Next
		}
		b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "rows/s")
	})
	b.Run("pgbench", func(b *testing.B) {
		bin := filepath.Join(tg.pg.BinDir(), "pgbench")
		if _, err := os.Stat(bin); err != nil {
			b.Skip("no pgbench beside the server")
		}
		var script strings.Builder
		script.WriteString("\\startpipeline\nbegin;\n")
		for i := range size {
			fmt.Fprintf(&script, "\\set c%d random(0, 9999)\ninsert into order_totals (customer, total) values ('c' || (:c%d)::text, 12.50) on conflict (customer) do update set total = order_totals.total + excluded.total;\n", i, i)
		}
		script.WriteString("commit;\n\\endpipeline\n")
		file := filepath.Join(b.TempDir(), "script.sql")
		if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			out, err := exec.CommandContext(b.Context(), bin, "-n", "-M", "prepared", "-T", "5", "-f", file, "-h", "127.0.0.1", "-p", strings.Split(tg.pg.Addr(), ":")[1], "-U", "postgres", tg.db).CombinedOutput()
			if err != nil {
				b.Fatal(err, string(out))
			}
			_, after, _ := strings.Cut(string(out), "tps = ")
			tps, _ := strconv.ParseFloat(strings.Fields(after)[0], 64)
			b.ReportMetric(tps*size, "rows/s")
		}
	})
}
