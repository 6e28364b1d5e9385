package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// KindOf describes the file system that holds dir, which must exist.
func KindOf(dir string) (Kind, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Kind{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	k := Kind{InodesFree: st.Ffree, InodesAll: st.Files}
	switch uint32(st.Type) { //nolint:unconvert // its type differs by architecture
	case unix.TMPFS_MAGIC:
		k.Name, k.Volatile = "tmpfs", true
	case unix.RAMFS_MAGIC:
		k.Name, k.Volatile = "ramfs", true
	case unix.OVERLAYFS_SUPER_MAGIC:
		k.Name = "overlay"
	case unix.NFS_SUPER_MAGIC:
		k.Name, k.Remote = "nfs", true
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		k.Name, k.Remote = "smb", true
	case unix.FUSE_SUPER_MAGIC:
		k.Name, k.Remote = "fuse", true
	}
	return k, nil
}
