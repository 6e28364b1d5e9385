package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/vfs"
)

// What the checks of the log compare with.
const (
	syncs         = 20
	syncSlow      = 20 * time.Millisecond
	spaceFreeMin  = 10 // hundredths of the disk
	inodesFreeMin = 5
	filesMin      = 4096
)

// examineLog makes the checks B1–B9.
func (d *Daemon) examineLog(ctx context.Context, ko kafka.Options) []doctor.Finding {
	if !d.c.Has(config.RoleBroker) {
		return d.examineExternal(ctx, ko)
	}
	r := &doctor.Report{Place: "log " + d.c.Data}
	dir := d.c.Data
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.OK("B5", "it is not there yet; it is created with mode 0700")
		dir = existing(dir)
	case err != nil:
		r.Fail("B5", "give the directory to the account that outrelay runs under", "%v", err)
		return r.Findings
	case !st.IsDir():
		r.Fail("B5", "name a directory", "it is no directory")
		return r.Findings
	case st.Mode().Perm()&0o077 != 0:
		r.Warn("B5", "chmod 700 "+dir, "its mode is %04o: others can read the events", st.Mode().Perm())
	default:
		r.OK("B5", "its mode is %04o", st.Mode().Perm())
	}
	diskSync(r, dir)
	diskKind(r, dir)
	diskSpace(r, dir)
	d.identityOf(r)
	files(r)
	r.Skip("B7", "one node has no peers")
	r.Skip("B8", "one node has no peers")
	r.OK("B9", "one node: every topic has one replica")
	return r.Findings
}

// existing returns the directory or the first above it that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// diskSync is B1: how long the disk takes to make a small write durable.
func diskSync(r *doctor.Report, dir string) {
	name := filepath.Join(dir, fmt.Sprintf(".doctor-%d", os.Getpid()))
	f, err := vfs.OS{}.Create(name)
	if err != nil {
		r.Fail("B1", "give the directory to the account that outrelay runs under", "%v", err)
		return
	}
	defer func() {
		f.Close()
		_ = vfs.OS{}.Remove(name)
	}()
	took := make([]time.Duration, syncs)
	block := make([]byte, 4096)
	for i := range took {
		began := time.Now()
		_, err := f.WriteAt(block, int64(i)*int64(len(block)))
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			r.Fail("B1", "look at the disk (dmesg), and at its quota", "%v", err)
			return
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	if p50 := took[syncs/2]; p50 > syncSlow {
		r.Warn("B1", "use a disk with a write cache that survives a power cut", "a sync takes %s (median of %d): every acknowledgement waits for one", p50.Round(time.Microsecond), syncs)
	} else {
		r.OK("B1", "a sync takes %s (median of %d)", p50.Round(time.Microsecond), syncs)
	}
}

// diskKind is B2.
func diskKind(r *doctor.Report, dir string) {
	k, err := vfs.KindOf(dir)
	switch {
	case err != nil:
		r.Skip("B2", "%v", err)
		return
	case k.Volatile:
		r.Warn("B2", "put `data` on a disk", "it is on %s: everything is gone after a restart of the machine", k.Name)
	case k.Remote:
		r.Warn("B2", "put `data` on a local disk", "it is on %s: locks and syncs there are not to be relied on", k.Name)
	case k.Name == "overlay":
		r.Warn("B2", "mount a volume at `data`", "it is in a container's own layer: it goes with the container")
	default:
		r.OK("B2", "it is on a local disk")
	}
	if k.InodesAll > 0 && k.InodesFree*100 < k.InodesAll*inodesFreeMin {
		r.Warn("B3", "remove files, or make the file system anew with more inodes", "%d of %d inodes are free", k.InodesFree, k.InodesAll)
	}
}

// diskSpace is B3.
func diskSpace(r *doctor.Report, dir string) {
	free, total, err := vfs.OS{}.Space(dir)
	switch {
	case err != nil:
		r.Skip("B3", "%v", err)
	case free*100 < total*spaceFreeMin:
		r.Warn("B3", "free space, enlarge the disk, or shorten retention", "%d MB of %d MB are free", free>>20, total>>20)
	default:
		r.OK("B3", "%d MB of %d MB are free", free>>20, total>>20)
	}
}

// identityOf is B4. The directory of a running process is its own.
func (d *Daemon) identityOf(r *doctor.Report) {
	if id := d.LogID(); id != "" {
		r.OK("B4", "the directory is the log %s", id)
		return
	}
	r.Skip("B4", "the log's id is known when it runs")
}

// files is B6.
func files(r *doctor.Report) {
	var l syscall.Rlimit
	switch err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); {
	case err != nil:
		r.Skip("B6", "%v", err)
	case l.Cur < filesMin:
		r.Warn("B6", "raise it: ulimit -Hn, LimitNOFILE= of systemd, nofile of a container", "the process may open %d files: each partition and each connection takes one", l.Cur)
	default:
		r.OK("B6", "the process may open %d files", l.Cur)
	}
}

// examineExternal is B7 and B9 of an external log.
func (d *Daemon) examineExternal(ctx context.Context, ko kafka.Options) []doctor.Finding {
	r := &doctor.Report{Place: "external log"}
	cl, err := kafka.NewClient(ko)
	if err == nil {
		defer cl.Close()
		var s kafka.Server
		if s, err = kafka.Describe(ctx, cl); err == nil {
			r.OK("B7", "Kafka %s, %d broker(s), cluster %s", s.Version, s.Brokers, s.ClusterID)
			for _, g := range s.Guarantees() {
				if !g.Holds {
					r.Warn("B9", "docs/operations/external-kafka.md", "%s", g.Text)
				}
			}
			if n := d.c.Log.Kafka.ReplicationFactor; n > s.Brokers {
				r.Fail("B9", "set log.kafka.replication_factor to the number of brokers at most", "replication_factor is %d, and the cluster has %d broker(s)", n, s.Brokers)
			} else {
				r.OK("B9", "the replication factor fits the brokers")
			}
			return r.Findings
		}
	}
	r.Fail("B7", "check log.kafka, its TLS and SASL, and that a broker runs", "the log is not reached: %v", err)
	return r.Findings
}
