// Package compat_test runs clients, tools and suites of other projects against the real binary: what they write is read by another
// client, what another wrote is read by them, record by record. It never looks inside the broker, and skips nothing that scripts/install-clients can bring.
//
// `go test` runs the short form; OUTRELAY_COMPAT=full everything. Either way a table is printed at the end, and written to the file that
// OUTRELAY_COMPAT_REPORT names.
package compat_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// results is what the tests of this process have found, for the table.
var results table

func TestMain(m *testing.M) {
	code := m.Run()
	if build.path != "" {
		_ = os.Remove(build.path) // a temporary file
	}
	fmt.Print(results.text())
	if file := os.Getenv("OUTRELAY_COMPAT_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(results.markdown()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// full reports whether everything is asked for, not only the short form.
func full() bool { return os.Getenv("OUTRELAY_COMPAT") == "full" }

// onlyFull leaves a test to `make compat`.
func onlyFull(t *testing.T) {
	t.Helper()
	if !full() {
		t.Skip("runs in `make compat`")
	}
}

// cache is the directory that scripts/install-clients fills.
func cache(t *testing.T, parts ...string) string {
	t.Helper()
	dir := os.Getenv("OUTRELAY_TEST_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(user, "outrelay-test")
	}
	path := filepath.Join(append([]string{dir}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nrun scripts/install-clients first", err)
	}
	return path
}

// here returns the absolute path of a file of this package.
func here(t *testing.T, parts ...string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKcat(t *testing.T) {
	t.Parallel()
	testKcat(t, client(t, "kcat (librdkafka)"))
}

func TestConfluentKafka(t *testing.T) {
	t.Parallel()
	c := client(t, "confluent-kafka (Python, librdkafka)")
	c.talk(exec.Command(cache(t, "python", "bin", "python"), here(t, "python", "confluent.py")))
}

func TestSarama(t *testing.T) {
	t.Parallel()
	client(t, "IBM/sarama").talk(exec.Command(goClient(t, "sarama")))
}

func TestSegmentio(t *testing.T) {
	onlyFull(t)
	t.Parallel()
	client(t, "segmentio/kafka-go").talk(exec.Command(goClient(t, "segmentio")))
}

// goClient builds a program of the module goclients.
func goClient(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", bin, "./"+name)
	cmd.Dir = here(t, "goclients")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// nodeClient is a program of the directory node, run by the Node that the packages bring.
func nodeClient(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	modules := cache(t, "node", "node_modules")
	bins, _ := filepath.Glob(filepath.Join(modules, "node-linux-*", "bin", "node")) // a pattern without a mistake
	if len(bins) == 0 {
		t.Fatalf("no Node in %s: run scripts/install-clients", modules)
	}
	cmd := exec.Command(bins[0], here(t, "node", script))
	cmd.Env = []string{"NODE_PATH=" + modules}
	return cmd
}

func TestKafkaJS(t *testing.T) {
	t.Parallel()
	client(t, "kafkajs").talk(nodeClient(t, "kafkajs.cjs"))
}

func TestPlatformatic(t *testing.T) {
	onlyFull(t)
	t.Parallel()
	client(t, "@platformatic/kafka").talk(nodeClient(t, "platformatic.cjs"))
}

func TestKafkaPython(t *testing.T) {
	onlyFull(t)
	t.Parallel()
	c := client(t, "kafka-python")
	c.talk(exec.Command(cache(t, "python", "bin", "python"), here(t, "python", "kafkapython.py")))
}
