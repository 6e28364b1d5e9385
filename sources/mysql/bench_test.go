package mysql_test

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
	"github.com/outrelay/outrelay/sources/mysql"
)

// BenchmarkStream_backlog drains a backlog of 1 KB rows, a thousand in a transaction. On MySQL, mysqlbinlog --raw writes the same to files in the same run, in turns; the best
// of each counts. OUTRELAY_BENCH_ROWS sets the number of rows, 300,000 by default. Run with -benchtime=3x.
func BenchmarkStream_backlog(b *testing.B) {
	rows := 300_000
	if s := os.Getenv("OUTRELAY_BENCH_ROWS"); s != "" {
		rows, _ = strconv.Atoi(s)
	}
	for _, flavor := range []testenv.MySQLFlavor{testenv.MariaDBServer, testenv.MySQLServer} {
		b.Run(string(flavor), func(b *testing.B) {
			if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
				b.Skip("no MySQL here: scripts/install-deps mysql")
			}
			my := testenv.StartMySQL(b, testenv.MySQLOptions{Flavor: flavor, NoFsync: true})
			db := my.NewDatabase(b)
			payload := "json"
			my.Exec(b, db, "CREATE TABLE outbox (id char(36) PRIMARY KEY, aggregatetype varchar(255), aggregateid varchar(255), type varchar(255), payload "+payload+")")
			s, err := mysql.New(mysql.Options{Name: "bench", Flavor: mysql.Flavor(flavor), Tables: []string{"outbox"},
				ConnString: func(context.Context) (string, error) { return my.DSN(db), nil }})
			if err != nil {
				b.Fatal(err)
			}
			at, err := s.Init(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			fillBacklog(b, my, db, rows)
			ours, theirs := time.Hour, time.Hour
			for range b.N {
				if flavor == testenv.MySQLServer {
					theirs = min(theirs, mysqlbinlog(b, my))
				}
				ours = min(ours, drainBacklog(b, s, at, rows))
			}
			b.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
			if flavor == testenv.MySQLServer {
				b.ReportMetric(float64(rows)/theirs.Seconds(), "mysqlbinlog-rows/s")
				b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
			}
		})
	}
}

func fillBacklog(b *testing.B, my *testenv.MySQL, db string, rows int) {
	b.Helper()
	c := my.Connect(b, db)
	for at := 0; at < rows; at += 1000 {
		q := fmt.Sprintf("INSERT INTO outbox SELECT uuid(), 'order', n %% 1000, 'OrderPlaced', concat('{\"n\": ', n + %d, ', \"pad\": \"', repeat('x', 880), '\"}') FROM %s", at, numbers(1000))
		if _, err := c.ExecContext(context.Background(), q); err != nil {
			b.Fatal(err)
		}
	}
}

// mysqlbinlog reads all that the server has.
func mysqlbinlog(b *testing.B, my *testenv.MySQL) time.Duration {
	b.Helper()
	host, port, _ := strings.Cut(my.Addr(), ":")
	root := my.Root()
	cmd := exec.Command(filepath.Join(root, "lib/ld.so"), "--library-path", filepath.Join(root, "lib"), filepath.Join(root, "usr/bin/mysqlbinlog"), "--no-defaults", "--host="+host, "--port="+port,
		"--user=root", "--read-from-remote-server", "--raw", "--to-last-log", "--result-file="+b.TempDir()+"/", "binlog.000001")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("mysqlbinlog: %v: %s", err, out)
	}
	return time.Since(began)
}

func drainBacklog(b *testing.B, s *mysql.Source, at outrelay.Position, rows int) time.Duration {
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
