package replica

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/outrelay/outrelay/internal/vfs"
)

// identity is node.json: whose data directory this is. It is written once.
type identity struct {
	Version     int    `json:"version"`
	NodeID      int32  `json:"node_id"`
	Incarnation string `json:"incarnation"` // 32 hex digits, random: a wiped directory gets another one
	Created     string `json:"created"`

	incarnation [16]byte
}

const identityVersion = 1

const (
	fileIdentity   = "node.json"
	fileCheckpoint = "checkpoint"
	fileLock       = "lock"
	dirWAL         = "wal"
)

// openIdentity reads the directory's identity. A directory without one is new when it holds no checkpoint either: then the identity is
// made, and the first, empty checkpoint before it, so that from here on a missing checkpoint is an error and never an empty node.
func openIdentity(f vfs.FS, dir string, nodeID int32, now time.Time) (identity, error) {
	name := path.Join(dir, fileIdentity)
	b, err := readFile(f, name)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(f, dir, nodeID, now)
	}
	if err != nil {
		return identity{}, err
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%s: %w: %w", name, ErrCorrupt, err)
	}
	if id.Version > identityVersion {
		return id, fmt.Errorf("%s: version %d, this program reads up to %d: %w", name, id.Version, identityVersion, ErrVersion)
	}
	raw, err := hex.DecodeString(id.Incarnation)
	if err != nil || len(raw) != len(id.incarnation) {
		return id, fmt.Errorf("%s: incarnation %q: %w", name, id.Incarnation, ErrCorrupt)
	}
	copy(id.incarnation[:], raw)
	if id.NodeID != nodeID {
		return id, fmt.Errorf("%s: directory of node %d, this is node %d: %w", name, id.NodeID, nodeID, ErrIdentity)
	}
	return id, nil
}

func newIdentity(f vfs.FS, dir string, nodeID int32, now time.Time) (identity, error) {
	id := identity{Version: identityVersion, NodeID: nodeID, Created: now.UTC().Format(time.RFC3339)}
	if _, err := rand.Read(id.incarnation[:]); err != nil {
		return id, err
	}
	id.Incarnation = hex.EncodeToString(id.incarnation[:])
	// A crash between the two leaves a checkpoint without an identity: made anew, for nothing can have been acknowledged. One that names
	// groups is another matter.
	old, err := loadCheckpoint(f, dir)
	if err == nil && len(old.groups) > 0 {
		return id, fmt.Errorf("%s: missing beside a checkpoint of %d groups: %w", path.Join(dir, fileIdentity), len(old.groups), ErrCorrupt)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	ck := checkpoint{nodeID: nodeID, incarnation: id.incarnation, createdMs: now.UnixMilli()}
	if err := ck.write(f, dir); err != nil {
		return id, err
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return id, err
	}
	return id, writeFile(f, dir, fileIdentity, append(b, '\n'), nil)
}

// readFile reads a whole file.
func readFile(f vfs.FS, name string) ([]byte, error) {
	h, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	size, err := h.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := h.ReadAt(b, 0); int64(n) < size {
		return nil, fmt.Errorf("%s: read %d of %d bytes: %w", name, n, size, err)
	}
	return b, nil
}

// writeFile replaces dir/name by b, durably and in one piece: written beside, synced, renamed, the directory synced.
func writeFile(f vfs.FS, dir, name string, b []byte, beforeRename func()) error {
	tmp := path.Join(dir, name+".tmp")
	h, err := f.Create(tmp)
	if err != nil {
		return err
	}
	_, err = h.WriteAt(b, 0)
	if err == nil {
		err = h.Sync()
	}
	if cerr := h.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tmp, err)
	}
	if beforeRename != nil {
		beforeRename()
	}
	if err := f.Rename(tmp, path.Join(dir, name)); err != nil {
		return err
	}
	return f.SyncDir(dir)
}
