package vfs

import (
	"errors"
	"io"
	"math/rand/v2"
)

// Op names a kind of operation for [Mem.Fail].
type Op string

// The operations that can be made to fail.
const (
	OpOpen     Op = "open"
	OpCreate   Op = "create"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpSyncDir  Op = "syncdir"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpMkdir    Op = "mkdir"
	OpList     Op = "list"
)

var errTODO = errors.New("not built yet")

// Mem is a file system in memory.
type Mem struct{}

var _ FS = (*Mem)(nil)

// NewMem returns an empty file system.
func NewMem() *Mem                                 { return &Mem{} }
func (m *Mem) CrashClone(rnd *rand.Rand) *Mem      { return m }
func (m *Mem) OnSync(fn func())                    {}
func (m *Mem) Fail(op Op, nth int, err error)      {}
func (m *Mem) Open(name string) (File, error)      { return nil, errTODO }
func (m *Mem) OpenRW(name string) (File, error)    { return nil, errTODO }
func (m *Mem) Create(name string) (File, error)    { return nil, errTODO }
func (m *Mem) Rename(from, to string) error        { return errTODO }
func (m *Mem) Remove(name string) error            { return errTODO }
func (m *Mem) RemoveAll(name string) error         { return errTODO }
func (m *Mem) MkdirAll(dir string) error           { return errTODO }
func (m *Mem) List(dir string) ([]Info, error)     { return nil, errTODO }
func (m *Mem) Stat(name string) (Info, error)      { return Info{}, errTODO }
func (m *Mem) SyncDir(dir string) error            { return errTODO }
func (m *Mem) Lock(name string) (io.Closer, error) { return nil, errTODO }
