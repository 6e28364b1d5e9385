package testenv_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
)

func TestPostgres_startsStopsAndSurvivesKill9(t *testing.T) {
	t.Parallel()
	at := time.Now()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Users: map[string]string{"app": "s3cret"}})
	t.Logf("ready after %v", time.Since(at))
	db := pg.NewDatabase(t)
	pg.Exec(t, db, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
	if err := pg.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	if got := pg.Value(t, db, "SELECT n FROM t"); got != "7" {
		t.Fatalf("after a crash: %q", got)
	}
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := pg.Value(t, db, "SHOW wal_level"); got != "logical" {
		t.Fatalf("wal_level = %q", got)
	}
	if got := pg.Value(t, db, "SHOW fsync"); got != "on" {
		t.Fatalf("fsync = %q", got)
	}
}

func TestPostgres_freshIdentity(t *testing.T) {
	t.Parallel()
	const q = "SELECT system_identifier FROM pg_control_system()"
	a := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true})
	b := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true, FreshIdentity: true})
	if x, y := a.Value(t, "postgres", q), b.Value(t, "postgres", q); x == y {
		t.Fatalf("both servers have system identifier %s", x)
	}
}

// TestPostgres_goneWithTheProcess runs this test binary as a child, kills it, and sees that its server and directory go away.
func TestPostgres_goneWithTheProcess(t *testing.T) {
	t.Parallel()
	if dirFile := os.Getenv("TESTENV_CHILD"); dirFile != "" {
		pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true})
		if err := os.WriteFile(dirFile+".new", fmt.Appendf(nil, "%s %d", filepath.Dir(pg.Data()), pg.Pid()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dirFile+".new", dirFile); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	diesWithItsProcess(t, "TestPostgres_goneWithTheProcess")
}

func TestPostgresBinDirs_namesRealDirectories(t *testing.T) {
	t.Parallel()
	dirs := testenv.PostgresBinDirs()
	if len(dirs) == 0 || !strings.HasPrefix(dirs[0], "/") {
		t.Fatalf("no server found: %q", dirs)
	}
}

// waitFor polls: what is waited for here happens in other processes, which tell nobody.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited 60 s for %s", what)
		}
	}
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
