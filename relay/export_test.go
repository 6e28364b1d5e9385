package relay

import (
	"context"

	"github.com/outrelay/outrelay"
)

// RouteForTest returns the router's inner loop, which Preview wraps, and what makes its memory available again.
func RouteForTest(source outrelay.SourceID) (route func(*outrelay.Event) error, reset func()) {
	r, err := newRouter(Options{Source: source}.settings(), nil)
	if err != nil {
		panic(err)
	}
	g := &gather{}
	r.begin(&outrelay.Txn{Place: "0/1"})
	return func(ev *outrelay.Event) error { return r.route(context.Background(), g, ev) }, g.reset
}
