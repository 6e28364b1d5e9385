package sqlsink

import (
	"net"
	"time"
)

// UnackedMax is how long sent bytes may stay unacknowledged before a connection counts as lost: the answer to a COMMIT
// must not be waited for during the kernel's quarter of an hour.
const UnackedMax = 15 * time.Second

// Dialer returns a dialer whose connections notice a peer that is gone.
func Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         userTimeout(UnackedMax),
	}
}
