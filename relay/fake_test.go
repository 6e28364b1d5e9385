package relay_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay/relaytest"
)

// bench is a relaytest.Bench on franz-go's fake broker.
type bench struct {
	*relaytest.Bench
	log *kfake.Cluster
}

func newFake(t testing.TB) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newBench(t *testing.T) *bench {
	t.Helper()
	c := newFake(t)
	return &bench{Bench: relaytest.New(t, kafka.Options{Seeds: c.ListenAddrs()}), log: c}
}

type row = relaytest.Row

func order(id, key string) row { return relaytest.Order(id, key) }

func TestRelay_ExactlyOnceWhateverBreaks(t *testing.T) {
	t.Parallel()
	relaytest.ExactlyOnce(t, func(t testing.TB) relaytest.Log {
		c := newFake(t)
		return relaytest.Log{Kafka: kafka.Options{Seeds: c.ListenAddrs()}, Close: c.Close}
	})
}
