package offline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

func backup(t testing.TB, mem *vfs.Mem, to string) (*offline.Manifest, error) {
	t.Helper()
	return offline.Backup(context.WithoutCancel(t.Context()), offline.BackupOptions{Options: offline.Options{FS: mem, Dir: dataDir}, To: to})
}

func restore(t testing.TB, mem *vfs.Mem, from, dir string) error {
	t.Helper()
	_, err := offline.Restore(context.WithoutCancel(t.Context()), offline.RestoreOptions{Options: offline.Options{FS: mem, Dir: dir}, From: from})
	return err
}

// TestBackup_live: a backup of a log in use holds all that was acknowledged before it, and what is restored from it is a log like any other.
func TestBackup_live(t *testing.T) {
	t.Parallel()
	n := node(t, func(o *broker.Options) { o.CheckpointEvery = 5 * time.Millisecond })
	fill(t, n)
	mem := n.FS()
	want := [2]map[int64]string{batches(t, n, 0), batches(t, n, 1)}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	cl := client(t, n)
	go func() { // somebody writes all the while
		for i := 0; ctx.Err() == nil; i++ {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "plain", Partition: int32(i % 2), Value: make([]byte, 3000)}).FirstErr(); err != nil && ctx.Err() == nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	m, err := backup(t, mem, "b")
	stop()
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if !m.Live || m.ClusterID != n.ClusterID() || m.NodeID != 1 || len(m.Files) < 10 || m.Bytes < 60*1500 {
		t.Fatalf("%+v", m)
	}
	if left, err := mem.List(path.Join(dataDir, "backup")); err != nil || len(left) != 0 {
		t.Fatal("the stage stays", left, err)
	}
	if _, err := backup(t, mem, "b"); !errors.Is(err, outrelay.ErrEnvironment) {
		t.Fatalf("into a directory that is not empty: %v", err)
	}
	if err := restore(t, mem, "b", dataDir); !errors.Is(err, outrelay.ErrEnvironment) {
		t.Fatalf("over a log in use: %v", err)
	}
	if err := restore(t, mem, "b", "restored"); err != nil {
		t.Fatal(err)
	}
	r := brokertest.New(t, func(o *broker.Options) { o.FS, o.DataDir = mem, "restored" })
	if r.ClusterID() != m.ClusterID {
		t.Fatal(r.ClusterID())
	}
	for p, all := range want {
		got := batches(t, r, int32(p))
		for o, b := range all {
			if got[o] != b {
				t.Fatalf("partition %d: the batch at %d is not the same", p, o)
			}
		}
		if base := produceBase(t, r, int32(p)); base != int64(len(got)) || base < int64(len(all)) {
			t.Fatalf("partition %d goes on at %d after %d", p, base, len(got))
		}
	}
}

// TestBackup_offline: of a log that nobody has open, the same again and again.
func TestBackup_offline(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		before := snapshot(t, mem, dataDir)
		m, err := backup(t, mem, "b")
		if err != nil || m.Live {
			t.Fatal(m, err)
		}
		if snapshot(t, mem, dataDir) != before {
			t.Fatal("the log was changed")
		}
		if err := restore(t, mem, "b", "again"); err != nil {
			t.Fatal(err)
		}
		if strings.ReplaceAll(snapshot(t, mem, "again"), "again/", dataDir+"/") != withoutSpares(before) {
			t.Fatal("what was restored differs")
		}
	})
}

func withoutSpares(s string) string {
	var keep []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "spare-") && !strings.Contains(line, "/backup") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

// TestRestore_refuses a backup of which anything is not as it was (B109).
func TestRestore_refuses(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		m, err := backup(t, mem, "b")
		if err != nil {
			t.Fatal(err)
		}
		check := func() error {
			_, err := offline.CheckBackup(t.Context(), offline.RestoreOptions{Options: offline.Options{FS: mem}, From: "b"})
			return err
		}
		refused := func(what string) {
			t.Helper()
			if err := check(); !errors.Is(err, outrelay.ErrDataHalt) {
				t.Fatalf("%s: check says %v", what, err)
			}
			if err := restore(t, mem, "b", "r"); !errors.Is(err, outrelay.ErrDataHalt) {
				t.Fatalf("%s: restored: %v", what, err)
			}
			for _, left := range []string{"r", "r.restoring"} {
				if _, err := mem.Stat(left); err == nil {
					t.Fatalf("%s: %s is there", what, left)
				}
			}
		}
		if err := check(); err != nil {
			t.Fatal(err)
		}
		for i, f := range m.Files {
			name := path.Join("b", f.Name)
			if f.Bytes > 0 {
				at := f.Bytes * int64(i%7) / 7
				flip(t, mem, name, at, 1<<(i%8))
				refused(fmt.Sprintf("bit flipped in %s at %d", name, at))
				flip(t, mem, name, at, 1<<(i%8))
			}
			must(t, mem.Rename(name, "elsewhere"))
			refused(name + " missing")
			must(t, mem.Rename("elsewhere", name))
		}
		log := "b/wal/00000000000000000001.wal" // it ends with zeros
		truncate(t, mem, log, size(t, mem, log)-1)
		refused("file cut")
		truncate(t, mem, log, size(t, mem, log)+2)
		if err := restore(t, mem, "b", "r"); !errors.Is(err, outrelay.ErrDataHalt) {
			t.Fatalf("file longer: %v", err)
		}
		truncate(t, mem, log, size(t, mem, log)-1)
		must(t, check())
		mem2 := *m
		mem2.Files = mem2.Files[1:]
		b, err := json.Marshal(mem2)
		must(t, err)
		f, err := mem.Create("b/manifest.json")
		must(t, err)
		_, err = f.WriteAt(b, 0)
		must(t, err)
		refused("file left out of the manifest")
		must(t, mem.Remove("b/manifest.json"))
		if err := restore(t, mem, "b", "r"); !errors.Is(err, outrelay.ErrEnvironment) {
			t.Fatalf("without a manifest: %v", err)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackup_ofDamage leaves no manifest, and says where the damage is.
func TestBackup_ofDamage(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		flip(t, mem, file(t, mem, 0, ".log", 0), 3000, 8)
		if _, err := backup(t, mem, "b"); !errors.Is(err, outrelay.ErrDataHalt) || !strings.Contains(err.Error(), "plain/0") {
			t.Fatal(err)
		}
		if err := restore(t, mem, "b", "r"); !errors.Is(err, outrelay.ErrEnvironment) {
			t.Fatalf("it was restored: %v", err)
		}
		flip(t, mem, file(t, mem, 0, ".log", 0), 3000, 8)
	})
}

// TestBackup_nobodyAnswers: the process that has the lock is no broker, or another version.
func TestBackup_nobodyAnswers(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		lock, err := mem.Lock(dataDir + "/lock")
		must(t, err)
		defer lock.Close()
		_, err = offline.Backup(t.Context(), offline.BackupOptions{Options: offline.Options{FS: mem, Dir: dataDir}, To: "b", Wait: time.Millisecond})
		var e *outrelay.Error
		if !errors.As(err, &e) || e.Code != "no-answer" {
			t.Fatal(err)
		}
	})
}
