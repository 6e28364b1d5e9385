package system_test

import (
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/testenv"
)

// TestSource_otherDatabases: the same file with another key under the source. MariaDB and MySQL to PostgreSQL, with crashes of outrelay and of the source's server, and lost
// connections between; then the count from outside.
func TestSource_otherDatabases(t *testing.T) {
	for _, source := range []string{demo.SinkMariaDB, demo.SinkMySQL} {
		t.Run(source, func(t *testing.T) {
			if source == demo.SinkMySQL && !soak() {
				t.Skip("make soak runs it: sources/mysql's own tests are for both")
			}
			flavor := testenv.MySQLFlavor(source)
			if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			my := testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor})
			db := my.NewDatabase(t)
			proxy := testenv.StartProxy(t, my.Addr())
			w := newWorld(t, worldOptions{source: source, shop: my.DSN(db), shopDB: db})
			w.Process.Env = []string{"SHOP_DSN=" + testenv.MySQLDSN(flavor, proxy.Addr(), db, "root", ""), "WAREHOUSE_DSN=" + w.Warehouse}
			w.start()
			l := w.load(rate)
			w.appliedMore(100, 30*time.Second)
			must(t, w.Process.Kill())
			w.start()
			w.appliedMore(100, 30*time.Second)
			for range 3 {
				proxy.Cut()
				w.appliedMore(100, 30*time.Second)
			}
			w.stopLoad(l)
			must(t, my.Kill9())
			must(t, my.Start())
			l = w.load(rate)
			w.appliedMore(100, 60*time.Second)
			w.stopLoad(l)
			w.verify()
		})
	}
}
