package invariant_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/invariant"
)

func TestCheck_PanicsWithBUG(t *testing.T) {
	t.Parallel()
	invariant.Check(true, "never seen")
	defer func() {
		r, _ := recover().(string)
		if !strings.HasPrefix(r, "BUG: L2: offset 7") {
			t.Fatalf("panic %q, want BUG: and the text", r)
		}
	}()
	invariant.Check(false, "L2: offset %d", 7)
}
