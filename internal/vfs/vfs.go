// Package vfs is the file system as a dependency: the only package that opens data files, so that a power cut is an ordinary
// unit test. It knows no format and never retries a failed sync.
//
// Three duties fall to the caller, since no file system does them by itself:
//
//   - Bytes written are durable only after [File.Sync].
//   - A name created, renamed or removed is durable only after [FS.SyncDir] of its directory. (MkdirAll is the exception.)
//   - After a failed Sync or SyncDir the file must be treated as lost: the kernel may have marked the pages clean, and a second
//     Sync that succeeds says nothing of them ("Can applications recover from fsync failures?", ATC 2020). The process exits.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// ErrLocked: another process holds the lock. The error's text names its pid.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. All methods may be called concurrently. Names are slash-separated paths; a name that
// does not exist gives an error that wraps fs.ErrNotExist.
type FS interface {
	// Open opens a file for reading. Writing to it fails.
	Open(name string) (File, error)
	// OpenRW opens a file that must exist for reading and writing.
	OpenRW(name string) (File, error)
	// Create makes an empty file with mode 0600, or empties the one there. The name is not durable until SyncDir.
	Create(name string) (File, error)
	// Rename gives a file another name, replacing what has that name. It is atomic, and not durable until SyncDir.
	Rename(from, to string) error
	// Link gives a file a second name, which must be free, on the same file system. Not durable until SyncDir of the second name's directory.
	Link(from, to string) error
	// Remove removes a file or an empty directory. Open files stay readable. Not durable until SyncDir.
	Remove(name string) error
	// RemoveAll removes name and all below it; it is no error when there is nothing. Not durable until SyncDir of the parent.
	RemoveAll(name string) error
	// MkdirAll makes a directory with mode 0700 and those above it, and syncs the parents of what it made: it is durable when it
	// returns.
	MkdirAll(dir string) error
	// Mkdir makes one directory with mode 0700; its parent must exist. It is no error when it is there. Not durable until SyncDir of the
	// parent: for who makes many at once.
	Mkdir(dir string) error
	// List returns what a directory holds, sorted by name; Info.Name is the last element alone.
	List(dir string) ([]Info, error)
	// Stat describes a file or directory; Info.Name is the last element of name.
	Stat(name string) (Info, error)
	// SyncDir makes the names in a directory durable: those created, renamed and removed there.
	SyncDir(dir string) error
	// Space says how many bytes the file system that holds dir has: free for this process, and in all. dir must exist. The error wraps
	// errors.ErrUnsupported where there is no bound.
	Space(dir string) (free, total int64, err error)
	// Lock takes an exclusive lock on the named file, which it creates where needed, and writes this process's id there. It does not wait: an
	// error that wraps ErrLocked names the holder. The lock ends with Close or with the process, however that ends; the file stays.
	Lock(name string) (io.Closer, error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently on ranges that do not overlap.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// WriteVAt writes the concatenation of bufs at off, as one WriteAt would, without a copy. The slice bufs itself is the callee's to change.
	WriteVAt(bufs [][]byte, off int64) (n int, err error)
	// Reserve takes room on the disk for the bytes below size, and leaves the file's own size alone: writes that extend the file then cost less. It
	// is a hint, which promises nothing and does nothing where it cannot; Truncate gives back what was not used.
	Reserve(size int64)
	// Sync makes the file's bytes and size durable (fdatasync). It blocks on the disk. Never call it again after it failed.
	Sync() error
	// Truncate changes the file's size; new bytes are zero. Not durable until Sync.
	Truncate(size int64) error
	// Allocate makes the file at least so large, and takes the room from the disk now: later writes below that size do not run out of it, where the
	// file system can promise that. New bytes are zero. Not durable until Sync.
	Allocate(size int64) error
	// Size returns the file's size in bytes.
	Size() (int64, error)
	// Name returns the name the file was opened with.
	Name() string
}

// Info describes a file or directory.
type Info struct {
	Name    string
	Size    int64
	Dir     bool
	ModTime time.Time
	Perm    fs.FileMode // who may read, write and enter it
	Owner   int         // user id
}
