// Package relay_test runs the relay against our own broker, in memory, with power cuts.
package relay_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/relay/relaytest"
)

func TestRelay_OverTheInMemoryDialer(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	b := relaytest.New(t, kafka.Options{Seeds: []string{n.InternalAddr()}, Dialer: n.Dialer()})
	b.CheckConfirms()
	b.Start()
	for i := range 100 {
		b.DB.Commit([]relaytest.Row{relaytest.Order(fmt.Sprint(i, "a"), "1"), relaytest.Order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
	}
	b.Wait("all is in", b.Drained)
	b.CheckExactlyOnce()
}

func TestRelay_ExactlyOnceWhenThePowerIsCut(t *testing.T) {
	t.Parallel()
	relaytest.ExactlyOnce(t, func(t testing.TB) relaytest.Log {
		n := brokertest.New(t)
		return relaytest.Log{Kafka: kafka.Options{Seeds: []string{n.TCPAddr()}}, Break: n.CrashRestart, Close: func() {}}
	})
}

func TestManager_SeatAndTransactionsOnOurBroker(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	b := relaytest.New(t, kafka.Options{Seeds: []string{n.TCPAddr()}})
	run := func() (*relay.Manager, func()) {
		m, err := relay.NewManager(relay.ManagerOptions{Kafka: b.Options.Kafka, InstanceID: "one", Sources: []relay.Options{b.Options}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		return m, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	for i := range 5 {
		began := time.Now()
		m, stop := run()
		b.DB.Commit([]relaytest.Row{relaytest.Order(fmt.Sprint(i), "k")})
		b.Wait("it is in", b.Drained)
		b.Wait("ready", func() bool { return m.Ready() == nil })
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("round %d: back after %v", i, d)
		}
		stop()
	}
	b.CheckExactlyOnce()
}

// BenchmarkRelay drains transactions of 100 rows of 1 KB into our broker on disk.
func BenchmarkRelay(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprint(rows, " rows a transaction"), func(b *testing.B) {
			n := brokertest.New(b, brokertest.OnDisk(b))
			bench := relaytest.New(b, kafka.Options{Seeds: []string{n.InternalAddr()}, Dialer: n.Dialer()})
			bench.Options.Partitions = 16
			payload := `{"x":"` + strings.Repeat("x", 990) + `"}`
			var txns [][]relaytest.Row
			for i := 0; i < b.N; i += rows {
				var txn []relaytest.Row
				for j := range rows {
					txn = append(txn, relaytest.Row{ID: fmt.Sprint(i + j), Topic: "order", Key: fmt.Sprint((i + j) % 1000), Type: "T", Payload: payload})
				}
				txns = append(txns, txn)
			}
			bench.DB.Commit(txns...)
			b.SetBytes(1000)
			b.ResetTimer()
			bench.Start()
			bench.Wait("all is in", bench.Drained)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			if os.Getenv("RELAY_BENCH_CHECK") != "" {
				bench.CheckExactlyOnce()
			}
		})
	}
}
