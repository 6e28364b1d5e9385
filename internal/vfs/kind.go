package vfs

// Kind describes the file system that holds a directory, as far as it matters to a log.
type Kind struct {
	Name       string // "tmpfs", "nfs", "overlay", …; "" where it is none of those that are known for trouble
	Volatile   bool   // what is on it is gone after a restart of the machine
	Remote     bool   // over a network
	InodesFree uint64 // 0 with InodesAll 0: it has no fixed number
	InodesAll  uint64
}
