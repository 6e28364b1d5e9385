package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// A backup of a log in use is made in two steps. Another process, with the same rights to the data directory, leaves a request there (docs/format/backup.md); this
// server then makes a stage: the directory as of one moment, its segments as second names of the same files, which costs no room and no time. The other
// process copies the stage out and removes it. So nothing listens for it, and who may not read the files anyway cannot ask.
const (
	// BackupDir is the directory below the data directory that requests and stages live in.
	BackupDir = "backup"
	// BackupRequest is the file in it that asks for a stage: it holds the stage's name.
	BackupRequest = "request"
	// BackupFailed ends the name of a file that says why there is no stage.
	BackupFailed = ".failed"

	backupEvery   = time.Second // how often a request is looked for
	backupNameMax = 64
)

// watchBackups makes stages when asked, until the server closes. What an earlier process left is removed first.
func (s *Server) watchBackups() {
	dir := filepath.Join(s.opts.DataDir, BackupDir)
	if err := s.opts.FS.RemoveAll(dir); err != nil {
		s.log.Warn("leftovers of a backup stay", "dir", dir, "err", err)
	}
	for {
		t := s.clock.NewTimer(backupEvery)
		select {
		case <-t.C():
		case <-s.ctx.Done():
			t.Stop()
			return
		}
		name, err := s.backupAsked(dir)
		if err == nil && name != "" {
			err = s.serveBackup(dir, name)
		}
		if err != nil && s.ctx.Err() == nil {
			s.log.Error("backup", "name", name, "err", err)
		}
	}
}

// backupAsked takes a request, if there is one.
func (s *Server) backupAsked(dir string) (name string, err error) {
	f, err := s.opts.FS.Open(filepath.Join(dir, BackupRequest))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	b := make([]byte, backupNameMax+1)
	n, err := f.ReadAt(b, 0)
	f.Close()
	if err != nil && err != io.EOF {
		return "", err
	}
	if err := s.opts.FS.Remove(filepath.Join(dir, BackupRequest)); err != nil {
		return "", err
	}
	name = string(b[:n])
	if name == "" || n > backupNameMax || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", fmt.Errorf("request for a stage named %q", name)
	}
	return name, nil
}

// serveBackup makes the stage, or says why not.
func (s *Server) serveBackup(dir, name string) error {
	began := s.clock.Now()
	stage := filepath.Join(dir, name)
	err := s.stage(s.ctx, stage+".tmp")
	if err == nil {
		if err = s.opts.FS.Rename(stage+".tmp", stage); err == nil {
			s.log.Info("backup: stage made", "dir", stage, "took", s.clock.Now().Sub(began))
			return nil
		}
	}
	f, cerr := s.opts.FS.Create(stage + BackupFailed)
	if cerr == nil {
		_, cerr = f.WriteAt([]byte(err.Error()), 0)
		cerr = errors.Join(cerr, f.Close())
	}
	return errors.Join(err, cerr, s.opts.FS.RemoveAll(stage+".tmp"))
}

// stage makes a directory that holds all that was acknowledged before it was called. Topics are neither created nor deleted meanwhile, and no checkpoint is
// written; everything else goes on.
func (s *Server) stage(ctx context.Context, to string) error {
	s.topics.mu.Lock()
	defer s.topics.mu.Unlock()
	return s.node.Hold(ctx, func(parts []wal.FilePart) error {
		from, fsys := s.opts.DataDir, s.opts.FS
		if err := fsys.MkdirAll(to); err != nil {
			return err
		}
		for _, name := range []string{"node.json", "checkpoint"} {
			if err := copyPart(fsys, filepath.Join(from, name), filepath.Join(to, name), -1); err != nil {
				return err
			}
		}
		if err := fsys.MkdirAll(filepath.Join(to, "wal")); err != nil {
			return err
		}
		for _, p := range parts {
			if err := copyPart(fsys, p.Name, filepath.Join(to, "wal", filepath.Base(p.Name)), p.Bytes); err != nil {
				return err
			}
		}
		return linkTree(ctx, fsys, filepath.Join(from, "partitions"), filepath.Join(to, "partitions"))
	})
}

// linkTree makes a directory of second names for all files of another. Files that are not of a log's any more when their turn comes are left out.
func linkTree(ctx context.Context, fsys vfs.FS, from, to string) error {
	infos, err := fsys.List(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := fsys.MkdirAll(to); err != nil {
		return err
	}
	for _, i := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		a, b := filepath.Join(from, i.Name), filepath.Join(to, i.Name)
		switch {
		case i.Dir:
			err = linkTree(ctx, fsys, a, b)
		case strings.HasSuffix(i.Name, ".log"):
			err = fsys.Link(a, b)
		default:
			// An index is written in place, and small.
			if err = copyPart(fsys, a, b, -1); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyPart copies the first bytes of a file; a negative number means all.
func copyPart(fsys vfs.FS, from, to string, bytes int64) error {
	in, err := fsys.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if bytes < 0 {
		if bytes, err = in.Size(); err != nil {
			return err
		}
	}
	out, err := fsys.Create(to)
	if err != nil {
		return err
	}
	buf := make([]byte, min(bytes, 1<<20))
	for at := int64(0); at < bytes && err == nil; {
		n, rerr := in.ReadAt(buf[:min(int64(len(buf)), bytes-at)], at)
		if n == 0 {
			err = fmt.Errorf("%s at byte %d of %d: %w", from, at, bytes, errors.Join(rerr, io.ErrUnexpectedEOF))
			break
		}
		_, err = out.WriteAt(buf[:n], at)
		at += int64(n)
	}
	return errors.Join(err, out.Close())
}
