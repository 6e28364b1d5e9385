//go:build !failpoints

package failpoint

// Enabled is false: this binary was built without failpoints.
const Enabled = false

// Hit does nothing in a binary built without the failpoints tag.
func Hit(string) {}

// Bug reports whether a planted bug is switched on; never in a binary built without the failpoints tag.
func Bug(string) bool { return false }
