package offline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/outrelay/outrelay"
)

// RestoreOptions configures Restore. Dir is the data directory to make.
type RestoreOptions struct {
	Options
	From string // the backup
}

// Restore makes a data directory from a backup. It first checks every file against the manifest and refuses a backup of which one is missing, another's or changed, or
// that has no manifest. Dir must not exist, or be empty; it appears whole or not at all. Errors: outrelay.ErrEnvironment (no backup, Dir is in use),
// outrelay.ErrDataHalt (a checksum does not match: nothing was restored), ctx's, the disk's.
func Restore(ctx context.Context, o RestoreOptions) (*Manifest, error) {
	if err := free(o.FS, o.Dir); err != nil {
		return nil, err
	}
	m, err := readManifest(o)
	if err != nil {
		return nil, err
	}
	tmp := strings.TrimRight(o.Dir, "/") + ".restoring"
	if err := o.FS.RemoveAll(tmp); err != nil { // of a restore that was cut short
		return nil, err
	}
	if err := o.copyAll(ctx, tmp, m); err != nil {
		return nil, errors.Join(err, o.FS.RemoveAll(tmp))
	}
	r, err := Verify(ctx, Options{FS: o.FS, Dir: tmp})
	if err == nil && !r.Clean {
		err = fmt.Errorf("%s: %s: %w", o.From, r.Damages[0].Text, outrelay.ErrDataHalt)
	}
	if err != nil {
		return nil, errors.Join(err, o.FS.RemoveAll(tmp))
	}
	if err := o.FS.RemoveAll(o.Dir); err != nil { // empty
		return nil, err
	}
	if err := o.FS.Rename(tmp, o.Dir); err != nil {
		return nil, err
	}
	return m, o.FS.SyncDir(path.Dir(path.Clean(o.Dir)))
}

func readManifest(o RestoreOptions) (*Manifest, error) {
	name := path.Join(o.From, fileManifest)
	b, err := readFile(o.FS, name)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "no-backup", Place: o.From, Cause: "no " + fileManifest + ": no backup, or one that did not come to its end",
			Fix: "name a directory that `outrelay log backup` has made"}
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, outrelay.ErrDataHalt)
	}
	if m.Version != manifestVersion {
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "backup-version", Place: name, Cause: fmt.Sprintf("version %d, this program reads %d", m.Version, manifestVersion),
			Fix: "run the version that wrote it, or a newer one"}
	}
	if sum, err := m.sum(); err != nil || sum != m.Checksum {
		return nil, fmt.Errorf("%s: its list of files has changed: %w", name, errors.Join(err, outrelay.ErrDataHalt))
	}
	return &m, nil
}

// copyAll copies every file of the manifest, comparing it with what the manifest says.
func (o RestoreOptions) copyAll(ctx context.Context, to string, m *Manifest) error {
	if err := o.FS.MkdirAll(to); err != nil {
		return err
	}
	done := int64(0)
	made := map[string]bool{}
	for _, f := range m.Files {
		if f.Name != path.Clean(f.Name) || path.IsAbs(f.Name) || strings.HasPrefix(f.Name, "..") || !ours(strings.Split(f.Name, "/")[0]) {
			return fmt.Errorf("%s: file name %q: %w", o.From, f.Name, outrelay.ErrDataHalt)
		}
		dir := path.Dir(path.Join(to, f.Name))
		if !made[dir] {
			if err := o.FS.MkdirAll(dir); err != nil {
				return err
			}
			made[dir] = true
		}
		if err := o.copyOne(ctx, path.Join(to, f.Name), f, &done, m.Bytes); err != nil {
			return err
		}
	}
	for dir := range made {
		if err := o.FS.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (o RestoreOptions) copyOne(ctx context.Context, to string, f ManifestFile, done *int64, total int64) error {
	from := path.Join(o.From, f.Name)
	info, err := o.FS.Stat(from)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", from, err, outrelay.ErrDataHalt)
	}
	if info.Size != f.Bytes {
		return fmt.Errorf("%s: %d bytes, the manifest says %d: %w", from, info.Size, f.Bytes, outrelay.ErrDataHalt)
	}
	got, err := copySum(o.FS, from, to, f.Bytes, func(n int64) error {
		if *done += n; o.Progress != nil {
			o.Progress(*done, total)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if got.SHA256 != f.SHA256 {
		return fmt.Errorf("%s: SHA-256 is %s, the manifest says %s: %w", from, got.SHA256, f.SHA256, outrelay.ErrDataHalt)
	}
	return nil
}

// CheckBackup reads every file of a backup and compares it with the manifest.
func CheckBackup(ctx context.Context, o RestoreOptions) (*Manifest, error) {
	m, err := readManifest(o)
	if err != nil {
		return nil, err
	}
	done := int64(0)
	for _, f := range m.Files {
		if err := o.checkOne(ctx, f, &done, m.Bytes); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (o RestoreOptions) checkOne(ctx context.Context, f ManifestFile, done *int64, total int64) error {
	name := path.Join(o.From, f.Name)
	in, err := o.FS.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, outrelay.ErrDataHalt)
	}
	defer in.Close()
	h := sha256.New()
	err = readThrough(in, f.Bytes, h, func(b []byte, _ int64) error {
		if *done += int64(len(b)); o.Progress != nil {
			o.Progress(*done, total)
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, outrelay.ErrDataHalt)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != f.SHA256 {
		return fmt.Errorf("%s: SHA-256 is %s, the manifest says %s: %w", name, sum, f.SHA256, outrelay.ErrDataHalt)
	}
	return nil
}
