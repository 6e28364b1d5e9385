package loopback_test

import (
	"net"
	"testing"

	"github.com/outrelay/outrelay/internal/loopback"
)

func TestFreePort(t *testing.T) {
	for range 20 {
		port, err := loopback.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if port >= 32768 {
			t.Errorf("port %d may be an outgoing connection's", port)
		}
		l, err := net.Listen("tcp", loopback.Addr(port))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
