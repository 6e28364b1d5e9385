package broker_test

import (
	"errors"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// listDir returns the names in a directory.
func listDir(t *testing.T, fs vfs.FS, dir string) (names []string) {
	t.Helper()
	infos, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		names = append(names, i.Name)
	}
	return names
}

// copyFile copies a file of the memory file system.
func copyFile(t *testing.T, fs vfs.FS, from, to string) {
	t.Helper()
	src, err := fs.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	size, err := src.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := src.ReadAt(b, 0); err != nil && size > 0 {
		t.Fatal(err)
	}
	dst, err := fs.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dst.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := dst.Sync(); err != nil {
		t.Fatal(err)
	}
}

// wantRecords fails the test unless t/0 holds exactly n batches of one record.
func wantRecords(t *testing.T, c *rawConn, n int) {
	t.Helper()
	got := 0
	for end := int64(1); int64(got) < end; { // an answer may end where the page cache's part begins
		p := request[*kmsg.FetchResponse](c, fetchRequest("t", 0, int64(got), 0), 11).Topics[0].Partitions[0]
		bs := batches(t, p.RecordBatches)
		if p.ErrorCode != 0 || len(bs) == 0 && p.HighWatermark > int64(got) {
			t.Fatalf("fetch at %d of %d: error %d, %d batches", got, p.HighWatermark, p.ErrorCode, len(bs))
		}
		got, end = got+len(bs), p.HighWatermark
	}
	if got != n {
		t.Errorf("%d batches, want %d", got, n)
	}
}

// B101, B105: directories that no metadata knows, such as a second copy of a partition, are left alone: neither read nor deleted.
func TestDataDir_unknownDirectoriesStay(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	produce(t, c, "t", 0, plainBatch("a"))
	var twin string
	n.RestartAfter(func(mem *vfs.Mem) {
		own := listDir(t, mem, "data/partitions")[0]
		twin = own[:strings.LastIndexByte(own, '-')] + "-7777" // the same partition, another replica
		for _, dir := range []string{twin, strings.Repeat("ab", 16) + "-0-1", "lost+found"} {
			if err := mem.MkdirAll(path.Join("data/partitions", dir)); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range listDir(t, mem, path.Join("data/partitions", own)) {
			copyFile(t, mem, path.Join("data/partitions", own, name), path.Join("data/partitions", twin, name))
		}
	})
	c = dialRaw(t, n)
	produce(t, c, "t", 0, plainBatch("b"))
	wantRecords(t, c, 2)
	if got := listDir(t, n.FS(), "data/partitions"); len(got) != 4 {
		t.Errorf("directories %v", got)
	}
	if got := listDir(t, n.FS(), path.Join("data/partitions", twin)); len(got) == 0 {
		t.Error("the copy was emptied")
	}
}

// B105: a partition whose directory is gone is refused, and stays refused over restarts: it is not begun anew at offset 0, and the others are served.
func TestDataDir_aLostPartitionIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	createTopic(t, c, "u", 1)
	produce(t, c, "t", 0, plainBatch("a"))
	n.RestartAfter(func(mem *vfs.Mem) { // in order, so that the write-ahead log does not have it any more
		for _, dir := range listDir(t, mem, "data/partitions") {
			if names := listDir(t, mem, path.Join("data/partitions", dir)); hasRecords(t, mem, path.Join("data/partitions", dir), names) {
				if err := mem.RemoveAll(path.Join("data/partitions", dir)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	for range 2 {
		c = dialRaw(t, n)
		if code := tryProduce(t, c, "t", plainBatch("b"), 9).ErrorCode; code != kerr.KafkaStorageError.Code {
			t.Errorf("produce to the lost partition: error %d", code)
		}
		produce(t, c, "u", 0, plainBatch("c"))
		n.Restart()
	}
}

func hasRecords(t *testing.T, fs vfs.FS, dir string, names []string) bool {
	t.Helper()
	for _, name := range names {
		if i, err := fs.Stat(path.Join(dir, name)); err == nil && strings.HasSuffix(name, ".log") && i.Size > 0 {
			return true
		}
	}
	return false
}

// B103: a lock file whose process is gone does not keep the next one out; one that is held does, and says by whom (TestServer_openRefuses).
func TestDataDir_staleLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := broker.New(broker.Options{DataDir: dir})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// B106: that others may change the log, or that it is another user's, is said with the way to mend it. A directory that the server makes itself is its own.
func TestDataDir_ofOthers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		perm  os.FileMode
		owner int
		want  []string
	}{
		{0o700, 7, nil},
		{0o770, 7, nil}, // a volume of a group
		{0o777, 7, []string{"every user of this machine may write to it (mode 0777)"}},
		{0o702, 7, []string{"(mode 0702)"}},
		{0o700, 8, []string{"belongs to user 8, and this process is user 7"}},
		{0o777, 0, []string{"mode 0777", "belongs to user 0"}},
	} {
		got := broker.DataDirWarnings(vfs.Info{Perm: tc.perm, Owner: tc.owner}, 7)
		if len(got) != len(tc.want) {
			t.Errorf("%04o of %d: %q", tc.perm, tc.owner, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], tc.want[i]) {
				t.Errorf("%04o of %d: %q, want %q", tc.perm, tc.owner, got[i], tc.want[i])
			}
		}
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for dir, want := range map[string]int{open: 1, filepath.Join(t.TempDir(), "own"): 0} {
		var said logs
		s := broker.New(broker.Options{DataDir: dir, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if l := said.lines("data directory: every user"); len(l) != want || want > 0 && !strings.Contains(l[0], "chmod o-w") {
			t.Errorf("%s: said %q", dir, l)
		}
	}
}

// B104: on a file system that takes no writes the server does not open, says what it could not do, and changes nothing.
func TestDataDir_readOnly(t *testing.T) {
	t.Parallel()
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpRename, vfs.OpMkdir} {
		mem := vfs.NewMem()
		mem.Fail(op, 1, syscall.EROFS)
		s := broker.New(broker.Options{DataDir: "data", FS: mem})
		if err := s.Open(t.Context()); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%v: %v", op, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%v: close: %v", op, err)
		}
	}
}

// shifted is a clock that is off.
type shifted struct {
	clock.Real
	by atomic.Int64
}

func (s *shifted) Now() time.Time { return s.Real.Now().Add(time.Duration(s.by.Load())) }

// B107, C55: a clock that goes back behind the files, or ahead and back again, loses nothing and forgets no producer that it should not.
func TestDataDir_clockBehindTheFiles(t *testing.T) {
	t.Parallel()
	clk := &shifted{}
	n := brokertest.New(t, func(o *broker.Options) { o.Clock = clk })
	createTopic(t, dialRaw(t, n), "t", 1)
	for i, by := range []time.Duration{0, -365 * 24 * time.Hour, time.Hour, -time.Hour} {
		n.RestartAfter(func(*vfs.Mem) { clk.by.Store(int64(by)) })
		c := dialRaw(t, n)
		if sp := tryProduce(t, c, "t", idempotentBatch(1000, 0, int32(i), "b"), 9); sp.ErrorCode != 0 || sp.BaseOffset != int64(i) {
			t.Errorf("clock off by %v: %+v", by, sp)
		}
		if sp := tryProduce(t, c, "t", idempotentBatch(1000, 0, int32(i), "b"), 9); sp.ErrorCode != 0 || sp.BaseOffset != int64(i) {
			t.Errorf("clock off by %v, again: %+v", by, sp)
		}
		wantRecords(t, c, i+1)
	}
}
