package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/vfs"
)

// identity is what makes this process the same one after a restart: an instance id kept in the data directory, under a lock, so that
// two processes never sit in one seat of a group.
type identity struct {
	instance string
	lock     io.Closer
}

func openIdentity(dir, configured string) (*identity, error) {
	fsys := vfs.OS{}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "data-dir", Place: dir, Cause: "data directory", Err: err,
			Fix: "name one that this user may write, with data: or --data"}
	}
	lock, err := fsys.Lock(filepath.Join(dir, "instance.lock"))
	if err != nil {
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "data-dir-locked", Place: dir, Cause: "another outrelay uses this data directory", Err: err,
			Fix: "stop it, or name another directory with data: or --data"}
	}
	id := &identity{instance: configured, lock: lock}
	if configured == "" {
		if id.instance, err = instanceID(fsys, filepath.Join(dir, "instance")); err != nil {
			id.close()
			return nil, err
		}
	}
	return id, nil
}

func (i *identity) close() { _ = i.lock.Close() } // the process ends: the lock goes with it

func instanceID(fsys vfs.FS, name string) (string, error) {
	id, err := readSmall(fsys, name)
	if err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("instance id: %w", err)
	}
	id = uuid.NewString()
	f, err := fsys.Create(name + ".new")
	if err != nil {
		return "", fmt.Errorf("instance id: %w", err)
	}
	_, err = f.WriteAt([]byte(id), 0)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = errors.Join(fsys.Rename(name+".new", name), fsys.SyncDir(filepath.Dir(name)))
	}
	if err != nil {
		return "", fmt.Errorf("instance id: %w", err)
	}
	return id, nil
}

func readSmall(fsys vfs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 128)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(b[:n]), nil
}
