package testenv_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
)

// mysqlFlavors runs a test on MariaDB, and on MySQL where one is installed.
func mysqlFlavors(t *testing.T, run func(t *testing.T, flavor testenv.MySQLFlavor)) {
	t.Helper()
	for _, f := range []testenv.MySQLFlavor{testenv.MariaDBServer, testenv.MySQLServer} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			if f == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			run(t, f)
		})
	}
}

func TestMySQL_startsStopsAndSurvivesKill9(t *testing.T) {
	t.Parallel()
	mysqlFlavors(t, func(t *testing.T, flavor testenv.MySQLFlavor) {
		at := time.Now()
		my := testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor, Config: map[string]string{"max-connections": "77"}})
		t.Logf("ready after %v", time.Since(at))
		db := my.NewDatabase(t)
		my.Exec(t, db, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
		pid := my.Pid()
		if err := my.Kill9(); err != nil {
			t.Fatal(err)
		}
		if err := my.Start(); err != nil {
			t.Fatal(err)
		}
		if got := my.Value(t, db, "SELECT n FROM t"); got != "7" || my.Pid() == pid {
			t.Fatalf("after a crash: %q, pid %d, was %d", got, my.Pid(), pid)
		}
		if err := my.Restart(); err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string]string{
			"SELECT @@max_connections": "77", "SELECT @@log_bin": "1", "SELECT @@binlog_format": "ROW", "SELECT @@binlog_row_metadata": "FULL", "SELECT @@sync_binlog": "1",
		} {
			if got := my.Value(t, "", query); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		if isMaria := strings.Contains(my.Value(t, "", "SELECT version()"), "MariaDB"); isMaria != (flavor == testenv.MariaDBServer) {
			t.Errorf("the server is %s", my.Value(t, "", "SELECT version()"))
		}
	})
}

// TestMySQL_goneWithTheProcess runs this test binary as a child, kills it, and sees that its server and directory go away.
func TestMySQL_goneWithTheProcess(t *testing.T) {
	t.Parallel()
	if dirFile := os.Getenv("TESTENV_CHILD"); dirFile != "" {
		my := testenv.StartMariaDB(t, testenv.MySQLOptions{NoFsync: true})
		if err := os.WriteFile(dirFile+".new", fmt.Appendf(nil, "%s %d", filepath.Dir(my.Data()), my.Pid()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dirFile+".new", dirFile); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	diesWithItsProcess(t, "TestMySQL_goneWithTheProcess")
}
