package relay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// confirmedOnlyWhatIsIn fails the test when the source is confirmed something that the log does not hold yet.
func confirmedOnlyWhatIsIn(t *testing.T, b *bench) {
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
}

func TestRelay_MovesTransactionsAndConfirmsWhatIsInTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	confirmedOnlyWhatIsIn(t, b)
	r, stop := b.start()
	for i := range 50 {
		b.db.commit([]row{order(fmt.Sprint(i, "a"), "1"), order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
	}
	b.wait("the log holds everything", b.drained)
	b.wait("the source heard of it", func() bool { p, _ := b.db.lastConfirmed(); return p.Token == `{"n":50}` })
	b.checkExactlyOnce()
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
		_, stop := b.start()
		for i := range 7 {
			b.db.commit([]row{order(fmt.Sprint(round, i), fmt.Sprint(i%3))})
		}
		b.wait("the round is in", b.drained)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	b.checkExactlyOnce()
	p, ok, err := relay.ReadPosition(context.Background(), b.cl, "shop")
	if err != nil || !ok || p.Events != 35 {
		t.Errorf("position %+v %v %v", p, ok, err)
	}
}

func TestRelay_NewerRelayFencesTheOlder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	older, stopOlder := b.start()
	b.db.commit([]row{order("1", "k")})
	b.wait("the first is in", b.drained)
	newer, _ := b.start()
	b.wait("the newer runs", func() bool { return newer.Status().State == relay.StateRunning })
	for i := 2; i < 20; i++ {
		b.db.commit([]row{order(fmt.Sprint(i), "k")})
	}
	b.wait("all is in", b.drained)
	b.wait("the older knows", func() bool { return older.Status().State == relay.StateFenced })
	if err := stopOlder(); !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the older's Run: %v, want ErrFenced", err)
	}
	b.checkExactlyOnce()
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
			confirmedOnlyWhatIsIn(t, b)
			b.start()
			b.db.commit([]row{order("first", "k")})
			b.wait("the first is in", b.drained)
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
				b.db.commit([]row{order(fmt.Sprint(i), "k"), order(fmt.Sprint(i, "b"), fmt.Sprint(i))})
				b.wait("all is in", b.drained)
			}
			b.checkExactlyOnce()
		})
	}
}

func TestRelay_SourceErrorsReopenIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := 0
	b.db.fail = func() error {
		if n++; n%5 == 0 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	}
	r, _ := b.start()
	for i := range 30 {
		b.db.commit([]row{order(fmt.Sprint(i), "k")})
	}
	b.wait("all is in", b.drained)
	b.checkExactlyOnce()
	if r.Status().Reconnects == 0 {
		t.Error("no reconnect was counted")
	}
}

func TestRelay_HaltsOfTheSourceAreFinal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.db.commit([]row{order("1", "k")})
	b.db.fail = func() error { return nil }
	r, stop := b.start()
	b.wait("the first is in", b.drained)
	b.db.mu.Lock()
	b.db.fail = func() error {
		return &outrelay.Error{Class: outrelay.ErrPositionLost, Code: "wal-removed", Cause: "the WAL at 0/1 is gone", Fix: "accept the gap"}
	}
	b.db.mu.Unlock()
	b.db.commit([]row{order("2", "k")})
	b.wait("halted", func() bool { return r.Status().State == relay.StateHalted })
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
	b.db.inited = true
	r, _ := b.start()
	b.wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if s := r.Status().Error; !strings.Contains(s, "slot-without-position") {
		t.Errorf("status says %q", s)
	}
}

func TestRelay_LargeTransactionIsOneKafkaTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.db.partRows = 10
	b.o.GatherBytesMax = 2000
	var rows []row
	for i := range 500 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	b.db.commit([]row{order("before", "k")}, rows, []row{order("after", "k")})
	b.o.Partitions = 1
	b.start()
	b.wait("all is in", func() bool {
		if n := len(b.read("outbox.event.order")); n > 1 && n < 501 {
			t.Fatalf("%d records are visible inside a large transaction", n)
		}
		return b.drained()
	})
	b.checkExactlyOnce()
}

func TestRelay_LargeTransactionRestartsWhole(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.db.partRows = 10
	b.o.GatherBytesMax = 1000
	var rows []row
	for i := range 300 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	n := 0
	b.db.fail = func() error {
		if n++; n == 15 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	}
	b.db.commit(rows)
	b.start()
	b.wait("all is in", b.drained)
	b.checkExactlyOnce()
}

func TestRelay_TooLargeTransactionIsSplitAndResumesInside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.db.partRows = 10
	b.o.GatherBytesMax = 1000
	b.o.LargeBytesMax = 8000
	var rows []row
	for i := range 400 {
		rows = append(rows, order(fmt.Sprint("big", i), fmt.Sprint(i%7)))
	}
	n := 0
	b.db.fail = func() error {
		if n++; n%25 == 0 {
			return fmt.Errorf("connection lost: %w", outrelay.ErrTransient)
		}
		return nil
	}
	inside := 0
	b.db.onConfirm = func(p outrelay.Position) {
		if placeOf(t, p).Rows > 0 {
			inside++
		}
	}
	b.db.commit(rows, []row{order("after", "k")})
	b.start()
	b.wait("all is in", b.drained)
	b.checkExactlyOnce()
	if inside == 0 {
		t.Error("the transaction was not split")
	}
}

func TestRelay_IdleSourceCommitsAPositionAloneAtMostEvery10s(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	b.o.Clock = fake
	b.db.bare = true
	b.start()
	b.db.commit([]row{order("1", "k")})
	b.wait("the first is in", b.drained)
	count := func() int { return len(b.read(kafka.PositionsTopic)) }
	before := count()
	// A transaction of other tables: the source moves on without events.
	b.db.commit([]row{})
	fake.Advance(9 * time.Second)
	if got := count(); got != before {
		t.Fatalf("%d position records after 9 s, want %d", got, before)
	}
	b.wait("the timer stands", func() bool { fake.Advance(time.Second); return b.drained() })
	if got := count(); got != before+1 {
		t.Errorf("%d position records, want %d", got, before+1)
	}
	b.wait("the source heard of it", func() bool { p, _ := b.db.lastConfirmed(); return p.Token == `{"n":2}` })
}

func TestRelay_UnroutableRowHaltsAndWhatCameBeforeIsIn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	bad := order("bad", "k")
	bad.topic = "no/topic"
	b.db.commit([]row{order("1", "k")}, []row{order("2", "k"), bad}, []row{order("3", "k")})
	r, _ := b.start()
	b.wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	for _, part := range []string{"public.outbox", "0/2", "bad", "dead_letter", "[bad-topic]"} {
		if s := r.Status().Error; !strings.Contains(s, part) {
			t.Errorf("status %q does not name %s", s, part)
		}
	}
	if got := b.read("outbox.event.order"); len(got) != 1 || header(got[0], "id") != "1" {
		t.Errorf("log has %d records, want the transaction before alone", len(got))
	}
	p, _, _ := relay.ReadPosition(context.Background(), b.cl, "shop")
	if placeOf(t, p.Position).N != 1 {
		t.Errorf("position %s, want before the bad row's transaction", p.Position.Token)
	}
}

func TestRelay_DeadLetterTakesTheRowAndGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.o.OnUnroutable = relay.UnroutableDeadLetter
	b.o.RecordBytesMax = 10_000
	bad, long := order("bad", "k"), order("long", "k")
	bad.topic, long.payload = "no/topic", strings.Repeat("x", 20_000)
	b.db.commit([]row{order("1", "k"), bad, order("2", "k")}, []row{long, order("3", "k")})
	r, _ := b.start()
	b.wait("all is in", b.drained)
	var ids []string
	for _, rec := range b.read("outbox.event.order") {
		ids = append(ids, header(rec, "id"))
	}
	if fmt.Sprint(ids) != "[1 2 3]" {
		t.Errorf("log has %v", ids)
	}
	dead := b.read("shop.dlq")
	if len(dead) != 2 || header(dead[0], relay.HeaderDLQReason) != "bad-topic" || string(dead[0].Value) != bad.payload || header(dead[0], "id") != "bad" ||
		header(dead[0], relay.HeaderDLQTopic) != "outbox.event.no/topic" || header(dead[0], relay.HeaderDLQTable) != "public.outbox" {
		t.Fatalf("dead letters %v", dead)
	}
	if header(dead[1], relay.HeaderDLQReason) != "record-too-large" || header(dead[1], relay.HeaderDLQPayload) != "20000" || dead[1].Value != nil {
		t.Errorf("dead letter of a row over the limit: %v", dead[1])
	}
	if st := r.Status(); st.DeadLetters != 2 || st.Events != 5 {
		t.Errorf("status %+v", st)
	}
}

func TestRelay_AutoCreateOffHalts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.o.Tables = []relay.Table{{NoAutoCreate: true}}
	b.db.commit([]row{order("1", "k")})
	r, _ := b.start()
	b.wait("halted", func() bool { return r.Status().State == relay.StateHalted })
	if s := r.Status().Error; !strings.Contains(s, "outrelay topics create outbox.event.order") {
		t.Errorf("status %q", s)
	}
}

func TestRelay_IndexPairsPlacesWithOffsets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.o.IndexBytes = 1 // a pair after each transaction
	for round := range 2 {
		_, stop := b.start()
		for i := range 10 {
			b.db.commit([]row{order(fmt.Sprint(round, "-", i), fmt.Sprint(i))})
			b.wait("it is in", b.drained)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	// What stands at or above the offsets of a pair must hold every event after its position.
	all := b.read("outbox.event.order")
	index := b.read(kafka.IndexTopic)
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
			if _, err := fmt.Sscanf(header(rec, kafka.HeaderPlace), "0/%X", &n); err != nil {
				t.Fatal(err)
			}
			after := n > placeOf(t, x.Position).N
			if after && rec.Offset < next[outrelay.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}] {
				t.Errorf("index at %s: event at 0/%X has offset %d, below next %d", x.Place, n, rec.Offset, next[outrelay.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}])
			}
		}
	}
}

func TestRelay_KeysGoWhereTheJavaClientPutsThem(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.o.Partitions = 16
	var rows []row
	for i := range 100 {
		rows = append(rows, order(fmt.Sprint(i), fmt.Sprint("key-", i)))
	}
	null := order("null", "NULL")
	b.db.commit(append(rows, null))
	b.start()
	b.wait("all is in", b.drained)
	for _, rec := range b.read("outbox.event.order") {
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
	_, stop := b.start()
	b.db.commit([]row{order("1", "k")})
	b.wait("the first is in", b.drained)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	other, err := kafka.NewClient(b.o.Kafka, kgo.TransactionalID("outrelay-other"), kgo.RecordPartitioner(kafka.Partitioner()))
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
	b.db.mu.Lock()
	opens := b.db.opens
	b.db.mu.Unlock()
	r, _ := b.start()
	b.db.commit([]row{order("2", "k")})
	b.wait("it reads its position", func() bool { return r.Status().State == relay.StateStarting })
	if err := other.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	b.wait("all is in", b.drained)
	b.db.mu.Lock()
	if b.db.opens != opens+1 {
		t.Errorf("the source was opened %d times", b.db.opens-opens)
	}
	b.db.mu.Unlock()
	b.checkExactlyOnce()
}
