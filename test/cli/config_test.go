package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var problemRE = regexp.MustCompile(`^[\w-]+\.yaml(:\d+:\d+)?: .+ \[[a-z-]+\]; .+$`)

// TestValidate_brokenFiles compares with testdata/*.txt; OUTRELAY_REWRITE=1 writes them anew.
func TestValidate_brokenFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := call{dir: "testdata"}
			r := in.run(t, "validate", "-c", name)
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if os.Getenv("OUTRELAY_REWRITE") != "" {
				if err := os.WriteFile(golden, []byte(r.stdout), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if r.code != 2 || r.stdout != string(want) || r.stderr != "" {
				t.Errorf("exit code %d, want 2; printed:\n%s%s\nwant:\n%s", r.code, r.stdout, r.stderr, want)
			}
			lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
			for _, line := range lines[:len(lines)-1] {
				if !problemRE.MatchString(line) {
					t.Errorf("not as file:line:column: cause [code]; fix: %s", line)
				}
			}
			var j struct {
				Valid    bool
				Problems []struct{ File, Code, Cause, Fix string }
			}
			r = in.run(t, "validate", "-c", name, "--json")
			parse(t, r.stdout, &j)
			if r.code != 2 || j.Valid || len(j.Problems) != len(lines)-1 {
				t.Errorf("exit code %d, --json says valid=%v with %d problems, the text has %d", r.code, j.Valid, len(j.Problems), len(lines)-1)
			}
			// run refuses it too, with the same words, before it starts anything.
			if r = in.run(t, "run", "-c", name, "--data", t.TempDir()); r.code != 2 {
				t.Errorf("run takes it: exit code %d\n%s", r.code, r.stderr)
			}
		})
	}
}

const canary = "c4n4ry-s3cret"

func secretFile(t *testing.T) call {
	t.Helper()
	dir := t.TempDir()
	password := filepath.Join(dir, "dsn")
	for name, text := range map[string]string{
		password: "postgres://app:" + canary + "@db.example/warehouse",
		filepath.Join(dir, "outrelay.yaml"): `sources:
  shop:
    postgres: ${env:SHOP_DSN}
    outbox: [{table: public.outbox}]
  plain:
    postgres: postgres://app:` + canary + `@db.example/plain?sslmode=require
    outbox: [{table: public.outbox}]
consumers:
  totals:
    topics: [outbox.event.order]
    into: {postgres: '${file:` + password + `}'}
    handle: {'*': 'select 1'}
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return call{dir: dir, env: []string{"SHOP_DSN=postgres://app:" + canary + "@db.example/shop"}}
}

func TestConfigShow_hidesSecrets(t *testing.T) {
	t.Parallel()
	in := secretFile(t)
	for _, args := range []string{"config show", "config show --json", "validate", "validate --json", "config show --env", "config schema",
		"topics list --kafka 127.0.0.1:1", "groups list --kafka 127.0.0.1:1", "audit shop --kafka 127.0.0.1:1"} {
		r := in.run(t, strings.Fields(args)...)
		if strings.Contains(r.stdout+r.stderr, canary) {
			t.Errorf("outrelay %s shows the secret:\n%s%s", args, r.stdout, r.stderr)
		}
	}
	shown := in.ok(t, "config", "show")
	for _, want := range []string{"${env:SHOP_DSN}", "${file:", "slot: outrelay_shop", "partitions: 16", "127.0.0.1:9092"} {
		if !strings.Contains(shown, want) {
			t.Errorf("config show has no %q:\n%s", want, shown)
		}
	}
	var j map[string]any
	parse(t, in.ok(t, "config", "show", "--json"), &j)
}

// What an error says of a connection string that cannot be read must not show it.
func TestValidate_badDSNHidesSecrets(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"postgres://app:" + canary + "@db.example:port/x", "postgres://app:" + canary + "@[::1/x", "host=db password=" + canary + " sslmode=never", "nonsense " + canary} {
		in := secretFile(t)
		in.env = []string{"SHOP_DSN=" + dsn}
		for _, args := range [][]string{{"validate"}, {"run", "--http-listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"}} {
			r := in.run(t, args...)
			if r.code != 2 || strings.Contains(r.stdout+r.stderr, canary) || !strings.Contains(r.stdout+r.stderr, "outrelay.yaml:3:15") {
				t.Errorf("%s with %q: exit code %d\n%s%s", args[0], dsn, r.code, r.stdout, r.stderr)
			}
		}
	}
}

func TestConfigShow_env(t *testing.T) {
	t.Parallel()
	text := call{}.ok(t, "config", "show", "--env")
	for _, want := range []string{"OUTRELAY_BROKER_LISTEN", "--kafka-listen", "OUTRELAY_HTTP_LISTEN", "OUTRELAY_DATA"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s:\n%s", want, text)
		}
	}
	var list []struct{ Key, Env, Flag, Doc string }
	parse(t, call{}.ok(t, "config", "show", "--env", "--json"), &list)
	if len(list) < 10 {
		t.Errorf("%+v", list)
	}
	in := secretFile(t)
	in.env = append(in.env, "OUTRELAY_BROKER_PARTITIONS=3", "OUTRELAY_DATA=/srv/outrelay")
	if shown := in.ok(t, "config", "show"); !strings.Contains(shown, "partitions: 3") || !strings.Contains(shown, "data: /srv/outrelay") {
		t.Errorf("the environment does not override:\n%s", shown)
	}
	in.env = append(in.env, "OUTRELAY_BROKER_PARTITIONS=many")
	if r := in.run(t, "validate"); r.code != 2 || !strings.Contains(r.stdout, "environment variable OUTRELAY_BROKER_PARTITIONS: broker.partitions: ") {
		t.Errorf("exit code %d\n%s", r.code, r.stdout)
	}
}

func TestConfigSchema_parses(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	parse(t, call{}.ok(t, "config", "schema"), &schema)
	checkedIn, err := os.ReadFile("../../config/outrelay.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var other map[string]any
	if err := json.Unmarshal(checkedIn, &other); err != nil || len(schema) != len(other) {
		t.Errorf("the schema that is checked in differs: %v", err)
	}
}

// The file of the README, and the one of the example, are valid.
func TestValidate_examples(t *testing.T) {
	t.Parallel()
	env := []string{"SHOP_DSN=postgres://localhost/shop", "WAREHOUSE_DSN=postgres://localhost/warehouse", "KAFKA_PASSWORD=p"}
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			t.Fatal(err)
		}
		if out := (call{env: env}).ok(t, "validate", "--offline", "-c", abs); !strings.Contains(out, "ok: 1 source(s), 1 consumer(s)") || !strings.Contains(out, "exactly once") {
			t.Errorf("%s:\n%s", f, out)
		}
	}
}
