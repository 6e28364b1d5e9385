package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/outrelay/outrelay/internal/vfs"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestMem_CrashKeepsWhatWasSynced(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	must(t, m.MkdirAll("a/b"))
	put(t, m, "a/b/f", "synced")
	must(t, m.SyncDir("a/b"))
	f, err := m.OpenRW("a/b/f")
	must(t, err)
	_, err = f.WriteAt([]byte("SYNC"), 0)
	must(t, err)
	for seed := range uint64(200) {
		c := m.CrashClone(seeded(seed))
		if got := get(t, c, "a/b/f"); len(got) != 6 || got[4:] != "ed" || !strings.EqualFold(got, "synced") {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

// TestMem_CrashOutcomes checks that a crash can leave each state that a disk can, and nothing else.
func TestMem_CrashOutcomes(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	put(t, m, "old", "old")
	put(t, m, "gone", "gone")
	must(t, m.SyncDir("."))
	must(t, m.Rename("old", "new"))
	must(t, m.Remove("gone"))
	f, err := m.Create("fresh")
	must(t, err)
	data := bytes.Repeat([]byte{'x'}, 3*512)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		c := m.CrashClone(seeded(seed))
		has := names(t, c, ".")
		if strings.Contains(has, "old") == strings.Contains(has, "new") {
			t.Fatalf("seed %d: a rename was torn: %q", seed, has)
		}
		for _, n := range strings.Fields(has) {
			seen[n] = true
			if n != "fresh" {
				continue
			}
			got := get(t, c, n)
			switch kept := strings.Count(got, "x"); {
			case got == "":
				seen["empty"] = true
			case kept == len(data):
				seen["whole"] = true
			case kept == 0:
				seen["size without bytes"] = true
			case kept%512 != 0:
				seen["torn at a byte"] = true
			case got[0] == 0:
				seen["later sector without an earlier one"] = true
			}
		}
		if !strings.Contains(has, "gone") {
			seen["removed"] = true
		}
		if !strings.Contains(has, "fresh") {
			seen["name lost"] = true
		}
	}
	for _, want := range []string{"old", "new", "gone", "removed", "fresh", "name lost", "empty", "whole", "size without bytes",
		"torn at a byte", "later sector without an earlier one"} {
		if !seen[want] {
			t.Errorf("no crash in 2000 left %q", want)
		}
	}
}

func TestMem_CrashCloneRepeatsAndLeavesTheOriginal(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	must(t, m.MkdirAll("d/e"))
	for i := range 20 {
		f, err := m.Create(fmt.Sprintf("d/%d", i))
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{byte(i)}, 2000), int64(i))
		must(t, err)
		must(t, m.Rename(f.Name(), fmt.Sprintf("d/e/%d", i/2)))
	}
	dump := func(m *vfs.Mem) string {
		var b strings.Builder
		for _, dir := range []string{"d", "d/e"} {
			for _, n := range strings.Fields(names(t, m, dir)) {
				if !strings.HasSuffix(n, "/") {
					fmt.Fprintf(&b, "%s/%s=%q\n", dir, n, get(t, m, dir+"/"+n))
				}
			}
		}
		return b.String()
	}
	before := dump(m)
	for seed := range uint64(50) {
		one, two := m.CrashClone(seeded(seed)), m.CrashClone(seeded(seed))
		if dump(one) != dump(two) {
			t.Fatalf("seed %d: two crashes differ", seed)
		}
		after := dump(one.CrashClone(seeded(seed + 1)))
		if dump(one) != after {
			t.Fatalf("seed %d: something in a crash clone is not durable", seed)
		}
	}
	if dump(m) != before {
		t.Fatal("CrashClone changed the original")
	}
}

func TestMem_FailedSyncIsNeverMadeGood(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	put(t, m, "f", "old")
	must(t, m.SyncDir("."))
	f, err := m.OpenRW("f")
	must(t, err)
	_, err = f.WriteAt([]byte("new"), 0)
	must(t, err)
	m.Fail(vfs.OpSync, 1, syscall.EIO)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync: %v", err)
	}
	must(t, f.Sync()) // the kernel says all is well: it is not
	lost := false
	for seed := range uint64(50) {
		lost = lost || get(t, m.CrashClone(seeded(seed)), "f") == "old"
	}
	if !lost {
		t.Fatal("a second sync made good what the first one lost")
	}
}

func TestMem_Faults(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	use := func(m *vfs.Mem) map[vfs.Op]func() error {
		f, err := m.Create("f")
		must(t, err)
		return map[vfs.Op]func() error{
			vfs.OpOpen:     func() error { _, err := m.Open("f"); return err },
			vfs.OpCreate:   func() error { _, err := m.Create("c"); return err },
			vfs.OpRead:     func() error { _, err := f.ReadAt(nil, 0); return ignoreEOF(err) },
			vfs.OpWrite:    func() error { _, err := f.WriteAt([]byte("ab"), 0); return err },
			vfs.OpTruncate: func() error { return f.Truncate(2) },
			vfs.OpSync:     f.Sync,
			vfs.OpSyncDir:  func() error { return m.SyncDir(".") },
			vfs.OpRename:   func() error { return m.Rename("f", "f") },
			vfs.OpRemove:   func() error { return m.RemoveAll("none") },
			vfs.OpMkdir:    func() error { return m.MkdirAll("d") },
			vfs.OpList:     func() error { _, err := m.List("."); return err },
		}
	}
	for op := range use(vfs.NewMem()) {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			m := vfs.NewMem()
			do := use(m)[op]
			m.Fail(op, 2, boom)
			for i, want := range []error{nil, boom, nil} {
				if err := do(); !errors.Is(err, want) {
					t.Fatalf("call %d: %v, want %v", i+1, err, want)
				}
			}
			m.FailFrom(op, 1, boom)
			if err := errors.Join(do(), do()); !errors.Is(err, boom) {
				t.Fatalf("FailFrom: %v", err)
			}
			m.ClearFaults()
			must(t, do())
		})
	}
}

func ignoreEOF(err error) error {
	if err != nil && err.Error() == "EOF" {
		return nil
	}
	return err
}

func TestMem_LimitIsENOSPC(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	m.Limit(10)
	f, err := m.Create("f")
	must(t, err)
	_, err = f.WriteAt(make([]byte, 8), 0)
	must(t, err)
	if n, err := f.WriteAt(make([]byte, 4), 8); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write beyond the limit: %d %v", n, err)
	}
	if err := f.Truncate(11); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("truncate beyond the limit: %v", err)
	}
	must(t, m.Remove("f"))
	put(t, m, "g", "room again")
}

func TestMem_OnSyncMayCrash(t *testing.T) {
	t.Parallel()
	m := vfs.NewMem()
	var clones []*vfs.Mem
	m.OnSync(func() { clones = append(clones, m.CrashClone(seeded(uint64(len(clones))))) })
	put(t, m, "f", "x")
	must(t, m.SyncDir("."))
	if len(clones) != 2 {
		t.Fatalf("%d calls, want one per Sync and SyncDir", len(clones))
	}
}
