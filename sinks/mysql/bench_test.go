package mysql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
)

// BenchmarkApply applies small rows in batches of 200, as fast as one partition goes, beside a loop over a prepared statement for the same
// in transactions of 200 on the same server.
func BenchmarkApply(b *testing.B) {
	for _, flavor := range []testenv.MySQLFlavor{testenv.MariaDBServer, testenv.MySQLServer} {
		if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
			continue
		}
		my := testenv.StartMySQL(b, testenv.MySQLOptions{Flavor: flavor})
		tg := &target{my: my, db: my.NewDatabase(b)}
		my.Exec(b, tg.db, "create table order_totals (customer varchar(40) primary key, total decimal(20,2) not null)")
		const upsert = "insert into order_totals (customer, total) values (%s, %s) on duplicate key update total = total + values(total)"
		o := tg.options("bench")
		o.Handlers = map[string][]handler.Statement{"*": {{SQL: fmt.Sprintf(upsert, ":payload.customer", ":payload.amount")}}}
		s := open(b, o)
		const size = 200
		b.Run(string(flavor)+"/outrelay", func(b *testing.B) {
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
		b.Run(string(flavor)+"/driver", func(b *testing.B) {
			conn := my.Connect(b, tg.db)
			st, err := conn.PrepareContext(b.Context(), fmt.Sprintf(upsert, "?", "?"))
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				tx, err := conn.BeginTx(b.Context(), nil)
				for range size {
					if n++; err == nil {
						_, err = tx.StmtContext(b.Context(), st).ExecContext(b.Context(), fmt.Sprintf("c%d", n*7919%10000), "12.50")
					}
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
