package relay_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/relay"
)

func TestRelay_MovesTransactionsAndConfirmsWhatIsInTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.db.onConfirm = func(p outrelay.Position) {
		in, ok, err := relay.ReadPosition(context.Background(), b.cl, "shop")
		if err != nil || !ok {
			t.Errorf("confirmed %s, log: %v %v", p.Token, ok, err)
			return
		}
		if placeOf(t, p).N > placeOf(t, in.Position).N {
			t.Errorf("confirmed %s, but the log says %s", p.Token, in.Position.Token)
		}
	}
	b.start()
	for i := range 50 {
		b.db.commit([]row{order(fmt.Sprint(i, "a"), "1"), order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
	}
	b.wait("the log holds everything", b.drained)
	b.wait("the source heard of it", func() bool { p, _ := b.db.lastConfirmed(); return p.Token == `{"n":50}` })
	b.checkExactlyOnce()
}
