package relay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/relay/relaytest"
)

func TestRelay_MovesTransactionsAndConfirmsWhatIsInTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.CheckConfirms()
	r, stop := b.Start()
	for i := range 50 {
		b.DB.Commit([]row{order(fmt.Sprint(i, "a"), "1"), order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
	}
	b.Wait("the log holds everything", b.Drained)
	b.Wait("the source heard of it", func() bool { return b.DB.Confirmed().Token == `{"n":50}` })
	b.CheckExactlyOnce()
	st := r.Status()
	if st.State != relay.StateRunning || st.Events != 100 || st.Place != "0/32" || st.LagSeconds != 0 || st.OpenTxn != nil || st.Position.Token != `{"n":50}` {
		t.Errorf("status %+v", st)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRelay_ResumesFromTheLogAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for round := range 5 {
		_, stop := b.Start()
		for i := range 7 {
			b.DB.Commit([]row{order(fmt.Sprint(round, i), fmt.Sprint(i%3))})
		}
		b.Wait("the round is in", b.Drained)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	b.CheckExactlyOnce()
	p, ok, err := relay.ReadPosition(context.Background(), b.Client, kafka.PositionsTopic, "shop")
	if err != nil || !ok || p.Events != 35 {
		t.Errorf("position %+v %v %v", p, ok, err)
	}
}

func TestRelay_NewerRelayFencesTheOlder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	older, stopOlder := b.Start()
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	newer, _ := b.Start()
	b.Wait("the newer runs", func() bool { return newer.Status().State == relay.StateRunning })
	for i := 2; i < 20; i++ {
		b.DB.Commit([]row{order(fmt.Sprint(i), "k")})
	}
	b.Wait("all is in", b.Drained)
	b.Wait("the older knows", func() bool { return older.Status().State == relay.StateFenced })
	if err := stopOlder(); !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the older's Run: %v, want ErrFenced", err)
	}
	b.CheckExactlyOnce()
}

// TestRelay_AnyErrorOfTheLogBeginsAgainFromThePosition: each request fails once in a while, with an answer of the broker or by a lost
// answer, after which nobody knows what was done.
func TestRelay_AnyErrorOfTheLogBeginsAgainFromThePosition(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key  int16
		fail func(kmsg.Request) (kmsg.Response, error)
	}{
		"produce refused": {0, func(req kmsg.Request) (kmsg.Response, error) {
			r := req.(*kmsg.ProduceRequest)
			resp := r.ResponseKind().(*kmsg.ProduceResponse)
			for _, rt := range r.Topics {
				t := kmsg.NewProduceResponseTopic()
				t.Topic, t.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					p := kmsg.NewProduceResponseTopicPartition()
					p.Partition, p.ErrorCode = rp.Partition, kerr.OutOfOrderSequenceNumber.Code
					t.Partitions = append(t.Partitions, p)
				}
				resp.Topics = append(resp.Topics, t)
			}
			return resp, nil
		}},
		"produce connection lost": {0, func(kmsg.Request) (kmsg.Response, error) { return nil, errors.New("cut") }},
		"commit refused": {26, func(req kmsg.Request) (kmsg.Response, error) {
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.UnknownServerError.Code
			return resp, nil
		}},
		"commit connection lost": {26, func(kmsg.Request) (kmsg.Response, error) { return nil, errors.New("cut") }},
		"commit aborted by the log": {26, func(req kmsg.Request) (kmsg.Response, error) {
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.TransactionAbortable.Code
			return resp, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.CheckConfirms()
			b.Start()
			b.DB.Commit([]row{order("first", "k")})
			b.Wait("the first is in", b.Drained)
			n := 0
			b.log.ControlKey(c.key, func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.log.KeepControl()
				if n++; n%3 != 1 || n > 9 {
					return nil, nil, false
				}
				resp, err := c.fail(req)
				return resp, err, true
			})
			for i := range 10 {
				b.DB.Commit([]row{order(fmt.Sprint(i), "k"), order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
				b.Wait("all is in", b.Drained)
			}
			b.CheckExactlyOnce()
		})
	}
}

func TestRelay_SourceErrorsReopenIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := 0
	b.DB.FailWith(func() error {
		if n++; n%5 == 0 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	})
	r, _ := b.Start()
	for i := range 30 {
		b.DB.Commit([]row{order(fmt.Sprint(i), "k")})
	}
	b.Wait("all is in", b.Drained)
	b.CheckExactlyOnce()
	if r.Status().Reconnects == 0 {
		t.Error("no reconnect was counted")
	}
}

// TestRelay_WaitsForItsEnvironment: somebody mends a server that is a standby, a privilege, a network, without knowing of us.
func TestRelay_WaitsForItsEnvironment(t *testing.T) {
	t.Parallel()
	standby := &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "server-is-standby", Cause: "the server is a standby", Fix: "connect to the primary"}
	away := &outrelay.Error{Class: outrelay.ErrTransient, Code: "connection", Cause: "connection refused"}
	for _, c := range []struct {
		name  string
		err   error
		first bool // the very first start meets it, not a reconnect
	}{
		{"a standby at the first start", standby, true},
		{"nobody listens at the first start", away, true},
		{"a standby on reconnect", standby, false},
		{"nobody listens on reconnect", away, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			broken := func() error { return c.err }
			if c.first {
				b.DB.FailToConnectWith(broken)
			}
			r, _ := b.Start()
			if !c.first {
				b.DB.Commit([]row{order("0", "k")})
				b.Wait("it works", b.Drained)
				b.DB.FailToConnectWith(broken)
				b.DB.FailWith(broken)
				b.DB.Commit([]row{order("1", "k")})
			}
			b.Wait("it waits", func() bool { return r.Status().State == relay.StateWaiting })
			seen := r.Status().Reconnects
			b.Wait("it tries again and again", func() bool {
				st := r.Status()
				if st.State != relay.StateWaiting || !strings.Contains(st.Error, c.err.Error()) {
					t.Errorf("status %+v", st)
				}
				return st.Reconnects > seen+5
			})
			b.DB.FailWith(nil)
			b.DB.FailToConnectWith(nil)
			b.DB.Commit([]row{order("2", "k")})
			b.Wait("all is in", b.Drained)
			if st := r.Status(); st.State != relay.StateRunning || st.Error != "" {
				t.Errorf("status %+v", st)
			}
			b.CheckExactlyOnce()
		})
	}
}

func TestRelay_ABadConfigurationHaltsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.FailToConnectWith(func() error {
		return &outrelay.Error{Class: outrelay.ErrConfig, Code: "connection-string", Cause: "it cannot be read"}
	})
	r, stop := b.Start()
	b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if err := stop(); !errors.Is(err, outrelay.ErrConfig) {
		t.Errorf("Run: %v", err)
	}
}

func TestRelay_HaltsOfTheSourceAreFinal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.Commit([]row{order("1", "k")})
	b.DB.FailWith(func() error { return nil })
	r, stop := b.Start()
	b.Wait("the first is in", b.Drained)
	b.DB.FailWith(func() error {
		return &outrelay.Error{Class: outrelay.ErrPositionLost, Code: "wal-removed", Cause: "the WAL at 0/1 is gone", Fix: "accept the gap"}
	})
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if s := r.Status().Error; !strings.Contains(s, "0/1 is gone") || !strings.Contains(s, "accept the gap") {
		t.Errorf("status says %q", s)
	}
	if err := stop(); !errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("Run: %v", err)
	}
}

func TestRelay_SlotWithoutPositionHalts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.Initialised = true
	r, _ := b.Start()
	b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if s := r.Status().Error; !strings.Contains(s, "slot-without-position") {
		t.Errorf("status says %q", s)
	}
}

func TestRelay_LargeTransactionIsOneKafkaTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.PartRows = 10
	b.Options.GatherBytesMax = 2000
	var rows []row
	for i := range 500 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	b.DB.Commit([]row{order("before", "k")}, rows, []row{order("after", "k")})
	b.Options.Partitions = 1
	b.Start()
	b.Wait("all is in", func() bool {
		if n := len(b.Read("outbox.event.order")); n > 1 && n < 501 {
			t.Fatalf("%d records are visible inside a large transaction", n)
		}
		return b.Drained()
	})
	b.CheckExactlyOnce()
}

func TestRelay_LargeTransactionRestartsWhole(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.PartRows = 10
	b.Options.GatherBytesMax = 1000
	var rows []row
	for i := range 300 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	n := 0
	b.DB.FailWith(func() error {
		if n++; n == 15 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	})
	b.DB.Commit(rows)
	b.Start()
	b.Wait("all is in", b.Drained)
	b.CheckExactlyOnce()
}

func TestRelay_TooLargeTransactionIsSplitAndResumesInside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.DB.PartRows = 10
	b.Options.GatherBytesMax = 1000
	b.Options.LargeBytesMax = 8000
	var rows []row
	for i := range 400 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	n := 0
	b.DB.FailWith(func() error {
		if n++; n%25 == 0 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	})
	inside := 0
	b.DB.OnConfirm = func(p outrelay.Position) {
		if relaytest.PlaceOf(t, p).Rows > 0 {
			inside++
		}
	}
	b.DB.Commit(rows, []row{order("after", "k")})
	b.Start()
	b.Wait("all is in", b.Drained)
	b.CheckExactlyOnce()
	if inside == 0 {
		t.Error("the transaction was not split")
	}
}

func TestRelay_IdleSourceCommitsAPositionAloneAtMostEvery10s(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	b.Options.Clock = fake
	b.DB.Bare = true
	b.Start()
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	count := func() int { return len(b.Read(kafka.PositionsTopic)) }
	before := count()
	// A transaction of other tables: the source moves on without events.
	b.DB.Commit([]row{})
	fake.Advance(9 * time.Second)
	if got := count(); got != before {
		t.Fatalf("%d position records after 9 s, want %d", got, before)
	}
	b.Wait("the timer stands", func() bool { fake.Advance(time.Second); return b.Drained() })
	if got := count(); got != before+1 {
		t.Errorf("%d position records, want %d", got, before+1)
	}
	b.Wait("the source heard of it", func() bool { return b.DB.Confirmed().Token == `{"n":2}` })
}

func TestRelay_UnroutableRowHaltsAndWhatCameBeforeIsIn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	bad := order("bad", "k")
	bad.Topic = "no/topic"
	b.DB.Commit([]row{order("1", "k")}, []row{order("2", "k"), bad}, []row{order("3", "k")})
	r, _ := b.Start()
	b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	for _, part := range []string{"public.outbox", "0/2", "bad", "dead_letter", "[bad-topic]"} {
		if s := r.Status().Error; !strings.Contains(s, part) {
			t.Errorf("status %q does not name %s", s, part)
		}
	}
	if got := b.Read("outbox.event.order"); len(got) != 1 || relaytest.Header(got[0], "id") != "1" {
		t.Errorf("log has %d records, want the transaction before alone", len(got))
	}
	p, _, _ := relay.ReadPosition(context.Background(), b.Client, kafka.PositionsTopic, "shop")
	if relaytest.PlaceOf(t, p.Position).N != 1 {
		t.Errorf("position %s, want before the bad row's transaction", p.Position.Token)
	}
}

func TestRelay_DeadLetterTakesTheRowAndGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.OnUnroutable = relay.UnroutableDeadLetter
	b.Options.RecordBytesMax = 10_000
	bad, long := order("bad", "k"), order("long", "k")
	bad.Topic, long.Payload = "no/topic", strings.Repeat("x", 20_000)
	b.DB.Commit([]row{order("1", "k"), bad, order("2", "k")}, []row{long, order("3", "k")})
	r, _ := b.Start()
	b.Wait("all is in", b.Drained)
	var ids []string
	for _, rec := range b.Read("outbox.event.order") {
		ids = append(ids, relaytest.Header(rec, "id"))
	}
	if fmt.Sprint(ids) != "[1 2 3]" {
		t.Errorf("log has %v", ids)
	}
	dead := b.Read("shop.dlq")
	if len(dead) != 2 || relaytest.Header(dead[0], relay.HeaderDLQReason) != "bad-topic" || string(dead[0].Value) != bad.Payload || relaytest.Header(dead[0], "id") != "bad" ||
		relaytest.Header(dead[0], relay.HeaderDLQTopic) != "outbox.event.no/topic" || relaytest.Header(dead[0], relay.HeaderDLQTable) != "public.outbox" {
		t.Fatalf("dead letters %v", dead)
	}
	if relaytest.Header(dead[1], relay.HeaderDLQReason) != "record-too-large" || relaytest.Header(dead[1], relay.HeaderDLQPayload) != "20000" || dead[1].Value != nil {
		t.Errorf("dead letter of a row over the limit: %v", dead[1])
	}
	if st := r.Status(); st.DeadLetters != 2 || st.Events != 5 {
		t.Errorf("status %+v", st)
	}
}

func TestRelay_AutoCreateOffHalts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.Tables = []relay.Table{{NoAutoCreate: true}}
	b.DB.Commit([]row{order("1", "k")})
	r, _ := b.Start()
	b.Wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if s := r.Status().Error; !strings.Contains(s, "outrelay topics create outbox.event.order") {
		t.Errorf("status %q", s)
	}
}

func TestRelay_IndexPairsPlacesWithOffsets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.IndexBytes = 1 // a pair after each transaction
	for round := range 2 {
		_, stop := b.Start()
		for i := range 10 {
			b.DB.Commit([]row{order(fmt.Sprint(round, "-", i), fmt.Sprint(i))})
			b.Wait("it is in", b.Drained)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	// What stands at or above the offsets of a pair must hold every event after its position.
	all := b.Read("outbox.event.order")
	index := b.Read(kafka.IndexTopic)
	if len(index) < 15 {
		t.Fatalf("%d index records", len(index))
	}
	next := map[outrelay.TopicPartition]int64{}
	for i, rec := range index {
		if string(rec.Key) != "shop" {
			t.Fatalf("key %q", rec.Key)
		}
		x, err := relay.ParseIndex(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && !x.Full {
			t.Error("the first record of a new index is not full")
		}
		if x.IDs["outbox.event.order"] == ([16]byte{}) {
			t.Error("no topic id")
		}
		for tp, n := range x.Next {
			next[tp] = n
		}
		for _, rec := range all {
			var n int
			if _, err := fmt.Sscanf(relaytest.Header(rec, kafka.HeaderPlace), "0/%X", &n); err != nil {
				t.Fatal(err)
			}
			after := n > relaytest.PlaceOf(t, x.Position).N
			if after && rec.Offset < next[outrelay.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}] {
				t.Errorf("index at %s: event at 0/%X has offset %d, below next %d", x.Place, n, rec.Offset, next[outrelay.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}])
			}
		}
	}
}

func TestRelay_KeysGoWhereTheJavaClientPutsThem(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.Partitions = 16
	var rows []row
	for i := range 100 {
		rows = append(rows, order(fmt.Sprint(i), fmt.Sprint("key-", i)))
	}
	null := order("null", "NULL")
	b.DB.Commit(append(rows, null))
	b.Start()
	b.Wait("all is in", b.Drained)
	for _, rec := range b.Read("outbox.event.order") {
		if rec.Key == nil {
			continue
		}
		if want := kafka.PartitionOf(rec.Key, 16); rec.Partition != want {
			t.Errorf("key %s is in partition %d, want %d", rec.Key, rec.Partition, want)
		}
	}
}

func TestRelay_OpenTransactionOfAnotherSourceDelaysTheStartOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, stop := b.Start()
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	other, err := kafka.NewClient(b.Options.Kafka, kgo.TransactionalID("outrelay-other"), kgo.RecordPartitioner(kafka.Partitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	rec := &kgo.Record{Topic: kafka.PositionsTopic, Partition: relay.PositionPartition("shop"), Key: []byte("other"), Value: []byte("{}")}
	if err := other.ProduceSync(context.Background(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	opens := b.DB.Opens()
	r, _ := b.Start()
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("it reads its position", func() bool { return r.Status().State == relay.StateStarting })
	if err := other.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	b.Wait("all is in", b.Drained)
	if n := b.DB.Opens() - opens; n != 1 {
		t.Errorf("the source was opened %d times", n)
	}
	b.CheckExactlyOnce()
}

// TestRelay_ATransactionCostsOneProduceAndOneEndTxn: events and position share a request, and nothing else is asked, since this is what a
// single transaction waits for.
func TestRelay_ATransactionCostsOneProduceAndOneEndTxn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Options.IndexEvery = time.Hour
	heard := make(chan struct{}, 1)
	b.DB.OnConfirm = func(outrelay.Position) { heard <- struct{}{} }
	b.Start()
	b.DB.Commit([]row{order("warm", "k")})
	<-heard
	var mu sync.Mutex
	asked := map[int16]int{}
	b.log.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.log.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		asked[req.Key()]++
		return nil, nil, false
	})
	const n = 20
	for i := range n {
		b.DB.Commit([]row{order(fmt.Sprint(i), "k"), order(fmt.Sprint(i, "b"), "l")})
		<-heard
	}
	mu.Lock()
	defer mu.Unlock()
	for key, want := range map[int16]int{0: n, 26: n, 22: 0, 24: 0} {
		if asked[key] != want {
			t.Errorf("%d requests of key %d, want %d", asked[key], key, want)
		}
	}
}
