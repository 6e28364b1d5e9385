// Package invariant checks what must hold whatever happens. It never handles bad input: that is an error, not a bug.
package invariant

import "fmt"

// Check panics with "BUG:" and the formatted text when ok is false. The text names the invariant as docs/invariants.md does:
// invariant.Check(next == last+1, "L2: offset %d after %d", next, last).
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("BUG: " + fmt.Sprintf(format, args...))
	}
}
