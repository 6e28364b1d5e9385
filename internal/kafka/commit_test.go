package kafka_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
)

// A transaction whose topics the client did not know is committed, not aborted without a word, however quickly the log answers. It happens about once in a
// thousand, on a machine that is busy: the long form keeps it so.
func TestCommit_ofTopicsThatAreNew(t *testing.T) {
	t.Parallel()
	rounds := 20
	if os.Getenv("OUTRELAY_SOAK") != "" {
		rounds = 1000
		for range runtime.GOMAXPROCS(0) {
			go func() {
				for t.Context().Err() == nil {
				}
			}()
		}
	}
	c, admin := newLog(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if _, err := kadm.NewClient(admin).CreateTopic(ctx, 4, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	if err := admin.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("first")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		cl := newClient(t, c, kgo.TransactionalID(fmt.Sprint("x", i)))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		r := &kgo.Record{Topic: "t", Value: fmt.Append(nil, i)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := kafka.Commit(ctx, cl); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	}
	reader := newClient(t, c, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err := admin.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("last")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for len(seen) < rounds+2 {
		poll, stop := context.WithTimeout(ctx, 10*time.Second)
		fs := reader.PollFetches(poll)
		stop()
		if fs.NumRecords() == 0 {
			t.Fatalf("%d of %d transactions are committed", max(0, len(seen)-2), rounds)
		}
		for r := range fs.RecordsAll() {
			seen[string(r.Value)] = true
		}
	}
}
