package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a file system in memory that knows, for each byte and each name, whether a sync has made it durable. [Mem.CrashClone] is the
// power cut, [Mem.Fail] and [Mem.Limit] are the bad disk. All methods may be called concurrently. Relative and absolute names
// are the same: there is one root, and no current directory.
type Mem struct {
	mu     sync.RWMutex // guards all below, and every node; taken by no one else
	root   *node
	ticks  int64 // a clock of its own, so that a seed repeats a run: one tick per change
	onSync func()
	faults []*fault
	limit  int64 // bytes all files together may have; 0 is no limit
	locks  map[string]int
}

var _ FS = (*Mem)(nil)

// node is a file or a directory. Names point to nodes, so an open file outlives its name.
type node struct {
	dir bool
	mod time.Time

	// Of a directory.
	entries map[string]*node // what List sees
	durable map[string]*node // what is there after a crash that keeps nothing
	ops     []*dirOp         // what happened between the two, in order

	// Of a file.
	data   []byte  // what ReadAt sees
	disk   []byte  // what is there after a crash that keeps nothing
	writes []write // what happened between the two, in order
	lost   []write // of syncs that failed: a crash may keep them, no later sync does
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{root: newDir(), locks: map[string]int{}}
}

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, durable: map[string]*node{}}
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// split returns the elements of a name; none for the root.
func split(name string) []string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// walk finds a node; nil when there is none.
func (m *Mem) walk(elems []string) *node {
	n := m.root
	for _, e := range elems {
		if n = n.entries[e]; n == nil {
			return nil
		}
	}
	return n
}

// parent finds the directory that holds, or would hold, name, and name's last element.
func (m *Mem) parent(op, name string) (*node, string, error) {
	elems := split(name)
	if len(elems) == 0 {
		return nil, "", pathError(op, name, syscall.EINVAL)
	}
	d := m.walk(elems[:len(elems)-1])
	if d == nil {
		return nil, "", pathError(op, name, fs.ErrNotExist)
	}
	if !d.dir {
		return nil, "", pathError(op, name, syscall.ENOTDIR)
	}
	return d, elems[len(elems)-1], nil
}

func (m *Mem) now() time.Time {
	m.ticks++
	return time.Unix(m.ticks, 0).UTC()
}

// Open opens a file for reading.
func (m *Mem) Open(name string) (File, error) { return m.open(name, false) }

// OpenRW opens a file that must exist for reading and writing.
func (m *Mem) OpenRW(name string) (File, error) { return m.open(name, true) }

func (m *Mem) open(name string, rw bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpOpen); err != nil {
		return nil, pathError("open", name, err)
	}
	n := m.walk(split(name))
	if n == nil {
		return nil, pathError("open", name, fs.ErrNotExist)
	}
	if n.dir {
		return nil, pathError("open", name, syscall.EISDIR)
	}
	return &memFile{m: m, n: n, name: name, rw: rw}, nil
}

// Create makes an empty file, or empties the one there: then the name stays, and the old bytes come back in a crash.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpCreate); err != nil {
		return nil, pathError("create", name, err)
	}
	n, err := m.create(name)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n, name: name, rw: true}, nil
}

func (m *Mem) create(name string) (*node, error) {
	d, base, err := m.parent("create", name)
	if err != nil {
		return nil, err
	}
	n := d.entries[base]
	switch {
	case n == nil:
		n = &node{mod: m.now()}
		d.link(base, n)
	case n.dir:
		return nil, pathError("create", name, syscall.EISDIR)
	default:
		n.mod = m.now()
		n.apply(write{truncate: true})
	}
	return n, nil
}

// Rename gives a file or directory another name.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpRename); err != nil {
		return pathError("rename", from, err)
	}
	fd, fbase, err := m.parent("rename", from)
	if err != nil {
		return err
	}
	td, tbase, err := m.parent("rename", to)
	if err != nil {
		return err
	}
	n := fd.entries[fbase]
	if n == nil {
		return pathError("rename", from, fs.ErrNotExist)
	}
	if old := td.entries[tbase]; old != nil && (old.dir != n.dir || len(old.entries) > 0) {
		return pathError("rename", to, fs.ErrExist)
	}
	fd.rename(fbase, td, tbase)
	return nil
}

// Link gives a file a second name.
func (m *Mem) Link(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpCreate); err != nil {
		return pathError("link", to, err)
	}
	n := m.walk(split(from))
	if n == nil {
		return pathError("link", from, fs.ErrNotExist)
	}
	d, base, err := m.parent("link", to)
	if err != nil {
		return err
	}
	switch {
	case n.dir:
		return pathError("link", from, syscall.EPERM)
	case d.entries[base] != nil:
		return pathError("link", to, fs.ErrExist)
	}
	d.link(base, n)
	return nil
}

// Remove removes a file or an empty directory.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpRemove); err != nil {
		return pathError("remove", name, err)
	}
	d, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n := d.entries[base]
	if n == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if len(n.entries) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	d.unlink(base)
	return nil
}

// RemoveAll removes name and all below it.
func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpRemove); err != nil {
		return pathError("remove", name, err)
	}
	if m.walk(split(name)) == nil {
		return nil
	}
	d, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	d.entries[base].removeAll()
	d.unlink(base)
	return nil
}

// removeAll empties a directory name by name, as a real file system does: a crash may keep any of them.
func (n *node) removeAll() {
	for _, name := range sortedNames(n.entries) {
		n.entries[name].removeAll()
		n.unlink(name)
	}
}

// MkdirAll makes a directory and those above it, durably.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpMkdir); err != nil {
		return pathError("mkdir", dir, err)
	}
	n := m.root
	for _, e := range split(dir) {
		next := n.entries[e]
		if next == nil {
			next = newDir()
			next.mod = m.now()
			n.entries[e], n.durable[e] = next, next
		}
		if !next.dir {
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// Mkdir makes one directory.
func (m *Mem) Mkdir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpMkdir); err != nil {
		return pathError("mkdir", dir, err)
	}
	d, base, err := m.parent("mkdir", dir)
	if err != nil {
		return err
	}
	switch n := d.entries[base]; {
	case n == nil:
		n = newDir()
		n.mod = m.now()
		d.link(base, n)
	case !n.dir:
		return pathError("mkdir", dir, syscall.ENOTDIR)
	}
	return nil
}

// List returns what a directory holds, sorted by name.
func (m *Mem) List(dir string) ([]Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpList); err != nil {
		return nil, pathError("list", dir, err)
	}
	d := m.walk(split(dir))
	if d == nil {
		return nil, pathError("list", dir, fs.ErrNotExist)
	}
	if !d.dir {
		return nil, pathError("list", dir, syscall.ENOTDIR)
	}
	infos := make([]Info, 0, len(d.entries))
	for _, name := range sortedNames(d.entries) {
		infos = append(infos, d.entries[name].info(name))
	}
	return infos, nil
}

// Stat describes a file or directory.
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.walk(split(name))
	if n == nil {
		return Info{}, pathError("stat", name, fs.ErrNotExist)
	}
	return n.info(path.Base(path.Clean("/" + name))), nil
}

func (n *node) info(name string) Info {
	perm := fs.FileMode(0o600)
	if n.dir {
		perm = 0o700
	}
	return Info{Name: name, Size: int64(len(n.data)), Dir: n.dir, ModTime: n.mod, Perm: perm, Owner: os.Geteuid()}
}

// SyncDir makes the names in a directory durable.
func (m *Mem) SyncDir(dir string) error {
	m.callOnSync()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.hit(OpSyncDir); err != nil {
		return pathError("syncdir", dir, err)
	}
	d := m.walk(split(dir))
	if d == nil {
		return pathError("syncdir", dir, fs.ErrNotExist)
	}
	d.syncNames()
	return nil
}

// Lock takes the named lock. It is this file system's alone: a crash clone starts without it.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := path.Clean("/" + name)
	if pid, ok := m.locks[key]; ok {
		return nil, fmt.Errorf("%s: %w (pid %d)", name, ErrLocked, pid)
	}
	n, err := m.create(name)
	if err != nil {
		return nil, err
	}
	n.apply(write{data: fmt.Appendf(nil, "%d\n", os.Getpid())})
	m.locks[key] = os.Getpid()
	return &memLock{m: m, key: key}, nil
}

type memLock struct {
	m    *Mem
	key  string
	once sync.Once
}

// Close gives the lock back. A second call does nothing.
func (l *memLock) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		delete(l.m.locks, l.key)
	})
	return nil
}

func sortedNames(entries map[string]*node) []string {
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
