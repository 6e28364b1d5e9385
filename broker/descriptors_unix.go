//go:build unix

package broker

import "syscall"

// filesMax returns how many files this process may have open; 0 where there is no limit, or none that can be found out.
func filesMax() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return uint64(l.Cur)
}
