package system_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/demo"
	"github.com/outrelay/outrelay/internal/migrate"
	"github.com/outrelay/outrelay/internal/testenv"
)

// file writes a configuration into the world's directory and returns its path.
func (w *world) file(name, config string) string {
	w.t.Helper()
	path := filepath.Join(w.Dir, name)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// migrate runs `outrelay log migrate`, and returns what it says; killed tells that it died at a failpoint.
func (w *world) migrate(failpoint string, args ...string) (r migrate.Report, killed bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 120*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.Process.Binary, append([]string{"log", "migrate", "--json"}, args...)...)
	cmd.Dir = w.Dir
	cmd.Env = append(append(os.Environ(), w.Process.Env...), "OUTRELAY_FAILPOINTS="+failpoint)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	began := time.Now()
	out, err := cmd.Output()
	w.t.Logf("migrate %s %v took %s: %v", failpoint, args, time.Since(began), err)
	if failpoint != "" && err != nil && strings.Contains(err.Error(), "killed") {
		return r, true
	}
	if err != nil {
		w.t.Fatalf("outrelay log migrate %v: %v\n%s%s", args, err, out, stderr.String())
	}
	parse(w.t, string(out), &r)
	return r, false
}

// onOwnLog returns a file whose log is outrelay's own, in a data directory of that name.
func (w *world) onOwnLog(base, data string) string {
	return base + "data: " + filepath.Join(w.Dir, data) + "\n"
}

func (w *world) kill() {
	w.t.Helper()
	if err := w.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
}

// From outrelay's own log to Apache Kafka and back into a new one of its own, in the middle of a load: ahead while everything runs, the rest when outrelay has been
// killed; the process that migrates dies at every point on the way. Everything is counted from outside after each move.
func TestMigrate_crashes(t *testing.T) {
	w := newWorld(t, worldOptions{failpoints: true, noLog: true})
	base := w.Config
	old := w.file("old.yaml", w.onOwnLog(base, "data"))
	w.edit(w.onOwnLog(base, "data"))
	w.start()
	l := w.load(rate)
	w.appliedMore(300, 30*time.Second)

	kf := testenv.StartKafka(t, testenv.KafkaOptions{Config: map[string]string{"log.message.timestamp.before.max.ms": "1000"}})
	onKafka := w.onOwnLog(base, "data") + "log: {kafka: {brokers: ['" + kf.Addr() + "'], prefix: moved.}}\n"
	kafkaFile := w.file("kafka.yaml", onKafka)
	to := []string{"-c", old, "--to", kafkaFile}
	if r, _ := w.migrate("", append(to, "--ahead", "--kafka", w.Process.Kafka)...); r.State != migrate.StateAhead {
		t.Errorf("ahead: %+v", r)
	}
	o := w.runCLI("", append([]string{"log", "migrate", "--dry-run", "--kafka", w.Process.Kafka}, to...)...)
	if o.code != 3 || !containsAll(o.stdout, []string{"problem: somebody is at work", "group " + group, "nothing was changed; 1 problem(s)"}) {
		t.Errorf("a dry run while outrelay runs: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	w.kill()
	w.stopLoad(l)

	died := w.dieOnTheWay(to...)
	t.Logf("died at %s", strings.Join(died, ", "))
	done, _ := w.migrate("", to...)
	if done.State != migrate.StateDone && done.State != migrate.StateAlready {
		t.Fatalf("%+v", done)
	}
	if again, _ := w.migrate("", to...); again.State != migrate.StateAlready {
		t.Errorf("run again: %+v", again)
	}
	w.haltsOnTheOldLog()

	w.edit(onKafka)
	w.kf, w.Process.Kafka, w.Process.External = kf, kf.Addr(), true
	w.goOn()

	own, err := demo.NewProcess(w.Process.Binary, t.TempDir()) // for its free addresses
	if err != nil {
		t.Fatal(err)
	}
	w.kill()
	backFile := w.file("back.yaml", w.onOwnLog(base, "back"))
	if r, _ := w.migrate("", "-c", kafkaFile, "--to", backFile); r.State != migrate.StateDone {
		t.Errorf("back: %+v", r)
	}
	w.edit(w.onOwnLog(base, "back"))
	w.kf, w.Process.Kafka, w.Process.External = nil, own.Kafka, false
	w.Process.Args = []string{"--data", filepath.Join(w.Dir, "back")}
	w.goOn()
}

// goOn starts outrelay, loads it and counts.
func (w *world) goOn() {
	w.t.Helper()
	w.start()
	l := w.load(rate)
	w.appliedMore(200, 30*time.Second)
	w.stopLoad(l)
	w.verify()
}

// dieOnTheWay lets the migration die once at each of its points, and returns where it did.
func (w *world) dieOnTheWay(args ...string) (died []string) {
	w.t.Helper()
	for _, at := range []string{"migrate.afterFence=kill", "migrate.beforeNote=kill@2", "migrate.beforeCommit=kill@2", "migrate.afterCommit=kill@2", "migrate.afterGroup=kill", "migrate.afterPosition=kill"} {
		if _, killed := w.migrate(at, args...); !killed {
			w.t.Fatalf("%s was not come by", at)
		}
		died = append(died, at)
	}
	return died
}

// haltsOnTheOldLog starts outrelay on the log that was left: source and group say where they are now.
func (w *world) haltsOnTheOldLog() {
	w.t.Helper()
	if err := w.Process.Launch(); err != nil {
		w.t.Fatal(err)
	}
	w.awaitReadyz(503, "this log was migrated to", "of another log")
	if err := w.Process.Stop(); err != nil {
		w.t.Fatal(err)
	}
}

// A migration that is given up leaves the old log as it was.
func TestMigrate_abandon(t *testing.T) {
	w := newWorld(t, worldOptions{failpoints: true, noLog: true})
	base := w.Config
	old := w.file("old.yaml", w.onOwnLog(base, "data"))
	other := w.file("other.yaml", w.onOwnLog(base, "other"))
	w.edit(w.onOwnLog(base, "data"))
	w.start()
	l := w.load(rate)
	w.appliedMore(100, 30*time.Second)
	w.kill()
	w.stopLoad(l)
	to := []string{"-c", old, "--to", other}
	if _, killed := w.migrate("migrate.afterCommit=kill@4", to...); !killed {
		t.Fatal("it went through")
	}
	if r, _ := w.migrate("", append(to, "--abandon")...); r.State != migrate.StateAbandoned || len(r.Sources) != 1 {
		t.Errorf("%+v", r)
	}
	w.goOn()
}
