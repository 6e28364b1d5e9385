// Package cli_test runs the real binary as people and scripts do: what it prints, what it exits with, what it refuses. It needs no database.
package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
)

var build struct {
	sync.Mutex
	path string
}

// binary returns outrelay's path: what make built, or one built now.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("OUTRELAY_BIN"); b != "" {
		return b
	}
	build.Lock()
	defer build.Unlock()
	if build.path == "" {
		b := filepath.Join(os.TempDir(), fmt.Sprintf("outrelay-cli-test-%d", os.Getpid()))
		if out, err := exec.Command("go", "build", "-o", b, "github.com/outrelay/outrelay/cmd/outrelay").CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		build.path = b
	}
	return build.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if build.path != "" {
		_ = os.Remove(build.path) // a temporary file
	}
	os.Exit(code)
}

type result struct {
	stdout, stderr string
	code           int
}

type call struct {
	dir   string // "": a directory without a configuration
	env   []string
	stdin string
}

// run runs outrelay to its end.
func (c call) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	if cmd.Dir = c.dir; c.dir == "" {
		cmd.Dir = t.TempDir()
	}
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin = strings.NewReader(c.stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("outrelay %v: %v", args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ok runs outrelay, fails unless it exits with 0, and returns what it printed.
func (c call) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := c.run(t, args...)
	if r.code != 0 {
		t.Fatalf("outrelay %v: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, text)
	}
}

// startLog runs the broker alone.
func startLog(t *testing.T) *demo.Process {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "outrelay.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := demo.NewProcess(binary(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Args = []string{"--log-only"}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("the end of the log's log:\n%s", p.Tail())
		}
	})
	if _, err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	broken, err := filepath.Abs("testdata/unknown-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	valid := filepath.Join(t.TempDir(), "valid.yaml")
	text := strings.NewReplacer("${env:SHOP_DSN}", "postgres://u@127.0.0.1:1/shop", "${env:WAREHOUSE_DSN}", "postgres://u@127.0.0.1:1/warehouse").Replace(demo.ConfigText)
	if err := os.WriteFile(valid, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args string
		code int
		want string // on standard error, or standard output
	}{
		{"version", "version", 0, "outrelay "},
		{"help", "--help", 0, "Exit codes: 0 ok, 1 runtime, 2 configuration, 3 environment, 4 data halt."},
		{"nothing said", "", 0, "Available Commands:"},
		{"a parent alone", "topics", 0, "Available Commands:"},
		{"unknown verb", "nonsense", 2, `unknown command "nonsense"`},
		{"near verb", "statsu", 2, "did you mean status?"},
		{"unknown verb of a parent", "topics nonsense", 2, `unknown command "nonsense" for "outrelay topics"`},
		{"near verb of a parent", "groups rest", 2, "did you mean list or reset?"},
		{"unknown shell", "completion nonsense", 2, `unknown command "nonsense"`},
		{"unknown flag", "run --nonsense", 2, "unknown flag: --nonsense; see `outrelay run --help`"},
		{"missing argument", "topics create", 2, "see `outrelay topics create --help`"},
		{"too many arguments", "status now", 2, "see `outrelay status --help`"},
		{"bad value", "run --log-only --log-level loud", 2, "write debug, info, warn or error"},
		{"not confirmed", "topics delete t", 2, "say --yes"},
		{"no file", "run", 2, "outrelay.yaml: there is no such file [file-missing]"},
		{"named file missing", "validate -c none.yaml", 2, "none.yaml: there is no such file"},
		{"broken file", "run -c " + broken, 2, "did you mean publication?"},
		{"bad target", "groups reset g --to yesterday", 2, "write earliest, latest, a time"},
		{"bad start", "consume t --from yesterday --kafka 127.0.0.1:1", 2, "write earliest, latest, or a time"},
		{"a topic's config as Kafka's tools name it", "topics alter t --config retention.ms=1 --kafka 127.0.0.1:1", 2, "a config of the topic is set with --set retention.ms=…"},
		{"a file for a verb of topics", "topics create t --set retention.ms=1 -c none.yaml", 2, "none.yaml: there is no such file"},
		{"migrate into what", "log migrate", 2, "--to names the configuration whose log is the new one; see `outrelay log migrate --help`"},
		{"migrate two ways", "log migrate --to x.yaml --ahead --abandon", 2, "only --ahead --dry-run go together"},
		{"migrate into what is lost", "log migrate --to x.yaml --lost id", 2, "--lost goes with --abandon"},
		{"migrate into a file that is not there", "log migrate --to none.yaml", 2, "none.yaml: there is no such file"},
		{"migrate out of a directory that is not there", "log migrate -c " + valid + " --to " + valid, 3, "there is no such data directory [data-dir]"},
		{"no process", "status --http 127.0.0.1:1", 3, "[no-process]"},
		{"no log", "topics list --kafka 127.0.0.1:1", 3, "[log-unreachable]"},
		{"data directory is a file", "run --log-only --data /dev/null/x --http-listen 127.0.0.1:0 --kafka-listen 127.0.0.1:0", 3, "[data-dir]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := call{}.run(t, strings.Fields(c.args)...)
			if r.code != c.code || !strings.Contains(r.stdout+r.stderr, c.want) {
				t.Errorf("exit code %d, want %d; output should hold %q:\n%s%s", r.code, c.code, c.want, r.stdout, r.stderr)
			}
		})
	}
}

// The log alone is what ./outrelay.yaml says, as for every other verb: one that was secured there is not open because its file was not named.
func TestRun_logOnlyTakesTheFile(t *testing.T) {
	t.Parallel()
	in := call{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(in.dir, "outrelay.yaml"), []byte("broker: {tls: {cert: none.pem, key: none.pem}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := in.run(t, "run", "--log-only", "--data", "data", "--http-listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0")
	if r.code != 2 || !strings.Contains(r.stderr, "outrelay.yaml:1:") || !strings.Contains(r.stderr, "none.pem") {
		t.Errorf("exit code %d:\n%s", r.code, r.stderr)
	}
}

// verbs returns the sub-commands that a help text lists.
func verbs(help string) []string {
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var out []string
	for line := range strings.Lines(list) {
		out = append(out, strings.Fields(line)[0])
	}
	return out
}

// Every verb says what it does and gives an example that begins with outrelay, or ends in it.
func TestHelp_everyVerbHasAnExample(t *testing.T) {
	t.Parallel()
	n := 0
	var walk func(path []string)
	walk = func(path []string) {
		help := call{}.ok(t, append(path, "--help")...)
		n++
		_, example, ok := strings.Cut(help, "Examples:\n")
		example, _, _ = strings.Cut(example, "\n\n")
		if !ok || !strings.Contains(example, strings.Join(append([]string{"outrelay"}, path...), " ")) {
			t.Errorf("outrelay %s --help has no example of itself:\n%s", strings.Join(path, " "), help)
		}
		for _, v := range verbs(help) {
			walk(append(path[:len(path):len(path)], v))
		}
	}
	walk(nil)
	if n < 25 {
		t.Errorf("only %d verbs were found", n)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{"bash": "__start_outrelay", "zsh": "#compdef outrelay", "fish": "complete -c outrelay"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			script := call{}.ok(t, "completion", shell)
			if !strings.Contains(script, want) {
				t.Fatalf("no %q in the script of %d bytes", want, len(script))
			}
			if shell != "bash" {
				return
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-n")
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("bash does not take it: %v\n%s", err, out)
			}
		})
	}
	if out := (call{}).ok(t, "__complete", "topics", ""); !strings.Contains(out, "describe\t") {
		t.Errorf("no completion of topics: %s", out)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var v struct{ Version, Commit string }
	parse(t, call{}.ok(t, "version", "--json"), &v)
	if v.Version == "" || v.Commit == "" {
		t.Errorf("%+v", v)
	}
}
