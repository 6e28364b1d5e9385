package sqlsink

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
)

// Connects returns the counter of connections that sinks of a kind of database make; sinks that share a registerer share it. nil registers nothing.
func Connects(kind string, r prometheus.Registerer) (prometheus.Counter, error) {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_sink_" + kind + "_connects_total", Help: "Connections made to sink databases. Many of them: the server or the network cuts them."})
	if r == nil {
		return c, nil
	}
	err := r.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if old, ok := already.ExistingCollector.(prometheus.Counter); ok {
			return old, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sink %s: metrics: %w: %w", kind, outrelay.ErrConfig, err)
	}
	return c, nil
}
