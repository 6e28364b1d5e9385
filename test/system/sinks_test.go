package system_test

import (
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/testenv"
)

// TestSink_otherDatabases: the same file with another key under into. PostgreSQL to MariaDB and MySQL, with crashes of outrelay, of the sink's
// server, and lost connections between; then the count from outside.
func TestSink_otherDatabases(t *testing.T) {
	for _, sink := range []string{demo.SinkMariaDB, demo.SinkMySQL} {
		t.Run(sink, func(t *testing.T) {
			if sink == demo.SinkMySQL && !soak() {
				t.Skip("make soak runs it: sinks/mysql's own tests are for both")
			}
			flavor := testenv.MySQLFlavor(sink)
			if flavor == testenv.MySQLServer && !testenv.MySQLInstalled() {
				t.Skip("no MySQL here: scripts/install-deps mysql")
			}
			my := testenv.StartMySQL(t, testenv.MySQLOptions{Flavor: flavor})
			var proxy *testenv.Proxy
			w := newWorld(t, worldOptions{my: my, proxy: throughProxy(t, &proxy)})
			w.start()
			l := w.load(rate)
			w.appliedMore(100, 30*time.Second)
			must(t, w.Process.Kill())
			w.start()
			w.appliedMore(100, 30*time.Second)
			for range 2 { // the answer of a COMMIT is lost, or the COMMIT itself
				proxy.CutOn(testenv.Rule{Dir: testenv.ToServer, Pattern: []byte(mysqlCommitSent), Action: testenv.CutAfter})
				proxy.CutOn(testenv.Rule{Dir: testenv.ToServer, Pattern: []byte(mysqlCommitSent), Action: testenv.CutBefore})
				w.appliedMore(100, 30*time.Second)
			}
			must(t, my.Kill9())
			must(t, my.Start())
			w.appliedMore(100, 60*time.Second)
			w.stopLoad(l)
			w.verify()
		})
	}
}
