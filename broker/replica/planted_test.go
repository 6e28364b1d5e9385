//go:build failpoints

package replica_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCrash_plantedBugIsCaught: a log that answers before it syncs must not pass TestCrash_property.
func TestCrash_plantedBugIsCaught(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.short", "-test.run=^TestCrash_property$")
	cmd.Env = append(os.Environ(), "OUTRELAY_FAILPOINTS=bug.wal-not-synced=on")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "was acknowledged at offset") {
		t.Fatalf("the planted bug was not caught: %v\n%s", err, out)
	}
}
