package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
)

// TestValidateHandlers_dialect: a handler is read in its sink's dialect, and what it may not hold is named with its line.
func TestValidateHandlers_dialect(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ into, sql, want string }{
		{"postgres: postgres://127.0.0.1/w", `notify x`, ""},
		{"mysql: 'mysql://u@127.0.0.1/w'", `notify x`, "NOTIFY is not allowed in a handler"},
		{"mariadb: 'mariadb://u@127.0.0.1/w'", `truncate t`, "TRUNCATE is not allowed in a handler: it commits the transaction"},
		{"mysql: 'mysql://u@127.0.0.1/w'", "insert into `a:b` values (\"x:y\", :id)", ""},
		{"postgres: postgres://127.0.0.1/w", "insert into `a:b` values (:id)", "unknown parameter :b"},
		{"mysql: 'mysql://u@127.0.0.1/w'", "select ?", "write named ones"},
	} {
		file := filepath.Join(t.TempDir(), "outrelay.yaml")
		text := "consumers:\n  g:\n    topics: [t]\n    into: {" + tc.into + "}\n    handle:\n      A: |\n        " + tc.sql + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.LoadOptions{File: file})
		if err != nil {
			t.Fatal(err)
		}
		ps, err := daemon.ValidateHandlers(c)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(ps)
		if (len(ps) == 0) != (tc.want == "") || !strings.Contains(got, tc.want) || len(ps) > 0 && !strings.Contains(got, "outrelay.yaml:7") {
			t.Errorf("%s, %s: %s, want %q at line 7", tc.into, tc.sql, got, tc.want)
		}
	}
}
