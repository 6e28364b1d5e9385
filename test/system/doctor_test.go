package system_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/doctor/doctortest"
)

// doctor runs `outrelay doctor --json` beside a running outrelay and returns what it found, and its exit code.
func (w *world) doctor() (fs []doctor.Finding, code int) {
	w.t.Helper()
	cmd := exec.Command(w.Process.Binary, "doctor", "--json", "-c", filepath.Join(w.Dir, "outrelay.yaml"), "--kafka", w.Process.Kafka)
	cmd.Env = append(os.Environ(), w.Env()...)
	out, _ := cmd.Output() // the exit code is looked at
	var r struct{ Findings []doctor.Finding }
	if err := json.Unmarshal(out, &r); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return r.Findings, cmd.ProcessState.ExitCode()
}

// The checks of a deployment at work find nothing but what the tests' own servers have: a superuser, no syncs, no bound for WAL. Then its slot is dropped, and a column.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	w.start()
	l := w.load(50)
	w.appliedMore(50, 30*time.Second)
	expected := map[string]string{"P6": "superuser", "S2": "superuser", "P13": "max_slot_wal_keep_size", "P20": "off", "S6": "off", "P2": "fixes", "B2": "on"}
	fs, code := w.doctor()
	for _, f := range fs {
		if f.Severity == doctor.Error || f.Severity == doctor.Warning && !strings.Contains(f.Text, expected[f.ID]) {
			t.Errorf("%+v", f)
		}
		if _, ok := expected[f.ID]; f.Severity == doctor.Warning && !ok {
			t.Errorf("%+v", f)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	doctortest.WantMade(t, fs, "P1", "P12", "P23", "S1", "S8", "B1", "B9")
	w.stopLoad(l)
	w.stop()

	w.pg.Exec(t, w.db, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like '%"+w.db+"'", "alter table outbox drop column payload")
	fs, code = w.doctor()
	if code != 3 {
		t.Errorf("exit code %d", code)
	}
	doctortest.Want(t, fs, "P10", "error", "payload")
	doctortest.Want(t, fs, "P11", "does not exist")
}
