package testenv

import (
	"os/exec"
	"runtime"
)

// process is one run of a server.
type process struct {
	pid  int
	done chan struct{} // closed when the server has ended
	err  error         // valid once done is closed
}

// startProcess starts cmd, whose SysProcAttr may ask for a signal when this process dies.
func startProcess(cmd *exec.Cmd) (*process, error) {
	proc := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so that thread stays until the server has ended.
		// It must not end with this goroutine either: it may have forked somebody else's child before, who would get that one's signal.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			proc.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			proc.err = cmd.Wait()
			close(proc.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return proc, nil
}
