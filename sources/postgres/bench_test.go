package postgres_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources/postgres"
)

// BenchmarkStream_backlog drains a backlog of 1 KB rows and, in the same run, lets pg_recvlogical write the same to a file, in turns; the best
// of each counts. OUTRELAY_BENCH_ROWS sets the number of rows, 300,000 by default. Run with -benchtime=3x.
func BenchmarkStream_backlog(b *testing.B) {
	rows := 300_000
	if s := os.Getenv("OUTRELAY_BENCH_ROWS"); s != "" {
		rows, _ = strconv.Atoi(s)
	}
	pg := testenv.StartPostgres(b, testenv.PostgresOptions{NoFsync: true})
	for _, perTxn := range []int{100, 1} {
		b.Run(fmt.Sprintf("txn=%d", perTxn), func(b *testing.B) {
			db := pg.NewDatabase(b)
			pg.Exec(b, db, "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb)",
				"CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')",
				fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_ours', 'pgoutput')", db),
				// pg_recvlogical confirms what it wrote: each turn needs a slot of its own.
				fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_' || i, 'pgoutput') FROM generate_series(0, %d) i", db, b.N-1))
			s := backlogSource(b, pg, db)
			fill(b, pg, db, rows, perTxn)
			end := pg.Value(b, db, "SELECT pg_current_wal_lsn()")
			ours, theirs := time.Hour, time.Hour
			for i := range b.N {
				if i%2 == 0 {
					theirs = min(theirs, recvlogical(b, pg, db, i, end))
				}
				ours = min(ours, drainBacklog(b, s, slotPosition(b, pg, db), rows))
				if i%2 != 0 {
					theirs = min(theirs, recvlogical(b, pg, db, i, end))
				}
			}
			b.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
			b.ReportMetric(float64(rows)/theirs.Seconds(), "pg_recvlogical-rows/s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
		})
	}
}

func backlogSource(b *testing.B, pg *testenv.Postgres, db string) *postgres.Source {
	b.Helper()
	s, err := postgres.New(postgres.Options{Name: "bench", Slot: db + "_ours", Publication: "p", Tables: []string{"public.outbox"},
		ConnString: func(context.Context) (string, error) { return pg.DSN(db), nil }})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// fill commits the backlog from the server's side.
func fill(b *testing.B, pg *testenv.Postgres, db string, rows, perTxn int) {
	b.Helper()
	pg.Exec(b, db, fmt.Sprintf(`CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO outbox SELECT gen_random_uuid(), 'order', (j %% 1000)::text, 'OrderPlaced', jsonb_build_object('n', j, 'pad', repeat('x', 880)) FROM generate_series(1, %d) j;
		COMMIT; END LOOP; END $$`, rows/perTxn, perTxn), "CALL fill()")
}

func recvlogical(b *testing.B, pg *testenv.Postgres, db string, turn int, end string) time.Duration {
	b.Helper()
	host, port, _ := strings.Cut(pg.Addr(), ":")
	cmd := exec.Command(filepath.Join(pg.BinDir(), "pg_recvlogical"), "-h", host, "-p", port, "-U", "postgres", "-d", db, "--slot", fmt.Sprintf("%s_%d", db, turn), "--start",
		"-o", "proto_version=1", "-o", "publication_names=p", "--endpos", end, "-f", filepath.Join(b.TempDir(), "out"))
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("pg_recvlogical: %v: %s", err, out)
	}
	return time.Since(began)
}

// slotPosition returns where the slot, which is never confirmed here, starts.
func slotPosition(b *testing.B, pg *testenv.Postgres, db string) outrelay.Position {
	b.Helper()
	return outrelay.Position{Source: "bench", Token: pg.Value(b, db, `SELECT json_build_object('v', 1, 'system', system_identifier::text, 'timeline', timeline_id,
		'lsn', confirmed_flush_lsn, 'events', 0) FROM pg_control_system(), pg_control_checkpoint(), pg_replication_slots WHERE slot_name = '`+db+`_ours'`)}
}

func drainBacklog(b *testing.B, s *postgres.Source, at outrelay.Position, rows int) time.Duration {
	b.Helper()
	ctx := context.Background()
	began := time.Now()
	st, err := s.Open(ctx, at)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	for n := 0; n < rows; {
		txn, err := st.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		n += len(txn.Events)
	}
	return time.Since(began)
}

// BenchmarkStream_decode decodes recorded bytes: what this package costs without a server.
func BenchmarkStream_decode(b *testing.B) {
	const txns, perTxn = 2000, 10
	pad := strings.Repeat("x", 900)
	f := new(frames).begin(0x1100).relation(1, "outbox", "id", "aggregatetype", "aggregateid", "type", "payload").commit(0x1100, 0x1200)
	for i := range postgres.LSN(txns) {
		f.begin(0x1200 + i*0x100)
		for range perTxn {
			f.insert(1, "0b9b2f5a-6c56-4b2e-9d3f-1c2d3e4f5a6b", "order", "42", "OrderPlaced", pad)
		}
		f.commit(0x1200+i*0x100, 0x1300+i*0x100)
	}
	s, err := postgres.New(postgres.Options{Name: "shop", Slot: "s", Publication: "p", Tables: []string{"public.outbox"},
		ConnString: func(context.Context) (string, error) { return "", outrelay.ErrTransient }})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(f.b)))
	b.ReportAllocs()
	for b.Loop() {
		st, _ := postgres.Feed(s, feedAt, f.b)
		for range txns {
			if _, err := st.Next(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		st.Close()
	}
	b.ReportMetric(float64(b.N)*txns*perTxn/b.Elapsed().Seconds(), "rows/s")
}
