//go:build !unix

package broker

// filesMax returns how many files this process may have open; 0 where there is no limit, or none that can be found out.
func filesMax() uint64 { return 0 }
