package system_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
)

// waits waits until status says that source and group wait for their databases, and why.
func (w *world) waits(cause string) {
	w.t.Helper()
	await(w.t, "status says what is waited for", 30*time.Second, func() bool {
		var s struct {
			Sources []struct{ State, Error string } `json:"sources"`
			Groups  []struct {
				Ready bool   `json:"ready"`
				Error string `json:"error"`
			} `json:"groups"`
		}
		if err := w.Process.Status(w.t.Context(), &s); err != nil || len(s.Sources) != 1 || len(s.Groups) != 1 {
			return false
		}
		return s.Sources[0].State == "waiting" && strings.Contains(s.Sources[0].Error, cause) && !s.Groups[0].Ready && strings.Contains(s.Groups[0].Error, cause)
	})
	if !w.Process.Running() {
		w.t.Fatal("outrelay ended")
	}
}

// TestRun_beforeItsDatabases: outrelay is started before PostgreSQL, which then is first away and then refuses the role; later it goes away once more.
func TestRun_beforeItsDatabases(t *testing.T) {
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{Config: map[string]string{"track_commit_timestamp": "on"}})
	w := newWorld(t, worldOptions{pg: pg})
	const role = "drop role if exists app; create role app superuser nologin"
	pg.Exec(t, w.db, role)
	asApp := func(dsn string) string { return strings.Replace(dsn, "postgres://postgres", "postgres://app", 1) }
	w.Process.Env = []string{"SHOP_DSN=" + asApp(w.Shop), "WAREHOUSE_DSN=" + asApp(w.Warehouse)}
	must(t, pg.Stop())
	must(t, w.Process.Launch())
	w.waits("connection refused")
	must(t, pg.Start())
	w.waits("not permitted to log in")
	pg.Exec(t, w.db, "alter role app login")
	w.awaitReady()
	l := w.load(rate)
	w.appliedMore(200, 30*time.Second)
	w.stopLoad(l)
	pg.Exec(t, w.db, "alter role app nologin")
	must(t, pg.Restart())
	await(t, "the source waits again", 30*time.Second, func() bool {
		var s struct {
			Sources []struct{ State, Error string } `json:"sources"`
		}
		err := w.Process.Status(t.Context(), &s)
		return err == nil && len(s.Sources) == 1 && s.Sources[0].State == "waiting" && strings.Contains(s.Sources[0].Error, "not permitted to log in")
	})
	pg.Exec(t, w.db, "alter role app login")
	l = w.load(rate)
	w.appliedMore(200, 30*time.Second)
	w.stopLoad(l)
	w.verify()
}

// awaitReady waits until every role works.
func (w *world) awaitReady() {
	w.t.Helper()
	await(w.t, "outrelay is ready", 30*time.Second, func() bool {
		var s struct {
			Ready bool `json:"ready"`
		}
		return w.Process.Status(w.t.Context(), &s) == nil && s.Ready
	})
}

// TestRun_refusedHandler: a statement that the sink's server refuses is a mistake in the file, and ends the process with its place.
func TestRun_refusedHandler(t *testing.T) {
	line := 0
	w := newWorld(t, worldOptions{edit: func(c string) string {
		line = strings.Count(c, "\n") + 1
		return c + "        - insert into no_such_table (id) values (:id)\n"
	}})
	must(t, w.Process.Launch())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Process.Died(ctx); err == nil || err.Error() != "exit status 2" {
		t.Fatalf("outrelay ended with %v, want exit status 2\n%s", err, w.Process.Tail())
	}
	for _, want := range []string{fmt.Sprintf("outrelay.yaml:%d", line), "no_such_table", "OrderPlaced"} {
		if !strings.Contains(w.Process.Tail(), want) {
			t.Errorf("its log does not name %s:\n%s", want, w.Process.Tail())
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
