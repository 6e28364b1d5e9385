//go:build failpoints

package failpoint

import (
	"os"
	"runtime"
	"syscall"
)

// stopHere stops the process before the caller goes on. A signal to the process may reach any thread, and this one would run on for a while; one
// to this thread acts before the call returns.
func stopHere() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP)) // cannot fail for ourselves
}
