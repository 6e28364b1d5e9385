package vfs

import "errors"

// Op names a kind of operation for [Mem.Fail].
type Op string

// The operations that can be made to fail.
const (
	OpOpen     Op = "open"   // also OpenRW
	OpCreate   Op = "create" // also Link
	OpRead     Op = "read"
	OpWrite    Op = "write" // writes the first half all the same
	OpTruncate Op = "truncate"
	OpSync     Op = "sync" // what it should have made durable is never made durable
	OpSyncDir  Op = "syncdir"
	OpRename   Op = "rename"
	OpRemove   Op = "remove" // also RemoveAll
	OpMkdir    Op = "mkdir"
	OpList     Op = "list"
)

type fault struct {
	op      Op
	left    int // operations still to pass before it fails
	forever bool
	err     error
}

// Fail makes the nth operation of a kind from now, counted from 1, return err; it happens once. Several may be pending. The errors that
// matter are syscall.EIO, syscall.ENOSPC, syscall.EDQUOT and syscall.EROFS.
func (m *Mem) Fail(op Op, nth int, err error) { m.addFault(op, nth, err, false) }

// FailFrom makes the nth operation of a kind from now and every later one return err, until ClearFaults.
func (m *Mem) FailFrom(op Op, nth int, err error) { m.addFault(op, nth, err, true) }

// ClearFaults forgets what Fail and FailFrom asked for and has not happened.
func (m *Mem) ClearFaults() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = nil
}

func (m *Mem) addFault(op Op, nth int, err error, forever bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, &fault{op: op, left: nth - 1, forever: forever, err: err})
}

// hit counts an operation and returns the error it has to fail with. m.mu is held.
func (m *Mem) hit(op Op) error {
	var err error
	kept := m.faults[:0]
	for _, f := range m.faults {
		if f.op == op {
			if f.left > 0 {
				f.left--
			} else {
				err = f.err
				if !f.forever {
					continue
				}
			}
		}
		kept = append(kept, f)
	}
	m.faults = kept
	return err
}

// Limit sets how many bytes all files together may have; a write beyond gives syscall.ENOSPC. 0 is no limit.
func (m *Mem) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = bytes
}

// full reports whether grow more bytes are too many. m.mu is held.
func (m *Mem) full(grow int64) bool {
	return m.limit > 0 && grow > 0 && m.root.bytes()+grow > m.limit
}

// Space returns what Limit leaves; without a limit there is no bound to tell.
func (m *Mem) Space(string) (free, total int64, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.limit == 0 {
		return 0, 0, errors.ErrUnsupported
	}
	return max(0, m.limit-m.root.bytes()), m.limit, nil
}

func (n *node) bytes() int64 {
	sum := int64(len(n.data))
	for _, e := range n.entries {
		sum += e.bytes()
	}
	return sum
}

// OnSync sets a function that is called at the start of each Sync and SyncDir, before anything has become durable: the moment at which a crash
// can leave the most different states. It may use m, also CrashClone; a sync inside it does not call it again
// only if fn sees to that.
func (m *Mem) OnSync(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onSync = fn
}

func (m *Mem) callOnSync() {
	m.mu.RLock()
	fn := m.onSync
	m.mu.RUnlock()
	if fn != nil {
		fn()
	}
}
