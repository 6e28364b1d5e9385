package vfs_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/vfs"
)

// each runs a test on both file systems, in an empty directory.
func each(t *testing.T, test func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Helper()
	t.Parallel()
	t.Run("os", func(t *testing.T) {
		t.Parallel()
		test(t, vfs.OS{}, t.TempDir())
	})
	t.Run("mem", func(t *testing.T) {
		t.Parallel()
		m := vfs.NewMem()
		must(t, m.MkdirAll("d"))
		test(t, m, "d")
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, fsys vfs.FS, name, text string) {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func get(t testing.TB, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(b)
}

func names(t testing.TB, fsys vfs.FS, dir string) string {
	t.Helper()
	infos, err := fsys.List(dir)
	must(t, err)
	var s []string
	for _, i := range infos {
		if i.Dir {
			i.Name += "/"
		}
		s = append(s, i.Name)
	}
	return strings.Join(s, " ")
}

func TestFS_FilesAndNames(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		put(t, fsys, a, "one")
		put(t, fsys, b, "two")
		must(t, fsys.MkdirAll(filepath.Join(dir, "x", "y")))
		must(t, fsys.MkdirAll(filepath.Join(dir, "x", "y")))
		if got := names(t, fsys, dir); got != "a b x/" {
			t.Fatalf("List: %q", got)
		}
		must(t, fsys.Rename(a, b))
		if got := get(t, fsys, b); got != "one" {
			t.Fatalf("b holds %q after the rename", got)
		}
		if _, err := fsys.Open(a); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a after the rename: %v", err)
		}
		info, err := fsys.Stat(b)
		must(t, err)
		if info.Name != "b" || info.Size != 3 || info.Dir || info.Perm != 0o600 || info.Owner != os.Geteuid() {
			t.Fatalf("Stat: %+v", info)
		}
		if info, err = fsys.Stat(filepath.Join(dir, "x")); err != nil || !info.Dir || info.Perm != 0o700 || info.Owner != os.Geteuid() {
			t.Fatalf("Stat of a directory: %+v %v", info, err)
		}
		must(t, fsys.SyncDir(dir))
		if err := fsys.Remove(filepath.Join(dir, "x")); err == nil {
			t.Fatal("Remove of a directory that is not empty succeeded")
		}
		must(t, fsys.RemoveAll(filepath.Join(dir, "x")))
		must(t, fsys.RemoveAll(filepath.Join(dir, "x")))
		must(t, fsys.Remove(b))
		if got := names(t, fsys, dir); got != "" {
			t.Fatalf("List at the end: %q", got)
		}
	})
}

func TestFS_NotExist(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		none := filepath.Join(dir, "none")
		open := func(f vfs.File, err error) error { return err }
		_, errStat := fsys.Stat(none)
		_, errList := fsys.List(none)
		for name, err := range map[string]error{
			"open": open(fsys.Open(none)), "openrw": open(fsys.OpenRW(none)), "create": open(fsys.Create(filepath.Join(none, "x"))),
			"rename": fsys.Rename(none, none+"2"), "remove": fsys.Remove(none), "stat": errStat, "list": errList, "syncdir": fsys.SyncDir(none),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of nothing: %v, want fs.ErrNotExist", name, err)
			}
		}
	})
}

func TestFile_WriteTruncateRead(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "f")
		f, err := fsys.Create(name)
		must(t, err)
		_, err = f.WriteAt([]byte("abcdef"), 2)
		must(t, err)
		must(t, f.Truncate(4))
		must(t, f.Truncate(6)) // what the shorter file had is not seen again
		b := make([]byte, 8)
		if n, err := f.ReadAt(b, 0); n != 6 || !errors.Is(err, io.EOF) || string(b[:n]) != "\x00\x00ab\x00\x00" {
			t.Fatalf("ReadAt: %d %v %q", n, err, b[:n])
		}
		if n, err := f.ReadAt(b, 9); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("ReadAt beyond the end: %d %v", n, err)
		}
		must(t, f.Sync())
		must(t, f.Close())
		if err := f.Sync(); !errors.Is(err, fs.ErrClosed) {
			t.Fatalf("Sync after Close: %v", err)
		}
		r, err := fsys.Open(name)
		must(t, err)
		defer r.Close()
		if _, err := r.WriteAt([]byte("x"), 0); err == nil {
			t.Fatal("a file opened for reading was written")
		}
		w, err := fsys.OpenRW(name)
		must(t, err)
		defer w.Close()
		if size, err := w.Size(); size != 6 || err != nil || w.Name() != name {
			t.Fatalf("size %d of %s: %v", size, w.Name(), err)
		}
		must(t, fsys.Remove(name)) // open files outlive their name
		if _, err := w.ReadAt(b[:6], 0); err != nil {
			t.Fatalf("ReadAt of a removed file: %v", err)
		}
	})
}

func TestFS_LockNamesTheHolder(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "LOCK")
		put(t, fsys, name, "4194304\n") // left behind by a process that died: no lock
		l, err := fsys.Lock(name)
		must(t, err)
		if got, want := get(t, fsys, name), strconv.Itoa(os.Getpid())+"\n"; got != want {
			t.Fatalf("lock file holds %q, want %q", got, want)
		}
		_, err = fsys.Lock(name)
		if !errors.Is(err, vfs.ErrLocked) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
			t.Fatalf("second Lock: %v", err)
		}
		must(t, l.Close())
		l, err = fsys.Lock(name)
		must(t, err)
		must(t, l.Close())
	})
}

func TestFile_WriteVAt(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(dir + "/f")
		must(t, err)
		defer f.Close()
		var bufs [][]byte
		want := strings.Repeat("-", 7)
		for i := range 3000 { // more than one call takes
			part := strings.Repeat(strconv.Itoa(i), i%4) // some are empty
			bufs = append(bufs, []byte(part))
			want += part
		}
		_, err = f.WriteAt([]byte(want[:7]), 0)
		must(t, err)
		n, err := f.WriteVAt(bufs, 7)
		if err != nil || n != len(want)-7 {
			t.Fatalf("wrote %d of %d bytes: %v", n, len(want)-7, err)
		}
		if got := get(t, fsys, dir+"/f"); got != want {
			t.Fatal("the file does not hold what was written")
		}
		if n, err := f.WriteVAt(nil, 3); n != 0 || err != nil {
			t.Fatalf("nothing to write: %d, %v", n, err)
		}
	})
}

func TestFile_Reserve_leavesTheSize(t *testing.T) {
	each(t, func(t *testing.T, fsys vfs.FS, dir string) {
		put(t, fsys, dir+"/f", "abc")
		f, err := fsys.OpenRW(dir + "/f")
		must(t, err)
		defer f.Close()
		f.Reserve(1 << 20)
		if size, err := f.Size(); err != nil || size != 3 {
			t.Fatalf("size %d, %v; want 3", size, err)
		}
		_, err = f.WriteAt([]byte("de"), 3)
		must(t, err)
		must(t, f.Truncate(5))
		if got := get(t, fsys, dir+"/f"); got != "abcde" {
			t.Fatalf("%q", got)
		}
	})
}
