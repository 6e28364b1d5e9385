package system_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
)

// The checker has its own tests: each planted bug must be seen by the count, or halt outrelay by name; the same scenario without the bug is clean.

// awaitLogged waits until the process has written text to its log.
func (w *world) awaitLogged(text string) {
	w.t.Helper()
	await(w.t, "the log says "+text, 30*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(w.Dir, "outrelay.log"))
		return err == nil && strings.Contains(string(b), text)
	})
}

// A relay that confirms to the source before its transaction is committed loses what is not committed yet. The database then stands ahead of the
// log's position, which halts by name.
func TestPlanted_confirmBeforeCommit(t *testing.T) {
	for _, bug := range []string{"", "bug.confirm-before-commit=on,"} {
		t.Run(name(bug), func(t *testing.T) {
			w := newWorld(t, worldOptions{failpoints: true})
			w.start()
			w.served(50)
			w.stop()
			w.start("OUTRELAY_FAILPOINTS=" + bug + "relay.beforeCommit=sleep@0")
			confirmed := func() string {
				return w.pg.Value(t, w.db, "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'w_"+w.db+"'")
			}
			before := confirmed()
			w.place(1)
			w.awaitLogged("failpoint relay.beforeCommit: sleep")
			if bug != "" {
				await(t, "the slot is confirmed too early", 20*time.Second, func() bool { return confirmed() != before })
			}
			if err := w.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if bug == "" {
				w.start()
				w.served(20)
				w.verify()
				return
			}
			w.launch()
			w.awaitReadyz(503, "relay: ", "[slot-ahead]", "transactions that committed in (", "--accept-gap")
		})
	}
}

// A sink that commits results and offset apart applies twice what a crash catches between the two.
func TestPlanted_offsetOutsideTransaction(t *testing.T) {
	for _, bug := range []string{"", "bug.offset-outside-transaction=on,"} {
		t.Run(name(bug), func(t *testing.T) {
			w := newWorld(t, worldOptions{failpoints: true})
			w.start()
			w.served(50)
			w.stop()
			for hit := 1; hit <= 8; hit++ { // the point is hit in the sink and after it; only the first shows the bug
				w.place(100)
				w.launch(fmt.Sprintf("OUTRELAY_FAILPOINTS=%sC14=kill@%d", bug, hit))
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				err := w.Process.Died(ctx)
				cancel()
				if !strings.Contains(err.Error(), "killed") {
					t.Fatal(err)
				}
			}
			w.start()
			w.place(50)
			if bug == "" {
				w.verify()
				return
			}
			r := w.count()
			if r.Duplicated == 0 {
				t.Fatalf("the checker did not see it: %+v", r)
			}
			t.Logf("seen: %d duplicated", r.Duplicated)
		})
	}
}

// A sink that does not look at the epoch lets a late owner apply what the new one has applied already.
func TestPlanted_epochNotChecked(t *testing.T) {
	for _, bug := range []string{"", ",bug.epoch-not-checked=on"} {
		t.Run(name(bug), func(t *testing.T) {
			s := newSidecar(t)
			s.Process.Binary = binary(t, true)
			s.edit(s.Config + "instance: planted\n") // two processes in one seat: the second takes it at once
			s.start()
			s.served(50)
			s.stop()
			b := s.second()
			s.start("OUTRELAY_FAILPOINTS=C16=stop@1" + bug)
			s.place(1)
			await(t, "the first process stops itself before the batch", 30*time.Second, func() bool { return stopped(t, s.Process) })
			if err := b.Launch(); err != nil {
				t.Fatal(err)
			}
			s.drained()
			s.proxy.Stall(testenv.ToClient, true) // the late owner does not hear that it is late
			if err := s.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if bug == "" {
				s.awaitLogged("partition fenced by another owner")
			} else {
				await(t, "the late owner applies", 30*time.Second, func() bool {
					committed, applied, err := s.Counts(t.Context())
					return err == nil && applied > committed
				})
			}
			s.proxy.Stall(testenv.ToClient, false)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			if err := s.Process.Died(ctx); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(s.Process.Tail(), "[instance-taken]") {
				t.Fatalf("a process whose seat was taken should end with exit code 3: %v\n%s", err, s.Process.Tail())
			}
			if bug == "" {
				if r := s.audit(0); r.Applied != 51 {
					t.Fatalf("not clean: %+v", r)
				}
				s.sinkExact()
				return
			}
			r := s.audit(4)
			if r.Duplicated == 0 {
				t.Fatalf("the checker did not see it: %+v", r)
			}
			t.Logf("seen: %d duplicated", r.Duplicated)
		})
	}
}

func name(bug string) string {
	if bug == "" {
		return "without the bug"
	}
	return "with the bug"
}
