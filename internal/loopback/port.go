// Package loopback finds free ports on 127.0.0.1 for servers that are stopped and started again on the same one. It never keeps a port: whoever asks
// listens on it himself, soon.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// FreePort returns a port of 127.0.0.1 on which nobody listens now. It lies below the range from which Linux takes the ports of outgoing
// connections (32768 to 60999, ip(7) ip_local_port_range): a port of that range may be some connection's own by the time that a stopped
// server starts again.
func FreePort() (int, error) {
	var last error
	for range 100 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", Addr(port))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port: %w", last)
}

// Addr returns the address of a port of 127.0.0.1.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
