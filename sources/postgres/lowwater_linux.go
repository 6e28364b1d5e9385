package postgres

import "syscall"

// lowWater sets how many bytes must be there before the kernel wakes the reader. Where it cannot be set, only time is lost.
func (p *pacer) lowWater(n int) {
	if p.raw == nil {
		return
	}
	_ = p.raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	})
}
