package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// Preview fills ID, Topic, Key, Value and Headers of t's events as the relay of these options would, without a log: topics are not looked
// up. It returns the error of the first row that cannot be routed. Source is needed of the options, From and Kafka are not.
func Preview(o Options, t *outrelay.Txn) error {
	o = o.settings()
	r, err := newRouter(o, nil)
	if err != nil {
		return err
	}
	g := &gather{}
	r.begin(t)
	for i := range t.Events {
		ev := &t.Events[i]
		if err := r.route(context.Background(), g, ev); err != nil {
			var bad *unroutable
			if errors.As(err, &bad) {
				return bad.halt(o.Source, t, ev, r.table(ev.Schema.Table))
			}
			return fmt.Errorf("row %d: %w", ev.Ordinal, err)
		}
		rec := &g.recs[len(g.recs)-1]
		ev.Topic, ev.Key, ev.Value, ev.Headers = rec.Topic, rec.Key, rec.Value, nil
		for _, h := range rec.Headers {
			ev.Headers = append(ev.Headers, outrelay.Header{Key: h.Key, Value: h.Value})
			if h.Key == kafka.HeaderID && ev.ID == "" || h.Key == kafka.HeaderEventID {
				ev.ID = outrelay.EventID(h.Value)
			}
		}
	}
	return nil
}
