//go:build !linux

package sqlsink

import (
	"syscall"
	"time"
)

// userTimeout does nothing where TCP_USER_TIMEOUT is not known; keepalives remain.
func userTimeout(time.Duration) func(network, addr string, c syscall.RawConn) error { return nil }
