package offline

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// fileManifest is the last file of a backup to be written: one without it is not whole.
const fileManifest = "manifest.json"

const manifestVersion = 1

// Manifest is what a backup says of itself (docs/format/backup.md).
type Manifest struct {
	Version   int            `json:"version"`
	Created   time.Time      `json:"created"`
	NodeID    int32          `json:"node_id"`
	ClusterID string         `json:"cluster_id"`
	Live      bool           `json:"live"` // of a log that was in use
	Bytes     int64          `json:"bytes"`
	Files     []ManifestFile `json:"files"`  // by name
	Checksum  string         `json:"sha256"` // of the JSON of Files, without spaces
}

// ManifestFile is a file of a backup.
type ManifestFile struct {
	Name   string `json:"name"` // below the backup's directory, with slashes
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func (m *Manifest) sum() (string, error) {
	b, err := json.Marshal(m.Files)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:]), err
}

// BackupOptions configures Backup.
type BackupOptions struct {
	Options
	To    string        // a directory that does not exist yet, or is empty
	Clock clock.Clock   // nil: the machine's
	Wait  time.Duration // for the process that has the log open; default 30 s
}

// Backup copies a log, in use or not, into a directory of its own, and checks the copy: it holds all that was acknowledged before Backup was called, as of
// one moment. Every file's SHA-256 is in the manifest, which is written last. It blocks for as long as copying takes; a log in use goes on, but for
// checkpoints, retention and compaction in the seconds in which its files are named. Errors: outrelay.ErrEnvironment (no log, To is not empty, the process does not
// answer), outrelay.ErrDataHalt when the copy is damaged, as the log then is; ctx's, the disk's.
func Backup(ctx context.Context, o BackupOptions) (*Manifest, error) {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	if err := free(o.FS, o.To); err != nil {
		return nil, err
	}
	m := &Manifest{Version: manifestVersion, Created: o.Clock.Now().UTC()}
	d, err := open(o.FS, o.Dir)
	from := o.Dir
	switch {
	case errors.Is(err, vfs.ErrLocked):
		m.Live = true
		if from, err = stage(ctx, o); err != nil {
			return nil, err
		}
		defer func() { _ = o.FS.RemoveAll(from) }() // the server removes what is left at its next start
	case err != nil:
		return nil, err
	default:
		defer d.close()
	}
	if err := o.copyAll(ctx, from, m); err != nil {
		return nil, err
	}
	r, err := Verify(ctx, Options{FS: o.FS, Dir: o.To})
	if err != nil {
		return nil, err
	}
	if err := o.FS.RemoveAll(path.Join(o.To, fileLock)); err != nil {
		return nil, err
	}
	m.NodeID, m.ClusterID = r.NodeID, r.ClusterID
	if !r.Clean {
		return nil, &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "backup-damaged", Place: o.To, Cause: r.Damages[0].Text,
			Fix: "the log itself is damaged: `outrelay log verify` names every place. The copy has no manifest, and is not taken for a backup"}
	}
	if m.Checksum, err = m.sum(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, err
	}
	return m, writeFile(o.FS, path.Join(o.To, fileManifest), append(b, '\n'))
}

// free returns an error unless a directory is not there or empty.
func free(fsys vfs.FS, dir string) error {
	infos, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(infos) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "directory-not-empty", Place: dir, Cause: "the directory is not empty", Fix: "name one that does not exist yet"}
}

// stage asks the process that has the log open for its directory as of one moment.
func stage(ctx context.Context, o BackupOptions) (string, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, by contract
	name := hex.EncodeToString(id[:])
	dir := path.Join(o.Dir, broker.BackupDir)
	if err := o.FS.MkdirAll(dir); err != nil {
		return "", err
	}
	request := path.Join(dir, broker.BackupRequest)
	if err := writeFile(o.FS, request+".tmp", []byte(name)); err != nil {
		return "", err
	}
	if err := o.FS.Rename(request+".tmp", request); err != nil {
		return "", err
	}
	done := path.Join(dir, name)
	for until := o.Clock.Now().Add(o.Wait); ; {
		if _, err := o.FS.Stat(done); err == nil {
			return done, nil
		}
		if b, err := readFile(o.FS, done+broker.BackupFailed); err != nil || b != nil {
			return "", errors.Join(fmt.Errorf("%s: the process that has the log open could not make a stage: %s", o.Dir, b), err, o.FS.Remove(done+broker.BackupFailed))
		}
		if _, err := o.FS.Stat(request); err == nil && o.Clock.Now().After(until) {
			return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "no-answer", Place: o.Dir, Cause: "the process that has the log open does not take the request for a backup",
				Err: o.FS.Remove(request), Fix: "run this as the same user, on the same machine, with the same version"}
		}
		t := o.Clock.NewTimer(stageLook)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return "", errors.Join(ctx.Err(), o.FS.RemoveAll(request))
		}
	}
}

// stageLook is how often a stage is looked for.
const stageLook = 50 * time.Millisecond

// ours reports whether a file or directory at the top of a data directory belongs into a backup.
func ours(name string) bool {
	return slices.Contains([]string{fileIdentity, fileCheckpoint, dirWAL, dirPartitions}, name)
}

// copyAll copies what belongs into a backup, and notes it in the manifest.
func (o BackupOptions) copyAll(ctx context.Context, from string, m *Manifest) error {
	d := directory{fs: o.FS, dir: from}
	total, done := int64(0), int64(0)
	for _, top := range []string{dirWAL, dirPartitions} {
		total += d.bytes(path.Join(from, top))
	}
	step := func(n int64) error {
		if done += n; o.Progress != nil {
			o.Progress(done, total)
		}
		return ctx.Err()
	}
	if err := o.FS.MkdirAll(o.To); err != nil {
		return err
	}
	infos, err := o.FS.List(from)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if !ours(i.Name) {
			continue
		}
		if err := copyTree(o.FS, from, o.To, i, "", m, step); err != nil {
			return err
		}
	}
	slices.SortFunc(m.Files, func(a, b ManifestFile) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range m.Files {
		m.Bytes += f.Bytes
	}
	return o.FS.SyncDir(o.To)
}

// copyTree copies a file or directory that stands at below in from.
func copyTree(fsys vfs.FS, from, to string, i vfs.Info, below string, m *Manifest, step func(int64) error) error {
	name := path.Join(below, i.Name)
	if !i.Dir {
		if strings.HasPrefix(i.Name, "spare-") {
			return nil // means nothing
		}
		f, err := copySum(fsys, path.Join(from, name), path.Join(to, name), i.Size, step)
		f.Name = name
		m.Files = append(m.Files, f)
		return err
	}
	if err := fsys.MkdirAll(path.Join(to, name)); err != nil {
		return err
	}
	infos, err := fsys.List(path.Join(from, name))
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := copyTree(fsys, from, to, i, name, m, step); err != nil {
			return err
		}
	}
	return fsys.SyncDir(path.Join(to, name))
}

// copySum copies the first size bytes of a file durably, and returns their sum. The file may grow meanwhile.
func copySum(fsys vfs.FS, from, to string, size int64, step func(int64) error) (f ManifestFile, err error) {
	in, err := fsys.Open(from)
	if err != nil {
		return f, err
	}
	defer in.Close()
	out, err := fsys.Create(to)
	if err != nil {
		return f, err
	}
	h := sha256.New()
	err = readThrough(in, size, h, func(b []byte, at int64) error {
		if _, err := out.WriteAt(b, at); err != nil {
			return err
		}
		return step(int64(len(b)))
	})
	if err == nil {
		err = out.Sync()
	}
	return ManifestFile{Bytes: size, SHA256: hex.EncodeToString(h.Sum(nil))}, errors.Join(err, out.Close())
}

// readThrough reads the first size bytes of a file, and sums them.
func readThrough(in vfs.File, size int64, h hash.Hash, fn func(b []byte, at int64) error) error {
	buf := make([]byte, min(size, copyStepBytes))
	for at := int64(0); at < size; {
		n, err := in.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if n == 0 {
			return fmt.Errorf("%s at byte %d of %d: %w", in.Name(), at, size, errors.Join(err, io.ErrUnexpectedEOF))
		}
		h.Write(buf[:n])
		if err := fn(buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
