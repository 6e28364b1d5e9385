//go:build !linux

package postgres

// lowWater does nothing here: the kernel wakes the reader for every packet.
func (*pacer) lowWater(int) {}
