package segment_test

import (
	"os"
	"strconv"
	"testing"
)

// TestLog_agreesWithModel runs random operations with crashes at syncs and between them. OUTRELAY_SEED=n repeats one run.
func TestLog_agreesWithModel(t *testing.T) {
	t.Parallel()
	from, to := uint64(0), uint64(150)
	if testing.Short() {
		to = 20
	}
	if s := os.Getenv("OUTRELAY_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		from, to = n, n+1
	}
	crashes := 0
	for seed := from; seed < to; seed++ {
		if err := newModel(seed).run(250, &crashes); err != nil {
			t.Fatalf("%v\nrepeat: OUTRELAY_SEED=%d go test ./broker/segment -run agreesWithModel", err, seed)
		}
	}
	t.Logf("%d crashes", crashes)
}
