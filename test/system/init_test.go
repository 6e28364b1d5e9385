package system_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCrash_init kills outrelay between the steps of a source's very first start, also that of the start which takes over what the one before has
// left. Whatever commits once the slot exists is relayed.
func TestCrash_init(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   []string
	}{
		{"before the slot", []string{"relay.afterIntent"}},
		{"after the slot", []string{"relay.afterInit"}},
		{"again and again", []string{"relay.afterIntent", "relay.afterIntent", "relay.afterInit", "relay.afterInit"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{failpoints: true})
			for _, point := range tt.at {
				w.dieAt(point)
			}
			slot := w.pg.Value(t, w.db, "select coalesce((select confirmed_flush_lsn::text from pg_replication_slots where database = current_database()), '')")
			if created := strings.HasSuffix(tt.at[len(tt.at)-1], "Init"); created != (slot != "") {
				t.Fatalf("after the last crash the slot is at %q", slot)
			}
			if slot == "" {
				w.start()
			}
			l := w.load(rate)
			await(t, "the shop commits", 20*time.Second, func() bool { return l.Committed() > 200 })
			if slot != "" {
				w.start()
			}
			w.appliedMore(200, 30*time.Second)
			w.stopLoad(l)
			w.verify()
		})
	}
}

// dieAt starts outrelay, which kills itself at the failpoint.
func (w *world) dieAt(point string) {
	w.t.Helper()
	if err := w.Process.Launch("OUTRELAY_FAILPOINTS=" + point + "=kill"); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Process.Died(ctx); err == nil || !strings.Contains(err.Error(), "killed") {
		w.t.Fatalf("at %s outrelay should have been killed: %v", point, err)
	}
}

// TestInit makes a source ready by the verb, against a log that runs in a process of its own; run goes on from there: what committed in between
// is relayed.
func TestInit(t *testing.T) {
	w := newWorld(t, worldOptions{})
	if !external() { // which runs already
		w.Process.Args = []string{"--log-only"}
		w.start()
	}
	first := w.init()
	if again := w.init(); again != first {
		t.Errorf("init again gave %s, the first gave %s", again, first)
	}
	l := w.load(rate)
	await(t, "the shop commits", 20*time.Second, func() bool { return l.Committed() > 200 })
	if !external() {
		w.stop()
		w.Process.Args = nil
	}
	w.start()
	w.appliedMore(200, 30*time.Second)
	w.stopLoad(l)
	w.verify()
}

// init runs `outrelay init` and returns the position that it reports.
func (w *world) init() string {
	w.t.Helper()
	cmd := exec.Command(w.Process.Binary, "init", "-c", filepath.Join(w.Dir, "outrelay.yaml"), "--kafka", w.Process.Kafka, "--json")
	cmd.Env = append(os.Environ(), w.Process.Env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("init: %v\n%s%s", err, out, stderr.String())
	}
	var done []struct{ Source, Position string }
	if err := json.Unmarshal(out, &done); err != nil || len(done) != 1 || done[0].Source != "shop" || done[0].Position == "" {
		w.t.Fatalf("init said %s (%v)", out, err)
	}
	return done[0].Position
}
